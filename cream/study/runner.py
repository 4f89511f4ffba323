"""Many runs as one resumable command: several at a time on each card, in shards, to a deadline.

    python -m cream.study prepare --out runs/grid                    # corpora, once, without a GPU
    python -m cream.study recipe  --out runs/grid --rows recipe.jsonl --recipe recipe.json
    python -m cream.study primary --out runs/grid --bases data/miniature,runs/bases/seed1 \
        --rows primary.jsonl --recipe recipe.json --shard 0/2 --processes 4 --minutes 8
    python -m cream.study merge recipe.jsonl primary.jsonl --out data/results/grid.parquet

Plans are in `design`. A run whose record is in --rows or in one of --done is not run again; no run
begins after --minutes; a killed grid, started again, goes on. Every card that is seen gets
--processes workers; with NVIDIA's MPS started before (`nvidia-cuda-mps-control -d`) their kernels
run side by side. What belongs here: the command and its processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import queue
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from cream import models
from cream.data import mixture
from cream.data.corpus import open_corpus, tokenizer_hash
from cream.evaluation.model_spec import device_name
from cream.study import conditions
from cream.study import records as study_records
from cream.study.design import (
    CHOOSING,
    PLANS,
    WITHOUT_RECIPES,
    Recipe,
    Recipes,
    Run,
    choose,
    groups,
    plan,
)
from cream.study.records import RunLog, records
from cream.study.scoring import SETS, Questions, build, store, stored
from cream.study.worker import Setting, Worker
from cream.utils.files import atomic_write
from cream.utils.provenance import commit, hash_of, versions

__all__ = [
    "main",
    "merge",
    "prepare",
    "read_recipes",
    "run",
    "setting",
]

# Where the recipes of a plan stand; those of all others in recipe.json.
RECIPE_FILES = dict.fromkeys(("dense-recipe", "dense"), "recipe_dense.json")
GRACE = 60  # seconds for runs that are under way at the deadline
FAILURES = 3  # in a row, after which a worker gives up
log = logging.getLogger(__name__)


def prepare(
    out: Path,
    base: str,
    cache: str = "runs/sources",
    conditions: Sequence[str] = conditions.CONDITIONS,
) -> dict[str, str]:
    """Make the corpora of the conditions, or find them there; return their folders."""
    tokenizer, found = models.load_tokenizer(base), {}
    for condition in conditions:
        folder = out / "corpora" / condition
        mixture.prepare(mixture.RECIPES[f"grid-{condition}"], tokenizer, folder, cache)
        found[condition] = str(folder)
    return found


def setting(
    out: Path,
    bases: Sequence[str],
    asked: Sequence[str],
    cache: str,
    graphs: bool = True,
    compiled: bool | None = None,
    conditions: Sequence[str] = conditions.CONDITIONS,
) -> Setting:
    """Gather what the workers need; ValueError for bases that are not of one kind."""
    # Questions take their text from the corpus of text, whatever is trained on.
    corpora = prepare(out, bases[0], cache, list(dict.fromkeys(["text", *conditions])))
    tokenizer = models.load_tokenizer(bases[0])
    first = tokenizer_hash(tokenizer)
    windows = {base: models.describe(AutoConfig.from_pretrained(base))["window"] for base in bases}
    for base in bases:
        if tokenizer_hash(models.load_tokenizer(base)) != first:
            raise ValueError(f"{base} has another tokenizer than {bases[0]}: no question fits both")
        if windows[base] != windows[bases[0]]:
            raise ValueError(f"{base} has a window of {windows[base]}, not {windows[bases[0]]}")
    questions = _questions(out, asked, bases[0])
    return Setting(
        bases={Path(base).name: str(base) for base in bases},
        base_hashes={Path(base).name: models.weights_hash(base) for base in bases},
        corpora=corpora,
        corpus_hashes={c: open_corpus(f).manifest["recipe_hash"] for c, f in corpora.items()},
        questions=questions,
        question_hashes={name: each.hash for name, each in questions.items()},
        graphs=graphs,
        compiled=compiled,
    )


def _questions(out: Path, asked: Sequence[str], base: str) -> dict[str, Questions]:
    """Build sets of questions, or read those built before: long ones take half a minute."""
    tokenizer, corpus = models.load_tokenizer(base), open_corpus(out / "corpora" / "text")
    window = models.describe(AutoConfig.from_pretrained(base))["window"]
    found = {}
    for name in dict.fromkeys(conditions.asked_as(each)[0] for each in asked):
        of = (str(SETS[name]), tokenizer_hash(tokenizer), corpus.manifest["recipe_hash"], window)
        path = out / f"questions-{name}-{hash_of(*of)}.json.xz"
        if not path.is_file():
            store(build(name, tokenizer, window, corpus.path), path)
        found[name] = stored(path)
    return {each: found[conditions.asked_as(each)[0]] for each in asked}


# ------------------------------------------------------------------------------- processes


def _devices() -> list[str]:
    return [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["cpu"]


def _work(settings: object, device: str, tasks: object, results: object, deadline: float) -> None:
    """One process: take groups of runs until there are none or it is too late."""
    setting = dataclasses.replace(settings.get(), device=device)
    disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if setting.device != "cpu":
        torch.cuda.set_device(setting.device)
    measuring, failed = Worker(setting), 0
    results.put(("ready", setting.device, None))
    for each in (one for group in iter(tasks.get, None) for one in group):
        if time.time() > deadline or failed >= FAILURES or not _parent_lives():
            break
        try:
            results.put(("done", each, measuring.measure(each)))
            failed = 0
        except Exception:
            failed += 1
            results.put(("failed", each, traceback.format_exc(limit=-6)))
            torch.cuda.empty_cache()
    results.put(("ended", setting.device, None))


def _parent_lives() -> bool:
    """Whether there is still a process that writes down what is found."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def run(
    todo: Sequence[Sequence[Run]],
    setting: Setting,
    rows: RunLog,
    processes: int = 1,
    minutes: float = 8.0,
) -> Counter:
    """Run groups of runs with `processes` workers a card; return how many were done and failed.

    Records are written here, as they come. Workers that are still busy a minute after the deadline
    are ended: what they were doing is not recorded, and is done by the next call.
    """
    deadline, counted = time.time() + 60 * minutes, Counter()
    # A step has few kernels and there are many workers: helpers of each would only wait.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    # Handed over by a queue: as an argument, large as it is, it would have each start wait until
    # the process before had imported everything.
    settings, tasks, results = context.Queue(), context.Queue(), context.Queue()
    for each in (settings, tasks):
        each.cancel_join_thread()  # what nobody took by the deadline is not waited for
    devices = _devices()
    places = [devices[k % len(devices)] for k in range(processes * len(devices))]
    places = places[: max(1, len(todo))]
    for group in todo:
        tasks.put(list(group))
    for _ in places:
        tasks.put(None)
        settings.put(setting)
    workers = [
        context.Process(
            target=_work,
            args=(settings, place, tasks, results, deadline),
            daemon=True,
        )
        for place in places
    ]
    for worker in workers:
        worker.start()
    try:
        for kind, what, found in _messages(results, workers, deadline + GRACE):
            counted[kind] += 1
            if kind == "done":
                rows.append(found)
            _print_progress(kind, what, found, counted, sum(map(len, todo)))
    finally:
        for worker in workers:
            worker.terminate()
            worker.join(10)
    return counted


def _messages(results: object, workers: Sequence, until: float) -> Iterator[tuple]:
    """What workers say, until all have ended or it is too late."""
    ended = 0
    while ended < len(workers) and time.time() < until:
        try:
            message = results.get(timeout=1.0)
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                return
            continue
        ended += message[0] == "ended"
        yield message


def _print_progress(kind: str, what: object, found: object, counted: Counter, total: int) -> None:
    now = datetime.now(UTC).strftime("%H:%M:%S")
    if kind == "failed":
        print(f"{now} FAILED {what}\n{found}", flush=True)
    elif kind == "done" and (counted["done"] % 10 == 1 or counted["done"] == total):
        named = f"{what.condition} {what.variant} {what.scaling} {what.base} seed {what.seed}"
        seconds = f"{found['train_seconds']} s training ({found['step']}), {found['ask_seconds']} s"
        print(f"{now} {counted['done']} of {total}: {named}, {seconds} asking", flush=True)
    elif kind in ("ready", "ended"):
        print(f"{now} worker on {what} {kind}", flush=True)


# ------------------------------------------------------------------------------- files


def merge(
    files: Sequence[str | Path], out: Path, parquet: str | Path, base: str, cache: str
) -> Path:
    """Unfold the records of files into one Parquet file of answers."""
    found = records(*files)
    prepare(out, base, cache, ["text"])
    tokenizer = models.load_tokenizer(base)
    questions = _questions(out, sorted({each["asked"] for each in found}), base)
    return study_records.write(study_records.unfold(found, questions, tokenizer), parquet)


def write_recipes(
    files: Sequence[Path], setting_: Setting, path: Path, name: str = "recipe"
) -> Recipes:
    """Choose the recipes from a plan's finished runs and write them with their evidence."""
    found = [each for each in records(*files) if each["plan"] == name]
    tokenizer = models.load_tokenizer(next(iter(setting_.bases.values())))
    frame = study_records.unfold(found, setting_.questions, tokenizer)
    chosen, table = choose(frame, name)
    listed = [{"condition": c, "scaling": s, **vars(one)} for (c, s), one in chosen.items()]
    text = {"rule": choose.__doc__, "recipes": listed, "evidence": table.to_dict("records"),
            "commit": commit(), "versions": versions()}  # fmt: skip
    atomic_write(path, json.dumps(text, indent=1) + "\n")
    print(table.to_string(index=False), flush=True)
    return chosen


def read_recipes(path: str | Path = "data/results/recipe.json") -> Recipes:
    """Read the recipes that the plan "recipe" chose; FileNotFoundError says how to get them."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {path}: run python -m cream.study recipe before")
    listed = json.loads(Path(path).read_text(encoding="utf-8"))["recipes"]
    return {
        (one["condition"], one["scaling"]): Recipe(one["steps"], one["learning_rate"])
        for one in listed
    }


# ------------------------------------------------------------------------------- command


def _shard(text: str) -> tuple[int, int]:
    try:
        number, of = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be like 0/4") from None
    if not 0 <= number < of:
        raise argparse.ArgumentTypeError(f"{text!r}: shards of {of} are 0 to {of - 1}")
    return number, of


def _seeds(text: str) -> list[int]:
    try:
        first, _, last = text.partition("-")
        return list(range(int(first), int(last or first) + 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be like 0-7") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cream.study", description=main.__doc__)
    parser.add_argument("what", choices=[*PLANS, "prepare", "choose", "merge"])
    parser.add_argument("files", nargs="*", type=Path, help="files of records, to merge or choose")
    parser.add_argument("--out", default="runs/grid", type=Path,
                        help="folder of the corpora; of merge, the Parquet file")  # fmt: skip
    parser.add_argument("--corpora", type=Path, default=None, help="their folder, for merge")
    parser.add_argument("--cache", default="runs/sources", help="downloaded archives")
    parser.add_argument("--bases", default="data/miniature", help="folders, with commas")
    parser.add_argument("--seeds", default="0-7", type=_seeds)
    parser.add_argument("--rows", type=Path, help="the file that records are appended to")
    parser.add_argument("--done", nargs="*", default=[], type=Path, help="records of other calls")
    parser.add_argument(
        "--recipe", type=Path, help="file of the recipes; by default the plan's in data/results"
    )
    parser.add_argument("--shard", default="0/1", type=_shard)
    parser.add_argument("--processes", default=4, type=int, help="workers a card")
    parser.add_argument("--minutes", default=8.0, type=float, help="no run begins after these")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs, nothing compiled")
    parser.add_argument("--no-compile", action="store_true", help="CUDA graphs of stock kernels")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a plan of the grid, or prepare, choose or merge."""
    began, given = time.time(), _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    bases = given.bases.split(",")
    try:
        if given.what in ("choose", "merge"):
            _check_files(given)
        if given.what == "prepare":
            every = (*conditions.CONDITIONS, *conditions.DENSE)
            print(prepare(given.out, bases[0], given.cache, every))
            _questions(given.out, list(SETS), bases[0])
        elif given.what == "merge":
            place = given.corpora or Path("runs/grid")
            print(merge(given.files, place, given.out, bases[0], given.cache))
        elif given.what == "choose":
            known = setting(given.out, bases[:1], ["validation"], given.cache)
            write_recipes(given.files, known, given.recipe or Path("data/results/recipe.json"))
        else:
            _plan(given, bases, began)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{given.what}: {error}")


def _check_files(given: argparse.Namespace) -> None:
    """Refuse what merge and choose cannot read or write, before a corpus is made."""
    if not given.files:
        raise ValueError(f"name the files of records, as in {given.what} runs/grid/primary.jsonl")
    records(*given.files)
    if given.what == "merge" and given.out.suffix != ".parquet":
        raise ValueError(f"--out is {given.out}: name the Parquet file to write, NAME.parquet")


def _plan(given: argparse.Namespace, bases: Sequence[str], began: float) -> None:
    names = [Path(base).name for base in bases]
    path = given.recipe or Path("data/results") / RECIPE_FILES.get(given.what, "recipe.json")
    recipes = None if given.what in WITHOUT_RECIPES else read_recipes(path)
    listed = plan(given.what, names, given.seeds, recipes)
    if given.rows is None:
        raise ValueError("name a file for the records with --rows")
    conditions = [c for c in dict.fromkeys(r.condition for r in listed) if c != "none"]
    known = setting(given.out, bases, sorted({r.asked for r in listed}), given.cache,
                    not given.eager, False if given.no_compile else None, conditions)  # fmt: skip
    card = device_name(torch.device(_devices()[0]))
    header = {"card": card, "versions": versions(), "commit": commit(),
              "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}  # fmt: skip
    with RunLog(given.rows, header) as rows:
        done = rows.keys | {each["key"] for each in records(*given.done)}
        todo = [
            [r for r in group if known.key(r) not in done] for group in groups(listed, given.shard)
        ]
        todo = [group for group in todo if group]
        print(f"{sum(map(len, todo))} of {len(listed)} runs to do here; ready after "
              f"{time.time() - began:.0f} s", flush=True)  # fmt: skip
        left = given.minutes - (time.time() - began) / 60
        if todo and left <= 0:
            raise ValueError(
                f"--minutes {given.minutes:g} was over before a run could begin: preparing took "
                f"{time.time() - began:.0f} s of it; give more"
            )
        counted = run(todo, known, rows, given.processes, left) if todo else Counter()
        missing = sum(map(len, todo)) - counted["done"]
    print(f"{counted['done']} done, {counted['failed']} failed, {missing} left", flush=True)
    if given.what in CHOOSING and not missing and given.shard == (0, 1):
        write_recipes([given.rows, *given.done], known, path, given.what)
