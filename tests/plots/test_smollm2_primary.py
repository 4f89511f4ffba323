"""The figure of primary comparisons: what is drawn, what is pale, and what it says."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from cream.plots.smollm2_primary import PALE, primary_differences
from cream.plots.style import style

PARTS = (("mean", "all"), ("length", "16K"), ("length", "64K"))


def tables(pairs: dict[tuple[str, str], int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs of methods, each with a number of seeds whose differences are -1, 0, 1, ..."""
    means, seeds = [], []
    for ((a, b), n), (group, part) in itertools.product(pairs.items(), PARTS):
        verdict = "all: holds" if part == "all" else ""
        about = {"a": a, "b": b, "group": group, "part": part, "verdict": verdict}
        ends = {"value": n / 2 - 1.5, "low": -4.0, "high": 9.0, "seeds": tuple(range(n))}
        means.append(about | ends)
        seeds += [{"a": a, "b": b, "part": part, "seed": k, "value": k - 1.0} for k in range(n)]
    return pd.DataFrame(means), pd.DataFrame(seeds)


@pytest.fixture
def panels():
    given = tables({("cream", "pose"): 6, ("pose", "plain"): 6, ("cream", "endprompt"): 3})
    return primary_differences(*given, margin=5, needed=6).axes


def test_a_pair_has_a_panel_that_says_its_verdict_or_that_it_is_not_decided(panels):
    assert [panel.get_title(loc="left") for panel in panels] == [
        "CREAM \N{MINUS SIGN} PoSE\nall: holds",
        "PoSE \N{MINUS SIGN} plain fine-tuning\nall: holds",
        "CREAM \N{MINUS SIGN} EndPrompt\nnot decided: 3 of 6 seeds",
    ]


def dots(panel) -> list:
    return [line for line in panel.lines if line.get_marker() == "o"]


def test_every_seed_is_a_dot_in_the_colour_of_who_finds_more(panels):
    assert len(dots(panels[0])) == 6 * len(PARTS)
    by_value = {float(dot.get_ydata()[0]): dot.get_color() for dot in dots(panels[0])}
    assert by_value[-1.0] == style("pose").color and by_value[4.0] == style("cream").color
    assert by_value[0.0] not in (style("pose").color, style("cream").color)


def test_seeds_with_one_difference_do_not_hide_each_other():
    means, seeds = tables({("cream", "pose"): 6})
    (panel,) = primary_differences(means, seeds.assign(value=2.5), margin=5, needed=6).axes
    assert len({float(dot.get_xdata()[0]) for dot in dots(panel)}) == 6 * len(PARTS)


def test_what_is_not_decided_is_pale(panels):
    assert {dot.get_alpha() for dot in dots(panels[0])} == {1.0}
    assert {dot.get_alpha() for dot in dots(panels[2])} == {PALE}


def test_only_what_has_a_verdict_is_filled(panels):
    squares = [line for line in panels[0].lines if line.get_marker() == "s"]
    shown = [line for line in squares if line.get_color() != "white"]
    filled = [line.get_markerfacecolor() == line.get_color() for line in shown]
    assert filled == [True, False, False]


def test_everything_lies_inside_the_axis(panels):
    low, high = panels[0].get_ylim()
    assert low < -5 and high > 9  # the margin and the intervals


def test_the_band_is_the_margin_and_the_note_says_what_bars_are(panels):
    assert "5 points" in panels[0].figure.get_supxlabel()
    assert "over seeds, of this one base" in " ".join(panels[0].figure.get_supxlabel().split())


def test_without_a_comparison_there_is_nothing_to_draw():
    means, seeds = tables({})
    with pytest.raises(ValueError, match="nothing to draw"):
        primary_differences(means, seeds, 5, 6)
