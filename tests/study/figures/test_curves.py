"""Levels over what was varied: the points are the table's, the bars are both intervals."""

import numpy as np
import pytest

from cream.statistics import multilevel
from cream.study.figures import curves as figures_curves
from cream.study.figures import forest


def test_sigma_and_ends_are_read_from_the_options(grid_runs):
    """CREAM as it is stands at its default; variants that change something else are left out."""
    for option, expected in (("sigma", [1, 2, 3, 4]), ("ends", [4, 16])):
        axes = figures_curves.by_option(grid_runs, option).axes[0]
        (bar,) = axes.lines
        assert list(bar.get_xdata()) == expected
        if option == "sigma":
            level = multilevel.group_means(
                grid_runs[(grid_runs["plan"] == "ablations") & (grid_runs["variant"] == "sigma 2")],
                ["scaling"],
            )
            assert bar.get_ydata()[1] == pytest.approx(level["value"].iloc[0])
    with pytest.raises(forest.NotRun, match="another sigma than 3"):
        figures_curves.by_option(grid_runs[grid_runs["plan"] == "primary"], "sigma")


def test_learning_rates_draw_a_curve_a_method(grid_runs):
    """Three methods at three rates, of the plan sensitivity alone."""
    axes = figures_curves.by_learning_rate(grid_runs).axes[0]
    assert [line.get_label() for line in axes.lines] == ["plain fine-tuning", "PoSE", "CREAM"]
    assert np.allclose(axes.lines[1].get_xdata(), [1e-4, 3e-4, 1e-3])
    with pytest.raises(forest.NotRun, match="sensitivity"):
        figures_curves.by_learning_rate(grid_runs[grid_runs["plan"] == "primary"])


def curves(axes) -> dict:
    """The drawn curves by their label."""
    return {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}


def test_lengths_places_and_depths_have_a_panel_a_setting(grid_answers):
    """Untuned models stand in every panel of their scaling; places are of 2.4 N."""
    lengths = figures_curves.by_length(grid_answers, "primary")
    assert len(lengths.axes) == 6 and len(curves(lengths.axes[0])) == 7
    assert len(figures_curves.by_depth(grid_answers, "primary").axes) == 6
    places = figures_curves.by_place(grid_answers, "primary", ["cream", "pose"])
    x = curves(places.axes[0])["CREAM"].get_xdata()
    assert len(places.axes) == 6 and np.allclose(x, np.array([0, 25, 50, 75, 100]) + 0.6)
    with pytest.raises(forest.NotRun, match="plan ablations has no rows"):
        figures_curves.by_length(grid_answers[grid_answers["plan"] == "primary"], "ablations")


def test_bars_are_both_intervals_cut_at_0_and_100(grid_answers):
    """Thin over bases, thick over seeds, as `levels` has them."""
    rows = grid_answers[
        (grid_answers["plan"] == "primary") & (grid_answers["task"] == "longchat_lines")
    ]
    axes = figures_curves.by_length(rows, "primary", ["cream"]).axes[0]
    found = multilevel.of_answers(rows.assign(x=(rows["token_length"] / rows["window"]).round(2)))
    mine = found[(found["variant"] == "cream") & (found["scaling"] == "yarn")]
    mine = mine[mine["condition"] == "text"].sort_values("x")
    thin, thick = (np.array([each[:, 1] for each in bars.get_segments()])
                   for bars in axes.collections[:2])  # fmt: skip
    assert np.allclose(thin, mine[["low", "high"]].astype(float).clip(0, 100))
    assert np.allclose(thick, mine[["seeds_low", "seeds_high"]].astype(float).clip(0, 100))
    assert thin.max() <= 100 < mine["high"].max()


def test_a_setting_where_every_tuned_model_is_at_0_has_no_panel(grid_answers):
    """It is named below instead, and does not count among the models of a point."""
    floor = grid_answers.assign(
        score=grid_answers["score"].where(grid_answers["scaling"] != "linear", 0.0)
    )
    figure = figures_curves.by_length(floor, "primary")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 4 and not any("linear" in title for title in titles)
    said = figure._supxlabel.get_text().replace("\n", " ")
    assert "every tuned model is at 0: linear (text with retrieval and text only)" in said
    every = figures_curves.by_perplexity(floor, "primary")
    assert len(every.axes) == 6 and every.axes[0].get_yscale() == "log"
