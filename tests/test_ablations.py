"""Forests and levels say what the runs say, and what was not run."""

import numpy as np
import pandas as pd
import pytest
from made_campaign import campaign
from made_grid import runs as made_runs

from cream import ablations, claims


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    return campaign(samples=6)


@pytest.fixture(scope="module")
def runs(answers) -> pd.DataFrame:
    return claims.units(answers)


def test_the_table_has_every_comparison_with_its_interval_n_and_verdict(runs):
    """The values are those of `claims.contrasts`; what has no run is named instead."""
    table = ablations.table(runs, ["ablations"]).set_index("claim")
    found = claims.contrasts(runs, ("ablations",)).set_index("claim")
    for name, row in table.iterrows():
        value = found.loc[name, "value"]
        assert row["difference"].startswith(f"{value:+.1f} [") and row["n"] == 6
        assert row["verdict"] == found.loc[name, "verdict"]
    assert ablations.not_run(runs, ["ablations"]) == []
    less = runs[runs["variant"] != "uniform"]
    assert ablations.not_run(less, ["ablations"]) == [
        "gaussian over uniform (plan ablations)", "gaussian over uniform, middle (plan ablations)",
    ]  # fmt: skip
    assert set(ablations.table(less, ["ablations"])["claim"]) == {
        name for name in table.index if not name.startswith("gaussian")
    }


def test_without_any_run_everything_is_said_to_be_not_run(tmp_path):
    """No file, no table, no figure; nothing raises but the figures themselves."""
    frame, runs = ablations.load(tmp_path / "grid.parquet")
    assert frame.empty and runs.empty and ablations.table(runs, ["ablations"]).empty
    named = ablations.not_run(runs, ["ablations", "scale64"])
    assert len(named) == sum(claim.plan in ("ablations", "scale64") for claim in claims.CLAIMS)
    assert ablations.counts(runs).empty


def test_a_forest_draws_value_interval_and_verdict():
    """A run's noise of half a point: 8 holds, 0 does not, and what is wide cannot be told."""
    clear = made_runs({"cream": 8.0, "pose": 3.0, "plain": 8.0, "full": 9.0}, of_run=0.5)
    found = claims.contrasts(clear)
    found = found[found["n"] > 0]
    by = found.set_index("claim")
    assert by.loc["skipped positions help: cream", "verdict"] == claims.FAILS
    assert by.loc["skipped positions help: pose", "verdict"] == claims.FAILS
    figure = ablations.forest(found, published={("lines average", "yarn"): 15.9})
    axes = figure.axes[0]
    points = {line.get_xdata()[0]: line for line in axes.lines if line.get_marker() in "os^"}
    assert set(np.round(list(points), 6)) == set(np.round(by["value"], 6))
    face = {claim: points[value].get_markerfacecolor() for claim, value in by["value"].items()}
    holds = by["verdict"] == claims.HOLDS
    assert 0 < holds.sum() < len(holds) and all(
        (face[claim] != "white") == held for claim, held in holds.items()
    )
    crossed = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert sorted(crossed) == sorted(by.loc[by["verdict"] == claims.FAILS, "value"])
    assert 15.9 in [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    widths = [
        s[1][0] - s[0][0] for c in axes.collections for s in getattr(c, "get_segments", list)()
    ]
    assert any(np.isclose(widths, by["high"].iloc[0] - by["low"].iloc[0]))


def test_the_papers_number_stands_beside_text_alone(runs):
    """Its data are text; the mixed panel has none."""
    found = claims.contrasts(runs, ("primary",))
    figure = ablations.forest(found, published={("lines average", "linear"): 15.9})
    marks = [sum(line.get_marker() == "D" for line in axes.lines) for axes in figure.axes]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["text only", "text with retrieval"]
    assert marks == [1, 0]


def test_comparisons_of_unlike_data_are_pale(runs):
    """And say so in the legend; they have no verdict."""
    found = claims.contrasts(runs, ("primary",))
    flags = {"text": [], "mixed": ["plain"]}
    figure = ablations.forest(claims.contrasts(runs, ("primary",), flags))
    pale = [sum(line.get_alpha() == 0.35 for line in axes.lines) for axes in figure.axes]
    assert pale == [0, 6]  # two claims against plain by three scalings
    verdicts = ablations.table(runs, ["primary"], flags).set_index(["b", "condition"])["verdict"]
    assert set(verdicts["plain", "mixed"]) == {"data differ"}
    assert "data differ" not in set(verdicts["plain", "text"])
    assert "data differ" in [text.get_text() for text in figure.legends[0].get_texts()]
    plain = ablations.forest(found)
    assert "data differ" not in [text.get_text() for text in plain.legends[0].get_texts()]


def test_sigma_and_ends_are_read_from_the_options(runs):
    """CREAM as it is stands at its default; variants that change something else are left out."""
    for option, expected in (("sigma", [1, 2, 3, 4]), ("ends", [4, 16])):
        axes = ablations.by_option(runs, option).axes[0]
        (bar,) = axes.containers
        assert list(bar.lines[0].get_xdata()) == expected
        if option == "sigma":
            level = ablations.level_table(
                runs[(runs["plan"] == "ablations") & (runs["variant"] == "sigma 2")],
                ["scaling"],
            )
            assert bar.lines[0].get_ydata()[1] == pytest.approx(level["value"].iloc[0])
    with pytest.raises(ablations.NotRun, match="another sigma than 3"):
        ablations.by_option(runs[runs["plan"] == "primary"], "sigma")


def test_levels_are_means_of_bases_not_of_runs():
    """A base with more seeds counts once."""
    made = pd.DataFrame({"base": ["a"] * 4 + ["b"], "seed": [0, 1, 2, 3, 0],
                         "scaling": "yarn", "lines": [50.0] * 4 + [70.0]})  # fmt: skip
    (row,) = ablations.level_table(made, ["scaling"]).itertuples()
    assert (row.value, row.bases, row.runs, row.unit) == (60.0, 2, 5, "base")
    assert row.high - row.value == pytest.approx(12.706 * 10, rel=1e-3)


def test_learning_rates_draw_a_curve_a_method(runs):
    """Three methods at three rates, of the plan sensitivity alone."""
    axes = ablations.by_learning_rate(runs).axes[0]
    assert [bar.get_label() for bar in axes.containers] == ["plain fine-tuning", "PoSE", "CREAM"]
    assert list(axes.containers[0].lines[0].get_xdata()) == [1e-4, 3e-4, 1e-3]
    with pytest.raises(ablations.NotRun, match="sensitivity"):
        ablations.by_learning_rate(runs[runs["plan"] == "primary"])


def test_lengths_and_places_have_a_panel_a_setting(answers):
    """Untuned models stand in every panel of their scaling; places are of 2.4 N."""
    lengths = ablations.by_length(answers, "primary")
    assert len(lengths.axes) == 6 and len(lengths.axes[0].containers) == 7
    places = ablations.by_place(answers, "primary", ["cream", "pose"])
    x = places.axes[0].containers[1].lines[0].get_xdata()
    assert len(places.axes) == 6 and np.allclose(x, np.array([0, 25, 50, 75, 100]) + 0.6)
    with pytest.raises(ablations.NotRun, match="plan ablations has no rows"):
        ablations.by_length(answers[answers["plan"] == "primary"], "ablations")
