"""SmolLM2-135M trained with retrieval documents, seeds 7 to 9, from rows alone.

    python -m cream.reproduction.smollm2.retrieval data/smollm2-retrieval \\
        --beside data/smollm2-seeds

reads CREAM, PoSE and plain fine-tuning with these documents in the folder and CREAM and PoSE on
text alone in the other (`--beside`), and writes RETRIEVAL.md in the folder. Runs are called alike
in both, so the folder says what a run was trained on. The rules were written before the runs
(data/results/PREREGISTRATION.md). What belongs here: which runs are compared, and which numbers
stand on the page. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cream import results
from cream.reproduction.method_cells import lines_of, page, three
from cream.reproduction.paired import compared, lead, leads_in, level, points, seeds_of
from cream.reproduction.smollm2 import tasks, variants
from cream.reproduction.smollm2.margin import BEYOND, LENGTHS, WITHIN
from cream.reproduction.smollm2.primary import near_end
from cream.reproduction.smollm2.tasks import LABELS, TASKS, UNTUNED
from cream.reproduction.smollm2.variants import SEEDS, by_seed, said_left_out
from cream.study.analysis.contrasts import MARGIN
from cream.utils.files import atomic_write

__all__ = ["Found", "comparisons", "less_text", "main", "markdown", "values"]

NAMES = ("cream", "pose", "plain")
TEXT_ALONE = ("cream", "pose")  # what the other folder has of them
RUNS = [(name, seed) for name in NAMES for seed in SEEDS]
PAIRS = (("cream", "pose"), ("pose", "plain"))  # each has a verdict in sentences and in lines
DECIDED = "beyond N"  # the end that a verdict is of
SHOWN = (DECIDED, "within N", "at 64K")
SAID = [
    "Written by `python -m cream.reproduction.smollm2.retrieval data/smollm2-retrieval --beside "
    "data/smollm2-seeds` from the rows in both folders; README.md here has the command of the "
    "runs.",
    "A quarter of the corpus's training tokens are generated documents that ask for something in "
    "66K tokens, in other words than the evaluations'. The rest is the text that the runs of the "
    "other folder were trained on alone. N = 8,192 tokens, L = 8 N, YaRN. Every run was trained on "
    "equally many tokens. Every run answered the same questions.",
    "Sentences: hidden sentences found, per cent, every depth and kind of text weighing alike. "
    "Lines: LongChat lines found, per cent. Beyond N is the mean of "
    f"{', '.join(BEYOND[:-1])} and {BEYOND[-1]}. **One base**: intervals are Student's over its "
    "training seeds, 95 %, differences in pairs of equal seed.",
    "Fixed before the runs (data/results/PREREGISTRATION.md): the first *leads* if the interval of "
    "the first less the other beyond N lies above 0 and *trails* if it lies below, else the "
    "comparison is *inconclusive*. A comparison that lacks a seed is *not decided*. Where both lie "
    f"within {MARGIN:g} points of 0 or of 100 the verdict has *both near 0* or *both near 100* "
    "beside it. The four comparisons are secondary, so they are not corrected.",
    "Found beyond N (%):",
]  # fmt: skip


# --------------------------------------------------------------------- the numbers


class Found(NamedTuple):
    """What the runs answered; tables are of `variants.values`, or its `not_whole`."""

    sentences: pd.DataFrame
    text_alone: pd.DataFrame  # sentences, of the other folder
    lines: pd.DataFrame
    by_task: dict[str, pd.DataFrame]  # of `tasks.by_size`
    left_out: dict[str, pd.DataFrame]  # of "sentences", "text alone" and "lines"

    def of(self, endpoint: str) -> pd.DataFrame:
        """Return the runs with retrieval documents: "sentences" or "lines"."""
        return {"sentences": self.sentences, "lines": self.lines}[endpoint]


def values(rows: pd.DataFrame, beside: pd.DataFrame) -> Found:
    """Return what the runs with retrieval documents and those on text alone answered.

    `rows` and `beside` are of `results.read`, of one folder each. ValueError where a folder has two
    models of one method and seed, where a model is in both, where one was trained on more or fewer
    tokens, and where runs answered different questions, also those of the two folders.
    """
    rows, beside = (_checked(each, names) for each, names in ((rows, NAMES), (beside, TEXT_ALONE)))
    sentences, lacking = variants.divided(rows, NAMES)
    text_alone, lacking_alone = variants.divided(beside, TEXT_ALONE)
    _check_folders(sentences, text_alone)
    by_task = {task: tasks.by_size(rows, task, NAMES) for task in TASKS}
    lines = by_task["longchat_lines"]
    left_out = {
        "sentences": lacking,
        "text alone": lacking_alone,
        "lines": tasks.not_whole(lines),
    }
    tables = map(variants.tabled, (sentences, text_alone))
    return Found(*tables, tasks.whole(lines), by_task, left_out)


def _checked(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of a folder that has one model of each method and seed, whatever it answered."""
    variants.check_models(variants.named(rows, names), "are in one folder")
    return rows


def _check_folders(rows: pd.DataFrame, beside: pd.DataFrame) -> None:
    """Refuse a model that is in both folders, and other questions in one than in the other."""
    if len(both := rows[rows["model_hash"].isin(beside["model_hash"])]):
        raise ValueError(f"{both['run'].iloc[0]} is in both folders, with equal weights: one is of "
                         "runs with retrieval documents, the other of text alone")  # fmt: skip
    variants.check_alike(pd.concat([rows, beside], ignore_index=True))


def comparisons(found: Found) -> pd.DataFrame:
    """Return the four comparisons: a less b beyond N, in sentences and in lines, by equal seed.

    Columns: a, b (of `NAMES`), endpoint, seeds, level and other_level (means of these seeds, per
    cent), value, low, high (points), leads (seeds in which a found more), verdict, and near ("both
    near 0", "both near 100" or ""). NaN without a pair.
    """
    return pd.DataFrame([
        _compared(found, a, b, endpoint) for a, b in PAIRS for endpoint in ("sentences", "lines")
    ])  # fmt: skip


def _compared(found: Found, a: str, b: str, endpoint: str) -> dict[str, object]:
    one = compared(*(by_seed(found.of(endpoint), name, DECIDED) for name in (a, b)))
    near = near_end(one["level"], one["other_level"])
    return {"a": a, "b": b, "endpoint": endpoint, **one, "verdict": lead(one, len(SEEDS)),
            "near": near}  # fmt: skip


def less_text(found: Found) -> pd.DataFrame:
    """Return the sentences with retrieval documents less those of the same seeds on text alone.

    Columns: method, end (beyond N, within N, at 64K), seeds, level (with the documents) and
    other_level (text alone; per cent), value, low, high (points) and leads. Without a verdict.
    """
    return pd.DataFrame([
        {"method": name, "end": end,
         **compared(*(by_seed(each, name, end) for each in (found.sentences, found.text_alone)))}
        for name in TEXT_ALONE for end in SHOWN
    ])  # fmt: skip


# --------------------------------------------------------------------- the page


def markdown(found: Found) -> str:
    """Return the page: four comparisons, the runs on text alone, each task by length."""
    head = ["comparison", "in", "the first", "the other", "the first less the other (points, 95 %)",
            "seeds", "the first leads in", "verdict"]  # fmt: skip
    lines = [_line(one) for one in comparisons(found).itertuples()]
    parts = [page("SmolLM2-135M, trained with retrieval documents", SAID, head, lines)]
    return "\n".join([*parts, _less_text(found), *_sentences(found), *_tasks(found)])


def _line(one: tuple) -> list[str]:
    said = f"**{one.verdict}**{f' ({one.near})' if one.near else ''}"
    return [f"{LABELS[one.a]} less {LABELS[one.b]}", one.endpoint, level(one.level),
            level(one.other_level), points(one), seeds_of(one), leads_in(one), said]  # fmt: skip


def _less_text(found: Found) -> str:
    said = (
        "Without a verdict. Sentences found (%), in pairs of equal seed; within N is the mean of "
        f"{', '.join(WITHIN[:-1])} and {WITHIN[-1]}."
    )
    head = ["method", "sentences", "with these documents", "text alone",
            "with less without (points, 95 %)", "seeds", "more with in"]  # fmt: skip
    lines = [
        [LABELS[one.method], one.end, level(one.level), level(one.other_level), points(one),
         seeds_of(one), leads_in(one)] for one in less_text(found).itertuples()
    ]  # fmt: skip
    return f"## With these documents less text alone\n\n{said}\n\n{lines_of(head, lines)}\n"


def _sentences(found: Found) -> list[str]:
    said, left_out = "Found (%).", found.left_out
    runs = [run for run in RUNS if run[0] in TEXT_ALONE]
    return [
        _section("Sentences by length", said, found.sentences, RUNS, left_out["sentences"]),
        _section("Sentences by length, text alone", said, found.text_alone, runs,
                 left_out["text alone"]),
    ]  # fmt: skip


def _tasks(found: Found) -> list[str]:
    """Lines, pairs and perplexity, each also of the base by YaRN untuned."""
    lines, pairs, texts = (found.by_task[task] for task in TASKS)
    said = "Without a verdict. What was not answered whole is *not run*."
    counted = (
        "Answers (%) that have the value asked for and no other key or value of an object of "
        f"key-value pairs (UUIDs), each asked at five places. {said}"
    )
    runs, sizes = [*RUNS, (UNTUNED, 0)], TASKS["kv_retrieval"].sizes
    return [
        _section("Lines by length", "Found (%).", lines, runs, found.left_out["lines"]),
        _section("Pairs by number of keys", counted, pairs, runs, sizes=sizes),
        _section("Perplexity by length", f"Of n documents. {said}", texts, runs, form=three),
    ]


def _section(
    title: str,
    said: str,
    table: pd.DataFrame,
    runs: Sequence[tuple[str, int]],
    left_out: pd.DataFrame | None = None,
    sizes: Sequence[str] = tuple(LENGTHS.values()),
    form: Callable[[float], str] = "{:.0f}".format,
) -> str:
    """A section with a line a run, also one that was not run; those left out stand below."""
    gone = () if left_out is None else set(zip(left_out["variant"], left_out["seed"], strict=True))
    lines = [tasks.cells(table, *run, sizes, form) for run in runs if run not in gone]
    below = "" if left_out is None else said_left_out(left_out)
    head = ["run", "seed", "n", *sizes]
    return f"## {title}\n\n{said}\n\n{lines_of(head, lines)}\n{below}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of the runs with retrieval documents."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.retrieval", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder of the runs with retrieval documents")
    parser.add_argument("--beside", type=Path, default=Path("data/smollm2-seeds"),
                        help="the folder of CREAM and PoSE on text alone")  # fmt: skip
    given = parser.parse_args(arguments)
    found = values(results.read(given.rows), results.read(given.beside))
    path = given.rows / "RETRIEVAL.md"
    if found.sentences.empty and found.lines.empty:
        parser.error(f"{given.rows} holds no run of CREAM, PoSE or plain fine-tuning, seeds 7 to "
                     "9, that answered all sentences or all lines; publish the campaign there "
                     "first")  # fmt: skip
    if found.text_alone.empty:
        parser.error(f"{given.beside} holds no CREAM or PoSE of seeds 7 to 9 that answered all "
                     "lengths; give the folder that does with --beside")  # fmt: skip
    atomic_write(path, markdown(found))
    print(path)


if __name__ == "__main__":
    main()
