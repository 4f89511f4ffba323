"""Verdicts over settings: conjunctions, both sides near 0, and what qualifies a verdict."""

import pandas as pd
import pytest
from made_contrasts import contrast, evidence

from cream.reproduction import verdicts
from cream.reproduction.paper_claims import ENTRIES

BY_TITLE = {entry.title: entry for entry in ENTRIES}
LINES, MODES = BY_TITLE["CREAM leads PoSE on LongChat-Lines"], BY_TITLE["Both modes are needed"]


def words(entry, *rows: dict) -> dict[tuple[str, str], str]:
    """The verdict of each setting, by data and scaling."""
    settings = verdicts.settings_of(entry, evidence(*rows).contrasts)
    return {(each.condition, each.scaling): each.words for each in settings}


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [("holds", "holds", "holds"), ("holds", "inconclusive", "inconclusive"),
     ("holds", "does not hold", "does not hold"),
     ("inconclusive", "does not hold", "does not hold")],
)  # fmt: skip
def test_both_modes_must_both_be_needed(one, two, both):
    """A claim of several comparisons holds where all of them do."""
    rows = [contrast("both modes: without relativity", one, b="continuity"),
            contrast("both modes: without continuity", two, b="relativity", low=-4.0, high=-1.0,
                     seeds_low=-1.0)]  # fmt: skip
    (verdict,) = words(MODES, *rows).values()
    assert verdict.startswith(both)


def test_settings_have_a_verdict_each():
    """In the order of the paper's data first; places name them."""
    rows = [contrast("lines average", verdict, condition=condition, scaling=scaling)
            for verdict, condition, scaling in (("holds", "mixed", "linear"),
                                                ("inconclusive", "text", "ntk"),
                                                ("holds", "text", "linear"),
                                                ("holds", "mixed", "ntk"))]  # fmt: skip
    assert list(words(LINES, *rows).items()) == [
        (("text", "linear"), "holds"), (("text", "ntk"), "inconclusive"),
        (("mixed", "linear"), "holds"), (("mixed", "ntk"), "holds"),
    ]  # fmt: skip
    settings = verdicts.settings_of(LINES, evidence(*rows).contrasts)
    assert verdicts.places(settings) == "linear, NTK (both data)"
    assert verdicts.places(settings[:3]) == "linear (both data); NTK (text)"
    assert words(LINES) == {}


def test_two_models_at_0_are_no_evidence():
    """Neither for nor against, and nor is a comparison of unlike training data."""
    rows = [contrast("lines average", "does not hold", scaling="linear", bound="near 0"),
            contrast("lines average", "holds", condition="mixed", family="sensitivity"),
            contrast("lines average", "holds")]  # fmt: skip
    found = verdicts.settings_of(LINES, evidence(*rows).contrasts)
    assert [each.words for each in found] == ["both near 0", "holds", "training data differ"]
    assert [each.measurable for each in found] == [False, True, True]


def test_a_verdict_by_chance_of_few_bases_is_marked():
    """One that the interval over seeds does not share; not where there is none."""
    wide = {"seeds_low": -3.0, "seeds_high": 6.0}
    none = {"seeds_low": float("nan"), "seeds_high": float("nan")}
    at = ("text", "yarn")
    assert words(LINES, contrast("lines average", "holds", **wide))[at] == "holds, over bases only"
    assert words(LINES, contrast("lines average", "holds", **none))[at] == "holds"
    assert words(LINES, contrast("lines average", "inconclusive", **wide))[at] == "inconclusive"


def test_a_variant_is_called_by_what_was_changed():
    """As in the figures, but for the CREAM before each of CREAM's own."""
    row = next(pd.DataFrame([contrast("x", "holds", a="a tenth", b="mean 9")]).itertuples())
    assert verdicts.compared(row) == "a tenth of the steps - mean 9"
    assert verdicts.named("cream") == "CREAM" and verdicts.named("pose-v1") == "PoSE v1"


def test_a_lead_that_is_a_tie_says_so():
    """Within the margin on both sides; not one that is behind, nor another kind of claim."""
    behind = contrast("lines average", "does not hold", low=-9.0, high=-2.0, seeds_high=-3.0)
    tie = contrast("lines average", "does not hold", low=-2.0, high=3.0, condition="mixed")
    found = words(LINES, behind, tie)
    assert found["text", "yarn"] == "does not hold"
    assert found["mixed", "yarn"] == "does not hold, within 5 points"
    kept = contrast("short tasks kept", "does not hold", kind="kept", low=-20.0, high=1.0)
    (verdict,) = words(BY_TITLE["Short tasks are kept"], kept).values()
    assert "within" not in verdict


def test_what_is_only_explored_is_no_verdict():
    """It stands beside the numbers of a claim."""
    linear = BY_TITLE["CREAM leads PoSE on key-value retrieval by linear"]
    near_0 = contrast("key-value average", "does not hold", scaling="linear", bound="near 0")
    beside = contrast("linear, dense retrieval: key-value average", "holds", scaling="linear",
                      condition="dense-same", family="exploratory")  # fmt: skip
    assert list(words(linear, near_0, beside).values()) == ["both near 0", "exploratory"]
