"""SmolLM2-135M, every secondary comparison in one figure, from rows alone.

    python -m cream.reproduction.smollm2.secondary data

reads smollm2-retrieval, smollm2-seeds, smollm2-parts and smollm2-margin in the folder (and smollm2,
which has the runs tuned for L) and writes figures/smollm2_secondary.png and .pdf. What belongs
here: which comparisons of the four pages are drawn, and under which names. The numbers and the
verdicts are `retrieval`'s, `seeds`', `parts`' and `margin`'s, the drawing is
`plots.smollm2_secondary`'s. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cream import results
from cream.plots.smollm2_secondary import (
    DECIDED,
    DESCRIPTIVE,
    INCONCLUSIVE,
    LACKING,
    forest_of_groups,
)
from cream.plots.style import save
from cream.reproduction.method_cells import lines_of
from cream.reproduction.paired import NOT_DECIDED, points, seeds_of
from cream.reproduction.smollm2 import margin, parts, retrieval, seeds, variants
from cream.reproduction.smollm2.seeds import FACTOR
from cream.reproduction.smollm2.variants import VARIANTS
from cream.results import drawn_from
from cream.study.analysis.contrasts import FAILS, HOLDS, MARGIN
from cream.study.conditions import WIDER

__all__ = ["FIGURE", "comparisons", "counted", "drawn", "main", "markdown", "pictures", "read"]

FIGURE = "smollm2_secondary"
FOLDERS = {  # what is read for each page: its own folder last
    "retrieval": ("smollm2-retrieval",),
    "seeds": ("smollm2-seeds",),
    "parts": ("smollm2-seeds", "smollm2-parts"),
    "margin": ("smollm2", "smollm2-margin"),
}
LESS = "\N{MINUS SIGN}"
BOTH = "Both with retrieval documents"
WITH_DOCUMENTS = f"With retrieval documents {LESS} text alone"
UNIFORM = f"Uniform middle {LESS} Gaussian"
PARTS = f"CREAM {LESS} a part of it"
SHARPER = f"Attention \N{MULTIPLICATION SIGN}{FACTOR:g} when asked {LESS} as it is"
WIDER_TUNED = f"Tuned for {WIDER:g} L {LESS} for L"
KEPT = {HOLDS: "kept", FAILS: "not kept"}  # how a page says the verdicts of within N
TOLD = {"leads", "trails", HOLDS, FAILS}  # verdicts that an interval alone gives
COLUMNS = ["group", "what", "seeds", "value", "low", "high", "verdict", "near", "kind"]


# --------------------------------------------------------------------- the numbers


def read(folder: str | Path | None) -> dict[str, pd.DataFrame]:
    """Return the rows of each page (of `FOLDERS`); none of a page whose own folder is not there.

    `folder` has the folders of the pages; None for no row at all. FileNotFoundError where it is not
    there itself.
    """
    if folder is not None and not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that holds "
                                f"{_named()}")  # fmt: skip
    return {page: results.read(*_there(folder, names)) for page, names in FOLDERS.items()}


def _there(folder: str | Path | None, names: Sequence[str]) -> list[Path]:
    """The folders of a page; none where its own, the last, is not there."""
    paths = [Path(folder) / name for name in names] if folder is not None else []
    return [path for path in paths if path.is_dir()] if paths and paths[-1].is_dir() else []


def _named() -> str:
    return ", ".join(names[-1] for names in FOLDERS.values())


def comparisons(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a line a comparison, as its page has it; `rows` is of `read`.

    Columns: group, what, seeds, value, low, high (points; NaN for what was not run), verdict (""
    where a page gives none), near ("both near 0", "both near 100" or "") and kind (of
    `plots.smollm2_secondary`).
    """
    lines = [*_retrieval(rows), *_uniform(rows), *_parts(rows), *_sharper(rows), *_margin(rows)]
    found = pd.DataFrame([{"near": "", **one} for one in lines])
    found["kind"] = [_kind(one) for one in found.itertuples()]
    return found[COLUMNS]


def _kind(one: tuple) -> str:
    """What the interval says of the verdict; a verdict that counts seeds is told by 0."""
    if one.verdict == "":
        return DESCRIPTIVE
    if one.verdict == NOT_DECIDED:
        return LACKING
    counts_seeds = one.group == UNIFORM
    told = one.low > 0 or one.high < 0 if counts_seeds else one.verdict in TOLD
    return DECIDED if told else INCONCLUSIVE


def _line(group: str, what: str, one: Mapping[str, object], **more: object) -> dict[str, object]:
    numbers = {name: one[name] for name in ("seeds", "value", "low", "high")}
    return {"group": group, "what": what, "verdict": one.get("verdict", ""), **numbers, **more}


def _label(variant: str) -> str:
    return VARIANTS[variant].label


def _retrieval(rows: Mapping[str, pd.DataFrame]) -> list[dict[str, object]]:
    """Runs with retrieval documents, compared with each other and with text alone."""
    beside = rows["seeds"] if len(rows["retrieval"]) else rows["seeds"].iloc[:0]
    found = retrieval.values(rows["retrieval"], beside)
    lines = []
    for one in retrieval.comparisons(found).to_dict("records"):
        what = f"{_label(one['a'])} {LESS} {_label(one['b'])}, "
        what += "beyond N" if one["endpoint"] == "sentences" else f"{one['endpoint']} beyond N"
        lines.append(_line(BOTH, what, one, near=one["near"]))
    for one in retrieval.less_text(found).to_dict("records"):
        if one["end"] in ("beyond N", "within N"):
            lines.append(_line(WITH_DOCUMENTS, f"{_label(one['method'])}, {one['end']}", one))
    return lines


def _uniform(rows: Mapping[str, pd.DataFrame]) -> list[dict[str, object]]:
    one = seeds.uniform_claim(seeds.values(rows["seeds"]))
    return [_line(UNIFORM, "CREAM, beyond N", one)]


def _parts(rows: Mapping[str, pd.DataFrame]) -> list[dict[str, object]]:
    """CREAM less those parts that have a verdict."""
    found = parts.comparisons(parts.values(rows["parts"]))
    return [
        _line(PARTS, f"{_label(one['other']).removeprefix('CREAM, ')}, {one['end']}", one)
        for one in found[found["verdict"] != ""].to_dict("records")
    ]


def _sharper(rows: Mapping[str, pd.DataFrame]) -> list[dict[str, object]]:
    """Attention sharper when a model is asked, at the ends that have a rule."""
    found = seeds.sharper_claims(seeds.values(rows["seeds"]))
    return [_asked(SHARPER, _label(one["variant"]), one)
            for one in found[found["verdict"] != ""].to_dict("records")]  # fmt: skip


def _margin(rows: Mapping[str, pd.DataFrame]) -> list[dict[str, object]]:
    """Tuned for more than is used, both ends of a method together."""
    found = margin.claims(margin.values(rows["margin"]))
    found = found.sort_values("method", kind="stable")
    return [_asked(WIDER_TUNED, _label(one["method"]), one) for one in found.to_dict("records")]


def _asked(group: str, label: str, one: Mapping[str, object]) -> dict[str, object]:
    return _line(group, f"{label}, {one['end']}", one)


def counted(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the answers behind `comparisons`, each once; `rows` is of `read`."""
    documents = rows["retrieval"]
    lines = documents[documents["task"] == "longchat_lines"]
    each = [
        variants.answers(documents, retrieval.NAMES),
        variants.named(lines, retrieval.NAMES),
        variants.answers(rows["seeds"], seeds.NAMES, (1, FACTOR)),
        variants.answers(rows["parts"], parts.NAMES),
        margin.counted(rows["margin"]),
    ]
    found = pd.concat([part for part in each if len(part)] or each[:1], ignore_index=True)
    return found.drop_duplicates("key", ignore_index=True)


# --------------------------------------------------------------------- the figure


def _said(one: tuple) -> str:
    """Return the verdict of a line of `comparisons` in its page's words, "" where there is none."""
    verdict = KEPT.get(one.verdict, one.verdict) if "within N" in one.what else one.verdict
    return f"{verdict} ({one.near})" if one.near else verdict


def markdown(found: pd.DataFrame) -> str:
    """Return the comparisons as a table of Markdown; `found` is of `comparisons`."""
    lines = [
        [one.group, one.what, points(one), seeds_of(one), f"**{verdict}**" if verdict else ""]
        for one, verdict in zip(found.itertuples(), map(_said, found.itertuples()), strict=True)
    ]
    return lines_of(["compared", "of", "points, 95 %", "seeds", "verdict"], lines)


def drawn(found: pd.DataFrame) -> Figure | None:
    """Return the figure of the comparisons; None where there is none to draw.

    `found` is of `comparisons`. What stands at an end of the scale is named and not drawn.
    """
    shown = found[found["near"] == ""]
    if shown["value"].isna().all():
        return None
    texts = {
        "numbers": [points(one).replace("-", LESS) for one in shown.itertuples()],
        "of": [seeds_of(one) for one in shown.itertuples()],
        "said": [_said(one) for one in shown.itertuples()],
    }
    return forest_of_groups(shown.assign(**texts), MARGIN, *_note(found[found["near"] != ""]))


def _note(gone: pd.DataFrame) -> list[str]:
    sentences = [
        "Hidden sentences found on SmolLM2-135M, extended by YaRN from N = 8K to 64K: beyond N is "
        "the mean of 16K, 32K and 64K, within N of 2K, 4K and 8K. Differences are of runs of equal "
        "training seed, intervals Student's and not corrected for their number.",
        f'The verdict of "{UNIFORM}" counts the seeds in which the first leads.',
    ]
    for near, part in gone.groupby("near"):
        sentences.append(f"Not drawn, because {near}: {'; '.join(part['what'])}.")
    return sentences


def pictures(found: pd.DataFrame) -> dict[str, Figure]:
    """Return the figure of `comparisons` by its file's name; nothing where none was run."""
    figure = drawn(found)
    return {} if figure is None else {FIGURE: figure}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the secondary comparisons of the pages' folders."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.secondary", description=main.__doc__
    )
    parser.add_argument("folder", type=Path, help=f"the folder of {_named()}")
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    given = parser.parse_args(arguments)
    rows = read(given.folder)
    figure = drawn(comparisons(rows))
    if figure is None:
        parser.error(f"{given.folder} holds no run of {_named()}; publish a campaign there first")
    print(*save(figure, given.figures / FIGURE, drawn_from(counted(rows))), sep="\n")


if __name__ == "__main__":
    main()
