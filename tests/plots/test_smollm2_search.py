"""The figure of the search of steps and rate: a line a number of steps, a mark a seed, a ring."""

from __future__ import annotations

import pandas as pd
import pytest

from cream.plots.smollm2_search import sentences_by_rate

TABLE = pd.DataFrame(
    [(150, 1e-4, 100, 30), (150, 1e-4, 101, 36), (150, 2e-4, 100, 50), (300, 2e-4, 100, 60),
     (300, 2e-4, 101, 50)], columns=["steps", "learning_rate", "seed", "value"],
)  # fmt: skip


def lines(panel) -> dict[str, list]:
    """What is drawn by its name; marks of seeds in the order of the lines."""
    found: dict[str, list] = {}
    for line in panel.lines:
        found.setdefault(line.get_label(), []).append(line)
    return found


def test_a_line_goes_through_the_means_and_a_mark_is_a_seed():
    drawn = lines(sentences_by_rate(TABLE, 1).axes[0])
    assert list(drawn["150 steps"][0].get_ydata()) == [33, 50]
    assert list(drawn["300 steps"][0].get_ydata()) == [55]
    assert [list(each.get_ydata()) for each in drawn["_seeds"]] == [[30, 36, 50], [60, 50]]
    assert "chosen" not in drawn


def test_a_rate_that_lacks_a_seed_has_no_mean():
    """Its seed is there."""
    drawn = lines(sentences_by_rate(TABLE, 2).axes[0])
    assert list(drawn["150 steps"][0].get_xdata()) == [1e-4]
    assert [len(each.get_ydata()) for each in drawn["_seeds"]] == [3, 2]


def test_the_ring_is_around_the_mean_of_what_is_chosen():
    figure = sentences_by_rate(TABLE, 2, (300, 2e-4), ["Two seeds."])
    drawn = lines(figure.axes[0])
    (ring,) = drawn["chosen"]
    assert ring.get_ydata() == [55] and ring.get_xdata() == drawn["300 steps"][0].get_xdata()
    assert figure._supxlabel.get_text() == "Two seeds."


def test_rates_are_named_as_they_were_run():
    panel = sentences_by_rate(TABLE, 2).axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1e-4", "2e-4"]
    assert panel.get_xscale() == "log" and panel.get_ylim()[0] == 0


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no run to draw"):
        sentences_by_rate(TABLE.iloc[:0], 2)
