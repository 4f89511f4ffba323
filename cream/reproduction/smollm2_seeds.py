"""SmolLM2-135M, seeds 7 to 9: a uniform middle, and attention sharper when a model is asked.

    python -m cream.reproduction.smollm2_seeds data/smollm2-seeds

reads the rows in the folder, a campaign of CREAM, CREAM with a uniform middle and PoSE, each asked
as it is and with its attention sharper, and writes SEEDS.md there. The rules were written before
the runs (data/results/PREREGISTRATION.md). What belongs here: which runs are compared, and which
numbers stand on the page. Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from cream import results
from cream.reproduction.method_cells import lines_of, page
from cream.reproduction.paired import level, over, points
from cream.reproduction.smollm2_margin import CLAIMS, ENDS, LENGTHS, WITHIN, found_by_length
from cream.reproduction.smollm2_primary import (
    BASE,
    NOT_DECIDED,
    QUESTION,
    SCALE,
    check_questions,
    check_tokens,
    kind_of,
    lacking,
)
from cream.study.analysis.contrasts import MARGIN, verdict
from cream.utils.files import atomic_write

__all__ = ["main", "markdown", "sharper_claims", "uniform_claim", "values"]

SEEDS = (7, 8, 9)
FACTOR = 1.2  # chosen on the miniature (data/sharper/SHARPER.md), before these runs
RUNS = {"cream": "", "uniform": "-sampler_options.middle-uniform", "pose": ""}  # run's last part
NAMES = {"cream": "CREAM", "uniform": "CREAM, uniform middle", "pose": "PoSE"}
SENTENCES = "beyond N"
KEYS = ["variant", "factor", "seed"]
SAID = [
    "Written by `python -m cream.reproduction.smollm2_seeds data/smollm2-seeds` from the rows in "
    "this folder; README.md here has the command of the runs.",
    "N = 8,192 tokens, L = 8 N, YaRN, text. Hidden sentences found, per cent, every depth and kind "
    "of text weighing alike; beyond N is the mean of 16K, 32K and 64K. **One base**: intervals are "
    "Student's over its training seeds, 95 %, differences in pairs of equal seed.",
]  # fmt: skip


# --------------------------------------------------------------------- the numbers


def values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run and factor that answered all six lengths, with what it found in per cent.

    `rows` is of `results.read`. Columns: variant (of `NAMES`), factor, seed, n (answers a length),
    every length by its name, and the means of `ENDS`. ValueError where two models of one variant
    and seed did, where one was trained on more or fewer tokens, and where runs answered different
    questions.
    """
    rows = _asked(rows)
    whole = [one for _, one in rows.groupby(["model_hash", "factor"]) if not lacking(one, LENGTHS)]
    columns = [*KEYS, "n", *LENGTHS.values(), *ENDS]
    if not whole:
        return pd.DataFrame(columns=columns)
    found = pd.concat(whole, ignore_index=True)
    check_tokens(found)
    check_questions(found)
    _check_models(found)
    lines = []
    for key, part in found.groupby(KEYS):
        lines.append({**dict(zip(KEYS, key, strict=True)), **found_by_length(part)})
    return pd.DataFrame(lines, columns=columns)


def _check_models(found: pd.DataFrame) -> None:
    """Refuse two models of a variant and seed, also one asked as it is and one sharper."""
    for (variant, seed), part in found.groupby(["variant", "seed"]):
        if part["model_hash"].nunique() > 1:
            raise ValueError(f"two models of {NAMES[variant]}, seed {seed}, answered all lengths; "
                             "keep the rows of one")  # fmt: skip


def _asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The hidden sentences of these runs, with `variant`, `factor` and `kind`."""
    rows = rows[(rows["task"] == "needle") & (rows["base"] == BASE) & (rows["scale"] == SCALE)]
    rows = rows[rows["seed"].isin(SEEDS) & rows["token_length"].isin(LENGTHS)]
    how = {text: _how(text) for text in rows["settings"].unique()}
    rows = rows.assign(
        variant=[_variant(*each) for each in zip(rows["run"], rows["seed"], strict=True)],
        kind=rows["settings"].map(lambda text: how[text][0]),
        factor=rows["settings"].map(lambda text: how[text][1]).astype(float),
    )
    rows = rows[(rows["variant"] != "") & (rows["kind"] != "") & rows["factor"].isin((1, FACTOR))]
    rows = rows.sort_values("date", kind="stable", na_position="first")
    return rows.drop_duplicates(["model_hash", "factor", *QUESTION], keep="last")


def _how(settings: str) -> tuple[str, float]:
    """Read the kind of text that a sentence was hidden in, and the factor it was asked by."""
    about = json.loads(settings)
    factor = about.pop("sharper", 1.0)
    return kind_of(json.dumps(about)), factor


def _variant(run: str, seed: int) -> str:
    """Which of the three a run is, by its name; "" if none."""
    name = PurePosixPath(str(run)).name
    each = {f"{'pose' if variant == 'pose' else 'cream'}-yarn-{SCALE}-seed{seed}{last}": variant
            for variant, last in RUNS.items()}  # fmt: skip
    return each.get(name, "")


def _by_seed(found: pd.DataFrame, variant: str, end: str, factor: float = 1.0) -> pd.Series:
    """What a variant found, a line a seed; NaN where it was not run."""
    part = found[(found["variant"] == variant) & (found["factor"] == factor)]
    return part.set_index("seed")[end].astype(float).reindex(list(SEEDS))


def uniform_claim(found: pd.DataFrame) -> dict[str, object]:
    """Return what a uniform middle changes beyond N: levels, difference, share and verdict.

    Over the seeds of which all three runs are there: `value`, `low`, `high` (points, uniform less
    CREAM), `share` of the gap from CREAM to PoSE, `leads` and `seeds`.
    """
    sides = pd.concat({each: _by_seed(found, each, SENTENCES) for each in NAMES}, axis=1).dropna()
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
                {factor: _by_seed(found, variant, end, factor) for factor in (1, FACTOR)}, axis=1
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
    order = found.assign(place=found["variant"].map(list(NAMES).index))
    return [
        [NAMES[one["variant"]], f"x{one['factor']:g}", str(one["seed"]), str(one["n"]),
         *(level(one[name], 0) for name in LENGTHS.values())]
        for one in order.sort_values(["place", "factor", "seed"]).to_dict("records")
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of seeds 7 to 9."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2_seeds", description=main.__doc__
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
