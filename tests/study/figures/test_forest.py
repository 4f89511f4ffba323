"""A forest draws values, intervals and verdicts as they are, and no comparison of nothing."""

import numpy as np
import pandas as pd
import pytest
from made_grid import runs as made_runs

from cream.study.analysis import contrasts
from cream.study.figures import forest


def test_a_forest_draws_value_interval_and_verdict():
    """A run's noise of half a point: 8 holds, 0 does not, and what is wide is inconclusive."""
    clear = made_runs({"cream": 8.0, "pose": 3.0, "plain": 8.0, "full": 9.0}, of_run=0.5)
    found = contrasts.contrasts(clear)
    found = found[found["n"] > 0]
    by = found.set_index("claim")
    assert by.loc["skipped positions help: cream", "verdict"] == contrasts.FAILS
    assert by.loc["skipped positions help: pose", "verdict"] == contrasts.FAILS
    figure = forest.forest(found, published={("lines average", "yarn"): 15.9})
    axes = figure.axes[0]
    points = {line.get_xdata()[0]: line for line in axes.lines if line.get_marker() in "os^"}
    assert set(np.round(list(points), 6)) == set(np.round(by["value"], 6))
    face = {claim: points[value].get_markerfacecolor() for claim, value in by["value"].items()}
    holds = by["verdict"] == contrasts.HOLDS
    assert 0 < holds.sum() < len(holds) and all(
        (face[claim] != "white") == held for claim, held in holds.items()
    )
    crossed = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert sorted(crossed) == sorted(by.loc[by["verdict"] == contrasts.FAILS, "value"])
    assert 15.9 in [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    widths = [
        s[1][0] - s[0][0] for c in axes.collections for s in getattr(c, "get_segments", list)()
    ]
    assert any(np.isclose(widths, by["high"].iloc[0] - by["low"].iloc[0]))


def test_the_papers_number_stands_beside_text_alone(grid_runs):
    """Its data are text; the mixed panel has none."""
    found = contrasts.contrasts(grid_runs, ("primary",))
    figure = forest.forest(found, published={("lines average", "linear"): 15.9})
    marks = [sum(line.get_marker() == "D" for line in axes.lines) for axes in figure.axes]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["text only", "text with retrieval"]
    assert marks == [1, 0]


def test_comparisons_of_unlike_data_are_pale(grid_runs):
    """And say so in the legend."""
    found = contrasts.contrasts(grid_runs, ("primary",))
    flags = {"text": [], "mixed": ["plain"]}
    figure = forest.forest(contrasts.contrasts(grid_runs, ("primary",), flags))
    pale = [sum(line.get_alpha() == 0.6 for line in axes.lines) for axes in figure.axes]
    assert pale == [0, 6]  # two claims against plain by three scalings
    assert "data differ" in [text.get_text() for text in figure.legends[0].get_texts()]
    plain = forest.forest(found)
    assert "data differ" not in [text.get_text() for text in plain.legends[0].get_texts()]


def test_models_at_0_are_named_and_not_drawn():
    """Linear at 0 on both sides is no evidence of a tie; the note says which were left out."""
    part = made_runs({"cream": 8.0, "pose": 3.0}, of_run=0.5)
    nothing = made_runs({"cream": 0.0, "pose": 0.0}, of_base=0.0, of_run=0.0)
    both = pd.concat([part, nothing.assign(scaling="ntk")])
    figure = forest.forest(contrasts.contrasts(both, ("primary",)))
    markers = [line.get_marker() for axes in figure.axes for line in axes.lines]
    assert "s" not in markers and "Not drawn" in figure._supxlabel.get_text()
    assert "ntk near 0: Lines average" in figure._supxlabel.get_text().replace("\n", " ")
    assert "Not drawn" not in forest.forest(contrasts.contrasts(part))._supxlabel.get_text()


def test_what_lies_far_off_stands_at_the_edge_with_its_number():
    """One claim must not set the axis of all."""
    found = contrasts.contrasts(made_runs({"cream": 90.0, "pose": 3.0}, of_run=0.5))
    axes = forest.forest(found).axes[0]
    assert "+87" in [text.get_text() for text in axes.texts]
    assert max(axes.get_xlim()) < 70


def test_a_line_names_the_sides_and_the_endpoint(grid_runs):
    """The claim, what is subtracted, where it is measured."""
    figure = forest.forest(contrasts.contrasts(grid_runs, ("ablations",)))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert "Without relativity\nCREAM − continuity only; lines, 4 to 7.8 N" in names
    with pytest.raises(forest.NotRun, match="no contrast has a run"):
        forest.forest(contrasts.contrasts(grid_runs[grid_runs["plan"] == "scale64"], ("primary",)))
