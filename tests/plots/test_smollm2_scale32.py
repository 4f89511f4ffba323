"""The figure of scale 32: a mark a seed, a line through means of whole runs, a panel a measure."""

from __future__ import annotations

import pandas as pd
import pytest

from cream.plots.smollm2_scale32 import found_and_perplexity

COLUMNS = ["method", "seed", "multiple", "value", "whole"]
FOUND = pd.DataFrame(
    [("cream", 10, 1, 80.0, True), ("cream", 10, 32, 20.0, True), ("cream", 11, 1, 60.0, True),
     ("cream", 11, 32, 40.0, True), ("pose", 10, 1, 70.0, True), ("pose", 10, 32, 10.0, True),
     ("pose", 11, 1, 90.0, False)], columns=COLUMNS,
)  # fmt: skip


def texts(last: float) -> pd.DataFrame:
    return pd.DataFrame([("plain", 10, 1, 5.0, True), ("plain", 10, 32, last, True)],
                        columns=COLUMNS)  # fmt: skip


def test_a_line_goes_through_the_means_of_whole_runs_and_a_mark_is_a_seed():
    panel = found_and_perplexity(FOUND, texts(6)).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in panel.lines}
    assert drawn["CREAM"] == [70, 30] and drawn["PoSE"] == [70, 10]
    marks = [list(line.get_ydata()) for line in panel.lines if line.get_label() == "_seeds"]
    assert marks == [[70, 10, 90], [80, 20, 60, 40]]


def test_methods_stand_side_by_side():
    panel = found_and_perplexity(FOUND, texts(6)).axes[0]
    places = {line.get_label(): line.get_xdata()[0] for line in panel.lines}
    assert 0.9 < places["PoSE"] < 1 < places["CREAM"] < 1.1


@pytest.mark.parametrize("last, scale", [(6, "linear"), (275, "log")])
def test_perplexity_is_logarithmic_where_it_is_wide(last, scale):
    found, perplexity = found_and_perplexity(FOUND, texts(last), "One base.").axes
    assert (found.get_yscale(), perplexity.get_yscale()) == ("linear", scale)
    assert found.get_ylim() == (-4, 104) and found.figure._supxlabel.get_text() == "One base."


def test_a_table_without_rows_has_no_panel_and_two_are_refused():
    (panel,) = found_and_perplexity(FOUND.iloc[:0], texts(6)).axes
    assert panel.get_ylabel() == "perplexity"
    with pytest.raises(ValueError, match="no run to draw"):
        found_and_perplexity(FOUND.iloc[:0], FOUND.iloc[:0])
