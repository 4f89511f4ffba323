"""The summary's curves and differences are the rows' own."""

import pytest
from made_campaign import campaign

from cream.statistics import multilevel
from cream.study.analysis import endpoints
from cream.study.figures import forest, overview


def test_curves_above_differences_below():
    """A column a condition; unlike data are hollow; nothing is drawn of models at 0."""
    answers = campaign(("primary",), samples=6)
    runs = endpoints.units(answers)
    figure = overview.summary(answers, runs, flagged={"mixed": ["plain"]})
    above, right, below, other = figure.axes
    assert [each.get_title(loc="left") for each in (above, right)] == [
        "text only, yarn", "text with retrieval, yarn",
    ]  # fmt: skip
    labels = [line.get_label() for line in above.lines if line.get_label()[0] != "_"]
    assert labels == ["original", "scaled, untuned", "plain fine-tuning", "PoSE", "full length",
                      "CREAM"]  # fmt: skip
    table = multilevel.differences(runs, "cream", "pose", "lines").set_index(
        ["condition", "scaling"]
    )
    drawn = [line.get_xdata()[0] for line in below.lines if line.get_marker() == "^"]
    assert drawn[0] == pytest.approx(table.loc[("text", "yarn"), "value"])
    hollow = [line.get_markerfacecolor() == "white" for line in other.lines
              if line.get_marker() == "^"]  # fmt: skip
    assert hollow == [False, True, False, True]
    names = [text.get_text() for text in below.get_yticklabels()]
    assert names[-1] == "CREAM − PoSE\nlines, 4 to 7.8 N"
    floor = runs.assign(**{each: runs[each].where(runs["scaling"] != "yarn", 0.0)
                           for each in ("lines", "kv")})  # fmt: skip
    gone = overview.summary(answers, floor)
    assert not [line for line in gone.axes[2].lines if line.get_marker() == "^"]
    said = [each.get_title().get_text() for each in gone.legends]
    assert any("By yarn every tuned model is at 0" in text for text in said)


def test_without_the_primary_plan_there_is_none():
    answers = campaign(("scale64",), samples=3)
    with pytest.raises(forest.NotRun, match="plan primary"):
        overview.summary(answers, endpoints.units(answers))
