"""The gap to full length: shares of it, over seeds that have all three runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cream.study.analysis.gap import gaps


def runs(**values: tuple[float, ...]) -> pd.DataFrame:
    """Of each variant a value a seed, as both endpoints."""
    return pd.DataFrame([
        {"variant": variant.replace("_", ", "), "seed": seed, "lines": each, "lines_last": each}
        for variant, listed in values.items() for seed, each in enumerate(listed)
    ])  # fmt: skip


def test_a_share_is_of_the_means_and_its_interval_over_seeds():
    found = gaps(runs(full=(60, 64, 62), pose=(40, 40, 40), pose_wider=(50, 56, 50)),
                 {"pose": "pose, wider"})  # fmt: skip
    one = found.set_index("endpoint").loc["lines_last"]
    assert (one["gap"], one["gain"], one["n"]) == (22, 12, 3)
    assert one["share"] == pytest.approx(12 / 22)
    more = np.array([10 - 10, 16 - 12, 10 - 11])
    low, high = stats.t.interval(0.95, 2, more.mean(), stats.sem(more))
    assert (one["more"], one["low"], one["high"]) == pytest.approx((more.mean(), low, high))


def test_a_seed_without_one_of_the_three_does_not_count():
    found = gaps(runs(full=(60, 60), pose=(40, 40, 99), pose_wider=(50, 50, 99)),
                 {"pose": "pose, wider"})  # fmt: skip
    assert found["n"].tolist() == [2, 2] and found["share"].tolist() == [0.5, 0.5]


def test_without_a_gap_or_without_runs_there_is_no_share():
    found = gaps(runs(full=(40, 40), pose=(50, 50), pose_wider=(60, 60)), {"pose": "pose, wider"})
    assert found["gap"].tolist() == [-10, -10] and found["share"].isna().all()
    none = gaps(runs(full=(40, 40), pose=(50, 50)), {"pose": "pose, wider"})
    assert none["n"].tolist() == [0, 0] and none[["gap", "gain", "share"]].isna().all(axis=None)
