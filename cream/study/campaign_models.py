"""A campaign's models: what a list names, what each is called, and who takes which.

`original`, `scaled:SCALING:SCALE`, `adapter:FOLDER`, or METHOD:SCALING:SCALE:SEED with changes of
its own behind it; `campaign` says what they mean. What belongs here: names and locks alone, nothing
that loads or trains a model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cream.evaluation.adapters import ADAPTER
from cream.utils.files import atomic_write

__all__ = ["Job", "claimed", "finish", "jobs"]


@dataclass(frozen=True)
class Job:
    """One model of a campaign: the base as it is or scaled, an adapter, or a run to be trained."""

    method: str
    scaling: str | None = None
    scale: int | None = None
    seed: int | None = None
    changes: tuple[tuple[str, object], ...] = ()  # fields of this run alone
    folder: str | None = None  # of an adapter, below root

    @property
    def trained(self) -> bool:
        """Whether the model is a run of ours."""
        return self.seed is not None

    @property
    def name(self) -> str:
        """A file name that no other job of a campaign has."""
        if self.folder is not None:
            folder = Path(self.folder)
            return f"adapter-{folder.parent.name if folder.name == 'adapter' else folder.name}"
        parts = [self.method, self.scaling, self.scale and str(self.scale)]
        seed = [f"seed{self.seed}"] if self.trained else []
        changed = [f"{field}-{value}" for field, value in self.changes]
        return "-".join([part for part in parts if part] + seed + changed)

    @property
    def fields(self) -> dict[str, object]:
        """The fields of the run: method, scaling, scale, seed, and what stands after a plus."""
        scaling, *flags = (self.scaling or "").split("+")
        about = {"method": self.method, "scaling": scaling, "scale": self.scale, "seed": self.seed}
        return {**about, **({"scaling_options": dict.fromkeys(flags, True)} if flags else {})}

    def run_fields(self, changes: Mapping[str, object]) -> dict[str, object]:
        """Return all fields of the run: its own, `changes` of every run, and those of it alone.

        A.B is the option B of the field A, beside what else is changed of that field. The preset's
        own options of a field that is changed do not apply.
        """
        found = dict(self.fields)
        for name, value in [*changes.items(), *self.changes]:
            field, _, option = name.partition(".")
            value, before = {option: value} if option else value, found.get(field)
            both = isinstance(value, dict) and isinstance(before, dict)
            found[field] = {**before, **value} if both else value
        return found

    def evaluation_name(self, out: str) -> str:
        """Name the model as evaluations name it."""
        if self.trained:
            return f"{out}/{self.name}"
        if self.folder is not None:
            return f"{ADAPTER}{self.folder}"
        return ":".join(str(x) for x in (self.method, self.scaling, self.scale) if x is not None)


def jobs(models: str) -> list[Job]:
    """Read a list of models; ValueError says which is no model, or is there twice."""
    found = [_job(each.strip()) for each in models.split(",") if each.strip()]
    if not found:
        raise ValueError("models names no model: use for example original,cream:yarn:8:0")
    names = [each.name for each in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"models names {twice[0]} twice")
    return found


def _job(name: str) -> Job:
    parts = name.split(":")
    changed = [part for part in parts[4:] if part.partition("=")[2]]
    parts = [part for part in parts if part not in changed]
    if name == "original":
        return Job(name)
    if parts[0] == "adapter" and len(parts) == 2 and parts[1]:
        return Job("adapter", folder=parts[1])
    numbers = all(part.isdecimal() for part in parts[2:])
    if parts[0] == "scaled" and len(parts) == 3 and numbers:
        return Job("scaled", parts[1], int(parts[2]))
    if parts[0] not in ("original", "scaled", "adapter") and len(parts) == 4 and numbers:
        return Job(parts[0], parts[1], int(parts[2]), int(parts[3]), tuple(map(_change, changed)))
    raise ValueError(
        f"{name!r} is no model: write original, scaled:SCALING:SCALE, adapter:FOLDER or "
        "METHOD:SCALING:SCALE:SEED, for example cream:yarn:8:0, and after it FIELD=VALUE for "
        "fields of that run alone, for example cream:yarn:8:0:float8=tensorwise or "
        "cream:yarn:8:0:sampler_options.middle=uniform"
    )


def _change(text: str) -> tuple[str, object]:
    """Read FIELD=VALUE, a value as JSON or else as text."""
    field, _, value = text.partition("=")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def claimed(wanted: Sequence[Job], locks: Path, asked: Collection[str] = ()) -> Iterator[Job]:
    """Yield the jobs that no other process has, or has asked all of `asked`, in order, each held.

    Who gets one says in `finish` that it was asked these.
    """
    locks.mkdir(parents=True, exist_ok=True)
    for job in wanted:
        done = locks / f"{job.name}.done"
        with contextlib.suppress(Timeout), FileLock(locks / f"{job.name}.lock", timeout=0):
            if not done.exists() or set(asked) - set(done.read_text().split()):
                yield job


def finish(job: Job, locks: Path, asked: Collection[str]) -> None:
    """Write down that a job was asked all of `asked`, names without spaces."""
    done = locks / f"{job.name}.done"
    before = done.read_text().split() if done.exists() else []
    atomic_write(done, "\n".join(dict.fromkeys([*before, *asked])) + "\n")
