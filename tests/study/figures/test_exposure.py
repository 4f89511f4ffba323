"""What each variant was shown: read, flagged and drawn as it was counted."""

import json

import numpy as np
import pytest

from cream.study import training_data
from cream.study.figures import exposure


def counted() -> dict:
    """Counts of two variants in two conditions; text has no query to answer."""

    def one(queries: float, assigned: list[int]) -> dict:
        return {"queries_a_window": queries, "far_queries_a_window": queries / 2,
                "told_distances_of_queries": assigned}  # fmt: skip

    assigned = np.random.default_rng(0).integers(1, 50, 64).tolist()
    return {
        "text": {"flagged": [], "variants": {"cream": one(0, [0] * 64), "pose": one(0, [0] * 64)}},
        "mixed": {"flagged": ["plain", "pose, scale 64"],
                  "variants": {"cream": one(2.0, assigned), "pose": one(2.2, assigned),
                               "plain": one(5.9, [9] * 8 + [0] * 56)}},
    }  # fmt: skip


def test_it_is_read_beside_the_grid(tmp_path):
    """Empty where nothing was counted."""
    assert training_data.read(tmp_path / "grid.parquet") == training_data.read("") == {}
    (tmp_path / "grid_data.json").write_text(json.dumps(counted()))
    assert training_data.read(tmp_path / "grid.parquet") == counted()


def test_flags_are_given_as_contrasts_take_them():
    """By condition; at scale 64 variants are counted by themselves."""
    assert training_data.flagged(counted()) == {"text": [], "mixed": ["plain", "pose, scale 64"]}
    assert training_data.flagged({}) == {}


def test_the_table_has_a_row_a_condition_and_variant():
    """Queries, how many of them far, and the flag."""
    table = exposure.queries(counted())
    assert list(table.index) == [("text", "cream"), ("text", "pose"), ("mixed", "cream"),
                                 ("mixed", "pose"), ("mixed", "plain")]  # fmt: skip
    assert table.loc[("mixed", "plain")].tolist() == [5.9, 2.95, True]


def test_the_figure_draws_what_a_window_can_answer():
    """Each curve sums to the queries a window; without any there is none to draw."""
    figure = exposure.query_distances(counted())
    sums = {line.get_label(): np.nansum(line.get_ydata()) for line in figure.axes[0].lines}
    assert sums == pytest.approx({"plain fine-tuning": 5.9, "PoSE": 2.2, "CREAM": 2.0})
    plain = next(line for line in figure.axes[0].lines if "plain" in line.get_label())
    assert np.nanmax(plain.get_xdata()[~np.isnan(plain.get_ydata())]) < 1
    with pytest.raises(ValueError, match="'text' holds a query"):
        exposure.query_distances(counted(), "text")
    with pytest.raises(ValueError, match="no window"):
        exposure.query_distances({})
