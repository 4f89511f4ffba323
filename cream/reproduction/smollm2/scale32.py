"""SmolLM2-135M at scale 32: CREAM with tied and free content, PoSE and plain, from rows alone.

    python -m cream.reproduction.smollm2.scale32 data/smollm2-scale32

reads the rows in the folder, writes SCALE32.md there and figures/smollm2_scale32.png and .pdf. The
runs were planned as a description, without a verdict (data/results/PREREGISTRATION.md). What
belongs here: which runs are compared, and which numbers stand on the page. Nothing is typed: what
was not run is "not run".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from cream import results
from cream.plots.smollm2 import in_multiples
from cream.plots.smollm2_scale32 import found_and_perplexity
from cream.plots.style import save
from cream.reproduction.method_cells import answers, lines_of, number, page, three
from cream.reproduction.paired import compared, leads_in, level, points, seeds_of
from cream.reproduction.smollm2 import tasks, variants
from cream.reproduction.smollm2.margin import per_length
from cream.reproduction.smollm2.tasks import LABELS, TASKS, WHO
from cream.reproduction.smollm2.variants import Plan, by_seed, said_left_out
from cream.results import drawn_from
from cream.statistics import share_over_lengths
from cream.utils.files import atomic_write

__all__ = ["Found", "beyond_less_within", "drawn", "free_less_tied", "main", "markdown", "values"]

FIGURE, WINDOW = "smollm2_scale32", 8192
PLAN = Plan((10, 11), 32, {8192: "8K", 65536: "64K", 131072: "128K", 262044: "256K"}, fewest=1)
NAMES = TIED, FREE, *_ = ("cream", "content free", "pose", "plain")
RUNS = [(name, seed) for name in NAMES for seed in PLAN.seeds]
SIZES = WITHIN, *BEYOND = tuple(PLAN.lengths.values())
ENDS = {"beyond N": BEYOND}
MULTIPLES = {name: round(length / WINDOW, 1) for length, name in PLAN.lengths.items()}
TEXTS = TASKS["perplexity"]._replace(fewest=8, sizes=SIZES)
LEFT_OUT = "mean and no difference"
OVER = ", ".join(f"{tokens - WINDOW:,} at {name}" for tokens, name in PLAN.lengths.items()
                 if tokens > WINDOW)  # fmt: skip
SAID = [
    "Written by `python -m cream.reproduction.smollm2.scale32 data/smollm2-scale32` from the rows "
    "in this folder; README.md here has the command of the runs.",
    f"N = 8,192 tokens, L = {PLAN.scale * WINDOW:,} = {PLAN.scale} N, YaRN, text. Every run was "
    "trained on equally many tokens, in windows of N. **Tokens of context beyond the training "
    f"window: at most {OVER}.** A prompt of 8K lies within N. Documents of 256K have 100 tokens "
    "more than prompts, which leave the answer room.",
    "CREAM's middle has the tokens at its positions (tied, as released) or a stretch from anywhere "
    "between head and tail (`sampler_options.content=free`).",
    "Planned before the runs as a description, without a verdict "
    f"(data/results/PREREGISTRATION.md). **One base**, seeds {PLAN.seeds[0]} and {PLAN.seeds[1]}. "
    "A mean is over the seeds that it names. Differences are taken in pairs of equal seed, with "
    "Student's interval over seeds, 95 %: of two seeds it is wide, and of one there is none.",
    "Hidden sentences found (%), every depth and kind of text weighing alike. The intervals of "
    "means are Wilson's, 95 %, over questions; one that both seeds answered counts as one. They "
    "say nothing of other training seeds. What was not answered whole is *not run*.",
]


# --------------------------------------------------------------------- the numbers


class Found(NamedTuple):
    """What the runs answered: a line a planned run, NaN at a length that it did not answer whole.

    Columns of both tables: variant, seed, n (answers a length) and `SIZES`.
    """

    answers: pd.DataFrame  # the rows behind `sentences`
    sentences: pd.DataFrame  # found, in per cent
    texts: pd.DataFrame  # the perplexity of all documents

    def whole(self, measure: str) -> pd.DataFrame:
        """Return the runs that answered "sentences" or "texts" at every length, with `ENDS`."""
        return tasks.whole(getattr(self, measure), SIZES, ENDS)


def values(rows: pd.DataFrame) -> Found:
    """Return what the planned runs answered; `rows` is of `results.read`.

    ValueError where two models are of one run, where a run was trained on more or fewer tokens, and
    where runs answered different questions.
    """
    variants.check_models(variants.named(rows, NAMES, PLAN), "are in this folder")
    sentences = variants.whole_lengths(rows, NAMES, PLAN)
    texts = tasks.by_size(rows, "perplexity", NAMES, PLAN, TEXTS)
    return Found(sentences, _planned(_by_length(sentences)), _planned(texts))


def _by_length(found: pd.DataFrame) -> pd.DataFrame:
    """Sentences found in per cent: a line a run, a column a length."""
    if found.empty:
        return pd.DataFrame(columns=WHO)
    counts = found.groupby([*WHO, "token_length"]).size().groupby(level=WHO).min()
    table = per_length(found, WHO).unstack().rename(columns=PLAN.lengths)
    return table.assign(n=counts).reset_index()


def _planned(table: pd.DataFrame) -> pd.DataFrame:
    """A line a planned run, also one without an answer."""
    lines = table.astype({"seed": int}).set_index(WHO).reindex(RUNS)
    return lines.reindex(columns=["n", *SIZES]).astype(float).reset_index()


def free_less_tied(found: Found) -> pd.DataFrame:
    """Return CREAM with free content less tied content, in pairs of equal seed.

    Columns: measure ("sentences" in per cent, or "texts", a perplexity), end (a length, of
    sentences also "beyond N"), and those of `paired.compared`.
    """
    ends = [("sentences", end) for end in (*SIZES, *ENDS)] + [("texts", end) for end in SIZES]
    return pd.DataFrame([
        {"measure": measure, "end": end,
         **compared(*(_seeds(found, measure, name, end) for name in (FREE, TIED)))}
        for measure, end in ends
    ])  # fmt: skip


def beyond_less_within(found: Found) -> pd.DataFrame:
    """Return the sentences of each method beyond N less those at 8K of the same runs.

    Columns: variant, and those of `paired.compared`.
    """
    return pd.DataFrame([
        {"variant": name,
         **compared(*(_seeds(found, "sentences", name, end) for end in (*ENDS, WITHIN)))}
        for name in NAMES
    ])  # fmt: skip


def _seeds(found: Found, measure: str, name: str, end: str) -> pd.Series:
    return by_seed(found.whole(measure), name, end, seeds=PLAN.seeds)


# --------------------------------------------------------------------- the page


def markdown(found: Found) -> str:
    """Return the page: sentences, within and beyond N, tied and free content, perplexity."""
    head = ["run", "seed", "n", *SIZES]
    lines = [line for name in NAMES for line in _sentences(found, name)]
    parts = [page("SmolLM2-135M, scale 32", SAID, head, lines) + _left_out(found.sentences)]
    parts += [_within_part(found), _content_part(found)]
    lines = [line for name in NAMES for line in _texts(found, name)]
    said = "Of n documents, the same at every length. A mean is of the perplexities of its seeds."
    parts.append(f"## Perplexity by length\n\n{said}\n\n{lines_of(head, lines)}\n"
                 + _left_out(found.texts))  # fmt: skip
    return "\n".join(parts)


def _left_out(table: pd.DataFrame) -> str:
    return said_left_out(tasks.not_whole(table, SIZES), LEFT_OUT)


def _runs(table: pd.DataFrame, name: str, form: Callable[[float], str]) -> list[list[str]]:
    return [tasks.cells(table, name, seed, SIZES, form) for seed in PLAN.seeds]


def _mean_of(seeds: pd.Series) -> str:
    return f"mean of {' and '.join(map(str, seeds)) or 'none'}"


def _sentences(found: Found, name: str) -> list[list[str]]:
    """The lines of a method: its seeds, and the mean of its whole runs with Wilson's interval."""
    seeds = found.whole("sentences").query("variant == @name")["seed"]
    ours = found.answers
    ours = in_multiples(ours[(ours["variant"] == name) & ours["seed"].isin(seeds)])
    shares = [share_over_lengths(ours, [multiple])[0] for multiple in MULTIPLES.values()]
    mean = [answers(*share[:3], f"n = {share.n}") for share in shares]
    runs = _runs(found.sentences, name, "{:.0f}".format)
    return [*runs, [LABELS[name], _mean_of(seeds), "", *mean]]


def _texts(found: Found, name: str) -> list[list[str]]:
    """The lines of a method: its seeds, and the mean of its whole runs."""
    runs = found.whole("texts").query("variant == @name")
    mean = [number(runs[size].mean(), three) for size in SIZES]
    return [*_runs(found.texts, name, three), [LABELS[name], _mean_of(runs["seed"]), "", *mean]]


def _within_part(found: Found) -> str:
    head = ["method", "beyond N", "at 8K", "beyond N less 8K (points, 95 %)", "seeds"]
    lines = [[LABELS[one.variant], level(one.level), level(one.other_level), points(one),
              seeds_of(one)] for one in beyond_less_within(found).itertuples()]  # fmt: skip
    ends = f"{', '.join(BEYOND[:-1])} and {BEYOND[-1]}"
    said = f"Sentences found (%). Beyond N is the mean of {ends}; 8K lies within N."
    return f"## Beyond N and within\n\n{said}\n\n{lines_of(head, lines)}\n"


def _content_part(found: Found) -> str:
    head = ["", "at", "free", "tied", "free less tied (95 %)", "seeds", "free is more in"]
    lines = [_content(one) for one in free_less_tied(found).itertuples()]
    said = "Sentences found in per cent, differences in points; less perplexity is better."
    return f"## CREAM with free and with tied content\n\n{said}\n\n{lines_of(head, lines)}\n"


def _content(one: tuple) -> list[str]:
    name, digits = ("sentences", 1) if one.measure == "sentences" else ("perplexity", 2)
    return [name, one.end, level(one.level, digits), level(one.other_level, digits),
            points(one, digits), seeds_of(one), leads_in(one)]  # fmt: skip


# --------------------------------------------------------------------- the figure, the command


def drawn(found: Found) -> Figure:
    """Return the figure of every length that a run answered whole; ValueError without one."""
    said = (
        "SmolLM2-135M by YaRN at scale 32, one base. Small marks are seeds. Lines are means of the "
        "runs that answered every length. SCALE32.md names the other runs. "
        f"{_counted(found.sentences)} sentences and {_counted(found.texts)} documents a small mark."
    )
    return found_and_perplexity(_marks(found, "sentences"), _marks(found, "texts"), said)


def _counted(table: pd.DataFrame) -> str:
    """The answers a length, as far as runs have them."""
    counts = sorted(set(table["n"].dropna().astype(int)))
    return " or ".join(map(str, counts)) or "No"


def _marks(found: Found, measure: str) -> pd.DataFrame:
    """The table of a panel of `plots.smollm2_scale32`."""
    table, runs = getattr(found, measure), found.whole(measure)
    whole = set(zip(runs["variant"], runs["seed"], strict=True))
    marks = table.rename(columns={"variant": "method", **MULTIPLES}).melt(
        ["method", "seed"], list(MULTIPLES.values()), "multiple"
    )
    keys = zip(marks["method"], marks["seed"], strict=True)
    return marks.assign(whole=[key in whole for key in keys]).dropna(subset="value")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the figure of the runs at scale 32."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.scale32", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder of the runs at scale 32")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    given = parser.parse_args(arguments)
    rows = variants.named(results.read(given.rows), NAMES, PLAN)
    found, path = values(rows), given.rows / "SCALE32.md"
    if found.sentences["n"].isna().all() and found.texts["n"].isna().all():
        parser.error(f"{given.rows} holds no run at scale 32, seeds {PLAN.seeds[0]} and "
                     f"{PLAN.seeds[1]}, that answered a length; publish the campaign there "
                     "first")  # fmt: skip
    figure = drawn(found)
    atomic_write(path, markdown(found))
    written = save(figure, given.figures / FIGURE, drawn_from(rows))
    print(*[path, *written], sep="\n")


if __name__ == "__main__":
    main()
