"""RULER-6 from texts to scores: how long all its questions take one model on this machine.

    python -m cream.performance ruler --preset smollm2-135m --model scaled:yarn:8 --samples 100 \\
        --lengths 4096,8192,16384,32768,65536 --answers runs/rows/ruler.jsonl

asks what 12_ruler asks, by the same functions, and says the seconds of building the prompts, of
loading the model and of answering each length. Answers are rows in `--answers`; what has a row
there is refused, since it would cost nothing. With `--rows FILE`, rows of the task speed_ruler are
appended as they come: one a length (`score`: seconds of its answers) and at the end one of all
(`score`: with prompts and loading).

What belongs here: the clock. Questions are `tasks.ruler`'s, answers `evaluation`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from cream import presets
from cream.evaluation import models as evaluation_models
from cream.evaluation.model_spec import Loaded
from cream.evaluation.runner import evaluate
from cream.inference import recorded
from cream.performance import harness
from cream.results import Rows
from cream.tasks import prompts, ruler
from cream.tasks.base import Example
from cream.utils.provenance import hash_of

__all__ = ["answered", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure RULER-6 from texts to scores, as 12_ruler asks it."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance ruler", description=main.__doc__
    )
    add = parser.add_argument
    add("--preset", default="smollm2-135m", help="whose base, style and batch size")
    add("--model", default="scaled", help="original, scaled, scaled:KIND:SCALE or a run's folder")
    add("--lengths", type=harness.numbers, default="4096,8192,16384,32768,65536", help="tokens")
    add("--samples", type=int, default=100, help="of each task and length")
    add("--seed", type=int, default=0)
    add("--answers", required=True, metavar="FILE", help="rows of answers, a file that is not yet")
    add("--computed", action="store_true", help="every step, and none recorded as a CUDA graph")
    add("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    given = parser.parse_args(arguments)
    if Path(given.answers).exists():
        parser.error(f"--answers {given.answers} exists: its questions would cost nothing; name "
                     "another file")  # fmt: skip
    said = harness.typed_command("ruler", arguments)
    try:
        _measure(given, said)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        parser.error(str(error))


def _measure(given: argparse.Namespace, said: str) -> None:
    """Build, load and answer; say and write each time."""
    setup = presets.get(given.preset)
    (spec,) = evaluation_models.find(given.model, setup.train.base, preset=given.preset)
    began = harness.now()
    building, examples = harness.timed(functools.partial(_built, given, setup))
    print(f"{len(examples):,} questions built in {building:.0f} s", flush=True)
    loading, loaded = harness.timed(spec.load)
    header = {**loaded.header, "seed": given.seed, "settings": {}}
    about = loaded.settings | {
        "command": said, "samples": given.samples, "score": "seconds", "measured": began,
    }  # fmt: skip
    lines = []
    with (
        recorded.computed() if given.computed else contextlib.nullcontext(),
        recorded.counted() as taken,
    ):
        for line in answered(loaded, examples, given.answers, setup.evaluation.batch_size):
            about["recorded_steps"] = taken.played  # so far
            print(_said(line), flush=True)
            _write(given.rows, header, about | {"of": "answers"}, line)
            lines.append(line)
    table = pd.DataFrame(lines)
    total = building + loading + table["seconds"].sum()
    print(f"{harness.card_name()}: {total:.0f} s in all, {building:.0f} of them for the prompts "
          f"and {loading:.0f} to load")  # fmt: skip
    every = {"token_length": None, "questions": len(examples), "seconds": total,
             "prompt_tokens": table["prompt_tokens"].sum(), "ruler6": None,
             "peak_gib": table["peak_gib"].max()}  # fmt: skip
    parts = {"of": "all", "building_seconds": building, "loading_seconds": loading,
             "lengths": given.lengths}  # fmt: skip
    _write(given.rows, header, about | parts, every)


def _said(line: dict[str, object]) -> str:
    held = "" if line["peak_gib"] is None else f", {line['peak_gib']:.1f} GiB"
    return (
        f"{line['token_length']:,} tokens: {line['questions']} answers in {line['seconds']:.1f} s, "
        f"mean score of the tasks {line['ruler6']:.3f}{held}"
    )


def _built(given: argparse.Namespace, setup: presets.Preset) -> list[Example]:
    """Every question, in the preset's style."""
    base = evaluation_models.base_of(setup.train.base)
    usual = prompts.default_style(setup.name, base.window)
    style = setup.evaluation.ruler_style or ("chat" if usual == "chat" else "official")
    return ruler.examples(base.tokenizer, given.lengths, given.samples, given.seed, style)


def answered(
    loaded: Loaded, examples: Sequence[Example], answers: str, batch_size: int | str = "auto"
) -> Iterator[dict[str, object]]:
    """Answer all examples, the shortest lengths first; yield what each length took.

    `seconds` are of all its answers and their rows, `prompt_tokens` of its prompts, `ruler6` is the
    mean score of the tasks, and `peak_gib` the most that was held (None without a card).
    """
    with contextlib.closing(Rows(answers, loaded.header)) as rows:
        ask = functools.partial(evaluate, loaded.model, loaded.tokenizer, ruler, rows=rows,
                                settings=loaded.settings, batch_size=batch_size,
                                allow_beyond=loaded.allow_beyond)  # fmt: skip
        for length in sorted({one.token_length for one in examples}):
            asked = [one for one in examples if one.token_length == length]
            harness.fresh()
            seconds, frame = harness.timed(functools.partial(ask, examples=asked))
            yield {"token_length": length, "questions": len(asked), "seconds": seconds,
                   "prompt_tokens": int(frame["num_tokens"].sum()),
                   "ruler6": frame.groupby("task")["score"].mean().mean(),
                   "peak_gib": harness.peak_gib()}  # fmt: skip


def _write(path: str | None, header: dict, how: dict, line: dict) -> None:
    size = {"questions": line["questions"], "ruler6": harness.known(line["ruler6"])}
    harness.append(path, header, {
        "task": "speed_ruler", "token_length": line["token_length"],
        "prompt_hash": hash_of("ruler", str(how["command"]), str(line["token_length"])),
        "num_tokens": round(line["prompt_tokens"] / line["questions"]),
        "settings": how | {k: v for k, v in size.items() if v is not None},
        "score": line["seconds"], "tokens_per_second": line["prompt_tokens"] / line["seconds"],
        "peak_gib": harness.known(line["peak_gib"]),
    })  # fmt: skip
