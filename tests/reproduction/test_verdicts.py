"""Verdicts over settings: conjunctions, what compares nothing, and the sentences that say it."""

import pandas as pd
import pytest
from made_contrasts import contrast, evidence

from cream.reproduction import verdicts
from cream.reproduction.paper_claims import ENTRIES

BY_TITLE = {entry.title: entry for entry in ENTRIES}
LINES, MODES = BY_TITLE["LongChat-Lines average"], BY_TITLE["Both modes are needed"]


def said(entry, *rows: dict) -> str:
    return verdicts.tally(verdicts.settings_of(entry, evidence(*rows).contrasts))


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [("holds", "holds", "**holds**"), ("holds", "cannot tell", "**cannot tell**"),
     ("holds", "does not hold", "**does not hold**"),
     ("cannot tell", "does not hold", "**does not hold**")],
)  # fmt: skip
def test_both_modes_must_both_be_needed(one, two, says):
    """A claim of several comparisons holds where all of them do."""
    rows = [contrast("both modes: without relativity", one, b="continuity"),
            contrast("both modes: without continuity", two, b="relativity", low=-4.0,
                     seeds_low=-1.0)]  # fmt: skip
    assert said(MODES, *rows).split(": ")[0] == says


def test_settings_that_disagree_are_named():
    """Not averaged into one word."""
    rows = [contrast("lines average", verdict, condition=condition, scaling=scaling)
            for verdict, condition, scaling in (("holds", "text", "linear"),
                                                ("cannot tell", "text", "ntk"),
                                                ("holds", "mixed", "linear"),
                                                ("holds", "mixed", "ntk"))]  # fmt: skip
    assert said(LINES, *rows) == (
        "**holds**: linear (both data); NTK (with retrieval)<br>**cannot tell**: NTK (text)"
    )
    assert said(LINES) == "not run"


def test_two_models_at_0_are_no_evidence():
    """Neither for nor against: such a setting is in no count, nor is one of unlike data."""
    rows = [contrast("lines average", "does not hold", scaling="linear", bound="near 0"),
            contrast("lines average", "holds", condition="mixed", family="sensitivity"),
            contrast("lines average", "holds")]  # fmt: skip
    assert said(LINES, *rows) == (
        "**holds**: YaRN (text)<br>compares nothing: linear (text)<br>"
        "left out, the data differ: YaRN (with retrieval)"
    )


def test_a_verdict_by_chance_of_few_bases_is_marked():
    """One that the interval over seeds does not share; not where there is none, or none is told."""
    wide = {"seeds_low": -3.0, "seeds_high": 6.0}
    none = {"seeds_low": float("nan"), "seeds_high": float("nan")}
    assert said(LINES, contrast("lines average", "holds", **wide)) == "**holds**: YaRN† (text)"
    assert said(LINES, contrast("lines average", "holds", **none)) == "**holds**: YaRN (text)"
    assert "†" not in said(LINES, contrast("lines average", "cannot tell", **wide))


def test_the_sentences_say_what_came_out():
    """What holds, what fails, what cannot be told; the bases and their t."""
    primary = {"family": "primary", "plan": "primary", "holm": 1.0}
    found = evidence(
        contrast("lines average", "cannot tell", value=-4.0, low=-10.0, high=2.0, seeds_low=-5.0,
                 seeds_high=-3.0, **primary),
        contrast("lines average", "does not hold", scaling="linear", value=0.0, bound="near 0",
                 **primary),
        contrast("key-value average", "cannot tell", value=-2.0),
        contrast("randpos is 0", "holds", a="randpos", b=None, kind="most", low=0.0),
        contrast("short tasks kept", "does not hold", b="original", kind="kept", low=-20.0,
                 high=-9.0, seeds_low=-16.0, seeds_high=-13.0),
        contrast("full length is no better", "does not hold", b="full", kind="kept", value=-19.0,
                 low=-30.0, high=-8.0, seeds_low=-21.0, seeds_high=-17.0),
    )  # fmt: skip
    lead, held, failed, open_, why = verdicts.told(found).splitlines()
    assert (
        "of 2 preregistered comparisons none holds, none does not, 1 cannot be told, 1 (by " in lead
    )
    assert "both sides being near 0" in lead and "-4.0 to -4.0 points" in lead
    assert "behind in lines in 1 of 1 settings and ahead in none" in lead
    assert held == "- **Holds**: RandPos is 0."
    assert failed.startswith("- **Does not hold**: Short tasks are kept. Beside the paper's list: ")
    assert "gains 19 to 19 points of lines over CREAM by YaRN (text)" in failed
    assert open_.startswith("- **Cannot be told**: LongChat-Lines average; CREAM leads with YaRN.")
    assert "stands on 3; Student's t with 2 degrees of freedom reaches 4.3 standard errors" in why
    assert "to within 6 to 6 points" in why and "as given to within 1 to 1" in why


def test_without_runs_nothing_is_told():
    """No sentence about numbers that are not there."""
    assert verdicts.told(evidence()) == "No grid was run: nothing can be told."
    one = contrast("lines average", "cannot tell", n=0)
    assert verdicts.told(evidence(one)) == "No grid was run: nothing can be told."


def test_a_variant_is_called_by_what_was_changed():
    """As in the figures, but for the CREAM before each of CREAM's own."""
    row = next(pd.DataFrame([contrast("x", "holds", a="a tenth", b="mean 9")]).itertuples())
    assert verdicts.compared(row) == "a tenth of the steps - mean 9"
    assert verdicts.named("cream") == "CREAM" and verdicts.named("pose-v1") == "PoSE v1"


def test_a_claim_about_one_scaling_names_the_data_alone():
    """Not "CREAM leads with NTK by NTK"."""
    found = evidence(contrast("key-value average", "does not hold", scaling="ntk"),
                     contrast("key-value average", "cannot tell", scaling="ntk",
                              condition="mixed"))  # fmt: skip
    text = verdicts.told(found)
    assert "- **Does not hold**: CREAM leads with NTK (text≈)." in text
    assert "- **Cannot be told**: CREAM leads with NTK (with retrieval)." in text


def test_several_claims_hold_and_fail_in_the_plural():
    """One holds, two fail."""
    primary = {"family": "primary", "plan": "primary", "holm": 1.0}
    said = [verdicts.told(evidence(*(
        contrast("lines average", "does not hold", scaling=scaling, **primary)
        for scaling in scalings
    ))) for scalings in (("ntk",), ("ntk", "yarn"))]  # fmt: skip
    assert "none holds, 1 does not, none cannot" in said[0]
    assert "none holds, 2 do not, " in said[1]


def test_linear_is_told_where_it_learns():
    """With its intervals, and how many more queries the other method's windows held."""
    at = {"plan": "dense", "condition": "dense-same", "scaling": "linear",
          "family": "exploratory"}  # fmt: skip
    name = "linear, dense retrieval: "
    found = evidence(
        contrast(name + "lines average", "cannot tell", value=-14.0, low=-50.0, high=22.0, **at),
        contrast(name + "key-value average", "cannot tell", value=-2.0, low=-6.0, high=2.0, **at),
        contrast(name + "skipped positions help, pose", "holds", a="pose", b="plain", value=40.0,
                 low=34.0, high=46.0, **at),
    )  # fmt: skip
    asked = {"plain": {"queries_a_window": 9.0}, "pose": {"queries_a_window": 4.0}}
    found = found._replace(layout={"dense-same": {"variants": asked}})
    (said,) = [line for line in verdicts.told(found).splitlines() if "**Linear**" in line]
    assert "n = 6 = 2 x 3" in said and "PoSE less plain fine-tuning is +40.0 [+34.0, +46.0]" in said
    assert "can answer 2.2 times as many queries (unlike data: no result)" in said
    assert "CREAM less PoSE is -14.0 [-50.0, +22.0] in lines and -2.0 [-6.0, +2.0]" in said
    assert "**Linear**" not in verdicts.told(evidence(contrast("randpos is 0", "holds")))


def test_free_content_stands_between_cream_and_pose():
    """Its perplexity, where it was run."""
    at = {"plan": "scale64", "endpoint": "log_ppl_far", "kind": "most", "family": "exploratory"}
    rows = [contrast("scale 64: perplexity no higher than pose", "does not hold", level_a=562.0,
                     level_b=326.0, **at),
            contrast("scale 64: free content, perplexity no higher than pose", "does not hold",
                     a="content free", level_a=363.0, level_b=326.0, **at)]  # fmt: skip
    assert "is 276 after CREAM and 26 after PoSE" in verdicts.told(evidence(rows[0]))
    both = verdicts.told(evidence(*rows))
    assert "is 276 after CREAM, 38 with its content read freely and 26 after PoSE" in both


def test_a_lead_that_is_a_tie_is_marked():
    """Within the margin on both sides; not one that is behind, nor another kind of claim."""
    behind = contrast("lines average", "does not hold", low=-9.0, high=-2.0, seeds_high=-3.0)
    tie = contrast("lines average", "does not hold", low=-2.0, high=3.0, condition="mixed")
    assert said(LINES, behind, tie) == "**does not hold**: YaRN (text); YaRN≈ (with retrieval)"
    kept = contrast("short tasks kept", "does not hold", kind="kept", low=-20.0, high=1.0)
    assert "≈" not in said(BY_TITLE["Short tasks are kept"], kept)


def test_what_is_only_explored_is_in_no_count():
    """It stands beside, and a claim of which nothing else speaks compares nothing."""
    linear = BY_TITLE["CREAM leads with linear"]
    silent = contrast("key-value average", "does not hold", scaling="linear", bound="near 0")
    beside = contrast("linear, dense retrieval: key-value average", "holds", scaling="linear",
                      condition="dense-same", family="exploratory")  # fmt: skip
    assert said(linear, silent, beside) == (
        "compares nothing: linear (text)<br>"
        "beside them, exploratory and in no count: linear (dense retrieval)"
    )
    text = verdicts.told(evidence(silent, beside))
    assert "Compares nothing anywhere: CREAM leads with linear." in text
    assert "- **Holds**: nothing." in text


def test_the_first_look_is_told():
    """How many comparisons were decided then."""
    now = contrast("lines average", "does not hold", family="primary", holm=1.0, plan="primary")
    runs = pd.DataFrame(
        {"plan": "primary", "condition": "text", "variant": variant, "scaling": "yarn",
         "base": base, "seed": 0, "lines": 50.0 + 9 * k * (variant == "cream"), "kv": 50.0,
         "middle": 1.0 * k, "middle_accuracy": 50.0, "needle": 9.0, "lines_all": 9.0,
         "in_window": 9.0, "rise": 1.0, "far": 9.0, "log_ppl_far": 300.0, "log_ppl_near": 299.0}
        for k, base in ((-1, "a"), (1, "b"), (0.5, "c")) for variant in ("cream", "pose")
    )  # fmt: skip
    told = verdicts.told(evidence(now)._replace(first=runs))
    # The middle is 0 apart in every base: alike, and so decided; the lines are not.
    assert "(at a first look, with 3 bases, 1 of them was decided)" in told
    assert "at a first look" not in verdicts.told(evidence(now))
