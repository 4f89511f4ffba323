"""The figure of secondary comparisons: what stands in a line, how it is marked, what is said."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from cream.plots.smollm2_secondary import (
    DECIDED,
    DESCRIPTIVE,
    INCONCLUSIVE,
    LACKING,
    LOOKS,
    PALE,
    forest_of_groups,
)

KINDS = {DECIDED: "leads", INCONCLUSIVE: "inconclusive", LACKING: "not decided", DESCRIPTIVE: ""}


def table(**changed: object) -> pd.DataFrame:
    """A line a kind, two in each of two groups, 10 points apart."""
    lines = [
        {"group": f"group {k // 2}", "what": f"line {k}", "value": 10.0 * k, "low": 10.0 * k - 8,
         "high": 10.0 * k + 8, "kind": kind, "numbers": f"{10 * k} points", "of": "7, 8, 9",
         "said": said}
        for k, (kind, said) in enumerate(KINDS.items())
    ]  # fmt: skip
    return pd.DataFrame(lines).assign(**changed)


@pytest.fixture
def panel():
    return forest_of_groups(table(), 5, "Of one base.").axes[0]


def marks(panel) -> list:
    return [line for line in panel.lines if line.get_linestyle() == "None"]


def texts(panel) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_every_line_has_its_mark_and_its_interval(panel):
    assert [float(mark.get_xdata()[0]) for mark in marks(panel)] == [0, 10, 20, 30]
    bars = [bar.get_segments()[0][:, 0].tolist() for bar in panel.collections]
    assert bars == [[-8, 8], [2, 18], [12, 28], [22, 38]]


def test_lines_stand_below_each_other_under_the_name_of_their_group(panel):
    heights = [float(mark.get_ydata()[0]) for mark in marks(panel)]
    names = [text.xy[1] for text in panel.texts if text.get_text().startswith("group")]
    assert names[0] > heights[0] > heights[1] > names[1] > heights[2] > heights[3]
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        f"line {k}" for k in range(4)
    ]
    assert list(panel.get_yticks()) == heights


def test_what_an_interval_decides_is_filled_and_the_rest_open_or_pale(panel):
    looks = [(mark.get_marker(), to_hex(mark.get_color()) == PALE.lower(),
              mark.get_markerfacecolor() != "white") for mark in marks(panel)]  # fmt: skip
    assert looks == [("s", False, True), ("s", False, False), ("D", True, False),
                     ("o", True, True)]  # fmt: skip
    assert len(LOOKS) == 4


def test_numbers_seeds_and_verdict_stand_beside_a_line(panel):
    said = texts(panel)
    assert {"0 points", "30 points", "leads", "not decided", "verdict", "seeds"} <= set(said)
    assert said.count("7, 8, 9") == 4


def labels(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_has_the_kinds_that_are_drawn_in_words():
    assert labels(forest_of_groups(table(), 5)) == [
        "decided by its interval", "inconclusive by its interval", "not decided: a seed is missing",
        "descriptive, without a verdict", "95 % over seeds of this one base",
        "\N{PLUS-MINUS SIGN}5 points",
    ]  # fmt: skip
    few = labels(forest_of_groups(table(kind=DECIDED), 5))
    assert len(few) == 3 and few[0] == "decided by its interval"


def test_what_was_not_run_has_a_line_without_a_mark():
    nothing = dict.fromkeys(("value", "low", "high"), math.nan)
    figure = forest_of_groups(table(kind=LACKING, **nothing, numbers="not run"), 5)
    assert texts(figure.axes[0]).count("not run") == 4
    assert all(math.isnan(mark.get_xdata()[0]) for mark in marks(figure.axes[0]))
    assert len(labels(figure)) == 2


def test_the_note_stands_below(panel):
    assert panel.figure.get_supxlabel() == "Of one base."


def test_texts_do_not_touch():
    """Columns side by side, also the longest numbers there are."""
    long = table(numbers="\N{MINUS SIGN}12.8 [\N{MINUS SIGN}55.1, +29.6]")
    figure = forest_of_groups(long, 5)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :] if other.width)


def test_without_a_comparison_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no comparison to draw"):
        forest_of_groups(table().iloc[:0], 5)
