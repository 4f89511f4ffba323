"""SmolLM2-135M, seeds 7 to 9: a uniform middle, and attention sharper when a model is asked.

    python -m cream.reproduction.smollm2.seeds data/smollm2-seeds

reads the rows in the folder, a campaign of CREAM, CREAM with a uniform middle and PoSE, each asked
as it is and with its attention sharper, and writes SEEDS.md there. The rules were written before
the runs (data/results/PREREGISTRATION.md). What belongs here: which runs are compared, and which
numbers stand on the page. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cream import results
from cream.reproduction.method_cells import lines_of, page
from cream.reproduction.paired import NOT_DECIDED, level, over, points
from cream.reproduction.smollm2 import variants
from cream.reproduction.smollm2.margin import CLAIMS, LENGTHS, WITHIN
from cream.reproduction.smollm2.variants import MEASURED, SEEDS, VARIANTS, by_seed, cells, in_order
from cream.study.analysis.contrasts import MARGIN, verdict
from cream.utils.files import atomic_write

__all__ = ["main", "markdown", "sharper_claims", "uniform_claim", "values"]

FACTOR = 1.2  # chosen on the miniature (data/sharper/SHARPER.md), before these runs
NAMES = {each: VARIANTS[each].label for each in ("cream", "uniform", "pose")}
SENTENCES = "beyond N"
SAID = [
    "Written by `python -m cream.reproduction.smollm2.seeds data/smollm2-seeds` from the rows in "
    "this folder; README.md here has the command of the runs.",
    MEASURED,
]


# --------------------------------------------------------------------- the numbers


def values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run and factor that answered all six lengths, with what it found in per cent.

    `rows` is of `results.read`. Columns and errors are those of `variants.values`; variants are
    of `NAMES`, factors 1 and `FACTOR`.
    """
    return variants.values(rows, NAMES, (1, FACTOR))


def uniform_claim(found: pd.DataFrame) -> dict[str, object]:
    """Return what a uniform middle changes beyond N: levels, difference, share and verdict.

    Over the seeds of which all three runs are there: `value`, `low`, `high` (points, uniform less
    CREAM), `share` of the gap from CREAM to PoSE, `leads` and `seeds`.
    """
    sides = pd.concat({each: by_seed(found, each, SENTENCES) for each in NAMES}, axis=1).dropna()
    gains = sides["uniform"] - sides["cream"]
    value, low, high = over(gains)
    gap = (sides["pose"] - sides["cream"]).mean()
    share = value / gap if gap > 0 else math.nan
    about = {"value": value, "low": low, "high": high, "leads": int((gains > 0).sum()),
             "share": share, "seeds": tuple(sides.index)}  # fmt: skip
    levels = {each: sides[each].mean() for each in NAMES}
    return {**levels, **about, "verdict": _explained(about)}


def _explained(about: dict[str, object]) -> str:
    """As predicted, in part, or not: by the rule that was written before the runs."""
    if len(about["seeds"]) < len(SEEDS):
        return NOT_DECIDED
    if about["leads"] < len(SEEDS):
        return "the distances are not why"
    if math.isnan(about["share"]):
        return "leads, and there is no gap to PoSE"
    half = about["share"] >= 0.5
    return "as predicted" if half else "leads, and closes less than half of the gap"


def sharper_claims(found: pd.DataFrame) -> pd.DataFrame:
    """Return what sharper attention changes for each run: at 64K, beyond N and within N.

    Columns: variant, end, seeds, level, sharper_level (per cent), value, low, high (points) and
    verdict, which beyond N is not asked for.
    """
    table = []
    for variant in NAMES:
        for end in ("at 64K", SENTENCES, "within N"):
            pairs = pd.concat(
                {factor: by_seed(found, variant, end, factor) for factor in (1, FACTOR)}, axis=1
            ).dropna()
            value, low, high = over(pairs[FACTOR] - pairs[1])
            kind = CLAIMS.get(end)
            all_there = len(pairs) == len(SEEDS)
            said = "" if not kind else verdict(kind, low, high) if all_there else NOT_DECIDED
            table.append({"variant": variant, "end": end, "seeds": tuple(pairs.index),
                          "level": pairs[1].mean(), "sharper_level": pairs[FACTOR].mean(),
                          "value": value, "low": low, "high": high, "verdict": said})  # fmt: skip
    return pd.DataFrame(table)


# --------------------------------------------------------------------- the page


def markdown(found: pd.DataFrame) -> str:
    """Return the page: the uniform middle, sharper attention, each run by length."""
    one = pd.Series(uniform_claim(found))
    share = "" if math.isnan(one["share"]) else f"{100 * one['share']:.0f} %"
    cells = [*(level(one[each]) for each in NAMES), points(one), share,
             f"{one['leads']} of {len(one['seeds'])}", f"**{one['verdict']}**"]  # fmt: skip
    head = [*NAMES.values(), "uniform less CREAM (points, 95 %)", "of the gap to PoSE",
            "seeds in which it leads", "verdict"]  # fmt: skip
    rule = ("## A uniform middle\n\nFixed before the runs: it leads CREAM in all three seeds and "
            "closes half of the gap to PoSE or more, or the distances are not why CREAM trails. "
            "Sentences found beyond N (%).\n\n")  # fmt: skip
    parts = [page("SmolLM2-135M, seeds 7 to 9", [*SAID, rule.strip()], head, [cells])]
    parts.append(_sharper_part(found))
    names = ["run", "attention", "seed", "n", *LENGTHS.values()]
    parts.append(f"## By length\n\nSentences found (%).\n\n{lines_of(names, _lines(found))}\n")
    return "\n".join(parts)


def _sharper_part(found: pd.DataFrame) -> str:
    said = (
        f"## Sharper attention\n\nThe logits of attention times {FACTOR:g} when a model is asked. "
        f"Fixed before the runs: the gain at 64K *holds* if its interval lies above {MARGIN:g} "
        f"points and *does not hold* if it lies below; the cost within N ({', '.join(WITHIN)}) is "
        f"*kept* if its interval lies above -{MARGIN:g} and *not kept* if it lies below."
    )
    head = ["run", "what", "as it is", f"attention x{FACTOR:g}", "difference (points, 95 %)",
            "seeds", "verdict"]  # fmt: skip
    lines = [_sharper_line(one) for one in sharper_claims(found).itertuples()]
    return f"{said}\n\n{lines_of(head, lines)}\n\n{_recommended(found)}\n"


def _recommended(found: pd.DataFrame) -> str:
    """For which runs sharper attention is recommended, by the rule."""
    said = sharper_claims(found).pivot(index="variant", columns="end", values="verdict")
    gains, costs = said["at 64K"] == "holds", said["within N"] != "does not hold"
    named = [NAMES[each] for each in NAMES if (gains & costs)[each]]
    if (said["at 64K"] == NOT_DECIDED).all():
        return "Recommended for this base: not decided."
    return f"Recommended for this base (a gain that holds, no cost): {', '.join(named) or 'none'}."


def _sharper_line(one: tuple) -> list[str]:
    kept = {"holds": "kept", "does not hold": "not kept"} if one.end == "within N" else {}
    what = f"found {one.end}" if one.end == "at 64K" else one.end
    said = kept.get(one.verdict, one.verdict)
    seeds = ", ".join(map(str, one.seeds)) or "none"
    return [NAMES[one.variant], what, level(one.level), level(one.sharper_level), points(one),
            seeds, f"**{said}**" if said else ""]  # fmt: skip


def _lines(found: pd.DataFrame) -> list[list[str]]:
    return [
        [NAMES[one["variant"]], f"x{one['factor']:g}", *cells(one)]
        for one in in_order(found).to_dict("records")
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of seeds 7 to 9."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.seeds", description=main.__doc__
    )
    parser.add_argument("rows", type=Path, help="the folder of the runs")
    given = parser.parse_args(arguments)
    found = values(results.read(given.rows))
    if found.empty:
        parser.error(f"{given.rows} holds no run of seeds 7 to 9 that answered all lengths")
    atomic_write(given.rows / "SEEDS.md", markdown(found))
    print(given.rows / "SEEDS.md")


if __name__ == "__main__":
    main()
