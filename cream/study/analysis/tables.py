"""What a grid's runs show, as tables: differences, verdicts, levels, and what was not run.

What belongs here: `analysis.contrasts` and `statistics.multilevel` in the form that a reader wants
them. Figures of them are in `figures.forest`, `figures.curves` and `figures.overview`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet

from cream.plots.style import in_order
from cream.statistics.multilevel import group_means
from cream.study.analysis.contrasts import CLAIMS, contrasts
from cream.study.analysis.endpoints import units
from cream.study.figures.forest import UNLIKE

__all__ = [
    "counts",
    "levels",
    "load",
    "not_run",
    "table",
]

READ = ["plan", "condition", "variant", "method", "scaling", "scale", "options", "base", "seed",
        "steps", "learning_rate", "window", "key", "commit", "task", "token_length", "gold_index",
        "depth_percent", "num_keys", "sample", "score", "nll", "scored_tokens"]  # fmt: skip


# ------------------------------------------------------------------------------------- tables


def load(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a grid's answers and its runs with their endpoints; both empty without the file.

    Of the answers what is drawn and counted, without their texts; runs of the plan "tiny", which
    only shows that everything runs, are left out.
    """
    if not Path(path).is_file():
        return pd.DataFrame(), pd.DataFrame()
    there = parquet.read_schema(path).names
    frame = pd.read_parquet(path, columns=[name for name in READ if name in there])
    frame = frame[frame["plan"] != "tiny"]
    return frame, units(frame)


def counts(runs: pd.DataFrame) -> pd.DataFrame:
    """Return how many models there are: a row a plan, data and variant, a column a scaling."""
    if runs.empty:
        return pd.DataFrame({"runs": []})
    keys = ["plan", "condition", "variant", "scaling"]
    return runs.groupby(keys, sort=False).size().unstack(fill_value=0)


def table(
    runs: pd.DataFrame, plans: Sequence[str], flagged: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Return `contrasts` of some plans as a reader wants them: what was run, rounded.

    With `flagged` (see `training_data.flagged`) comparisons of unlike data have no verdict, nor has
    one with both sides near an end of the range.
    """
    if not _any(runs, plans):
        return pd.DataFrame({"claim": []})
    found = contrasts(runs, tuple(plans), flagged)
    found = found[found["n"] > 0]
    sides = found["b"].isna().map({True: "all ", False: "both "})
    found["verdict"] = found["verdict"].where(found["bound"] == "", sides + found["bound"])
    found["verdict"] = found["verdict"].where(found["family"] != UNLIKE, "data differ")
    shown = found[["claim", "condition", "scaling", "a", "b"]].copy()
    shown["difference"] = [_cell(*row) for row in found[["value", "low", "high"]].to_numpy()]
    shown["over seeds"] = [
        _cell(*row) for row in found[["value", "seeds_low", "seeds_high"]].values
    ]
    for name in ("n", "bases", "seeds", "verdict"):
        shown[name] = found[name]
    return shown.fillna({"b": "-"}).reset_index(drop=True)


def levels(runs: pd.DataFrame, endpoint: str, plan: str = "primary") -> pd.DataFrame:
    """Return an endpoint's mean and 95 % interval over bases: a row a variant, a column a setting.

    In the endpoint's unit (points; see `analysis.endpoints.units`), untuned models as data "none".
    """
    of_plan = runs[runs["plan"] == plan] if len(runs) else runs
    if of_plan.empty:
        return pd.DataFrame({"variant": []})
    found = group_means(of_plan, ["condition", "scaling", "variant"], endpoint)
    found["cell"] = [_level(*row) for row in found[["value", "low", "high"]].to_numpy()]
    wide = found.pivot(index="variant", columns=["condition", "scaling"], values="cell")
    order = sorted(wide.columns, key=lambda key: (key[0] == "none", key[0] != "text", key[1]))
    return wide.reindex(index=in_order(wide.index), columns=order).fillna("")


def _level(value: float, low: float, high: float) -> str:
    value, low, high = (round(float(each), 1) + 0.0 for each in (value, low, high))
    return f"{value:.1f}" if np.isnan(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _any(runs: pd.DataFrame, plans: Sequence[str]) -> bool:
    return len(runs) > 0 and bool(runs["plan"].isin(list(plans)).any())


def _cell(value: float, low: float, high: float) -> str:
    value, low, high = (round(float(each), 1) + 0.0 for each in (value, low, high))  # no -0.0
    if np.isnan(low):
        return f"{value:+.1f} [no interval]"
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def not_run(runs: pd.DataFrame, plans: Sequence[str]) -> list[str]:
    """Return the claims of these plans that no run of `runs` speaks of, each with its plan."""
    wanted = [claim for claim in CLAIMS if claim.plan in plans]
    if not _any(runs, plans):
        return [f"{claim.name} (plan {claim.plan})" for claim in wanted]
    found = contrasts(runs, tuple(plans))
    there = set(found.loc[found["n"] > 0, "claim"])
    return [f"{claim.name} (plan {claim.plan})" for claim in wanted if claim.name not in there]
