"""Sentences at the head of REPRODUCTION.md: numbers of the contrasts, none without its rows."""

import pandas as pd
import pytest
from made_contrasts import contrast, evidence

from cream.reproduction import sentences
from cream.reproduction.paper_claims import Evidence

PRIMARY = {"family": "primary", "plan": "primary", "holm": 1.0}


def made() -> Evidence:
    return evidence(
        contrast("lines average", "inconclusive", value=-4.0, low=-10.0, high=2.0, seeds_low=-5.0,
                 seeds_high=-3.0, **PRIMARY),
        contrast("lines average", "does not hold", scaling="linear", value=0.0, bound="near 0",
                 **PRIMARY),
        contrast("key-value average", "inconclusive", value=-2.0),
        contrast("randpos is 0", "holds", a="randpos", b=None, kind="most", low=0.0),
        contrast("short tasks kept", "does not hold", b="original", kind="kept", low=-20.0,
                 high=-9.0, seeds_low=-16.0, seeds_high=-13.0),
        contrast("full length is no better", "does not hold", b="full", kind="kept", value=-19.0,
                 low=-30.0, high=-8.0, seeds_low=-21.0, seeds_high=-17.0),
    )  # fmt: skip


def test_the_sentences_have_the_numbers_of_the_rows():
    """What holds, what fails, what is inconclusive; how wide the intervals are."""
    found = iter(sentences.opening(made())[1:])
    assert next(found) == (
        "Of 2 preregistered comparisons of CREAM with PoSE none holds, 0 does not hold, 1 is "
        "inconclusive and 1 has both sides near 0."
    )
    assert next(found) == "CREAM - PoSE on LongChat-Lines is between -4.0 and -4.0 points."
    assert "3 bases alone CREAM trails PoSE" in (line := next(found))
    assert "in 1 of 1 settings and leads it in none" in line
    assert next(found) == "CREAM - PoSE on key-value retrieval is between -2.0 and -2.0 points."
    assert next(found).startswith("1 of 16 claims hold in every setting")
    assert next(found).endswith("one setting or more: Short tasks are kept.")
    assert next(found).endswith(
        "CREAM leads PoSE on LongChat-Lines; CREAM leads PoSE on key-value retrieval by YaRN."
    )
    assert next(found).endswith("CREAM and PoSE are both near 0 on LongChat-Lines (text).")
    assert next(found).endswith("by 19 to 19 points by YaRN (text).")
    assert "over 3 bases and reach 6 to 6 points" in next(found)
    assert next(found, None) is None


def test_each_is_one_plain_sentence():
    """A capital or a number first, a full stop last, no other inside, no ellipsis."""
    for line in sentences.opening(made()):
        assert (line[0].isupper() or line[0].isdigit()) and line.endswith(".")
        assert ". " not in line and "..." not in line


def test_without_runs_there_is_no_number():
    """No sentence about numbers that are not there."""
    for found in (evidence(), evidence(contrast("lines average", "inconclusive", n=0))):
        assert sentences.opening(found) == [sentences.NO_GRID]
    assert sentences.dense_retrieval(evidence()) == "Dense retrieval was not run."
    assert sentences.needle(evidence()) == "The needle was not run."
    assert sentences.first_look(evidence()) == ""
    assert sentences.bases_and_seeds(evidence()) == "No comparison has several bases."


def test_several_comparisons_hold_and_fail_in_the_plural():
    """One fails, two fail."""
    found = [sentences.opening(evidence(*(
        contrast("lines average", "does not hold", scaling=scaling, **PRIMARY)
        for scaling in scalings
    )))[1] for scalings in (("ntk",), ("ntk", "yarn"))]  # fmt: skip
    assert "none holds, 1 does not hold and 0 is inconclusive." in found[0]
    assert "none holds, 2 do not hold and 0 is inconclusive." in found[1]


def test_linear_is_named_where_both_sides_are_near_0_in_all_its_data():
    """Not where one of them can be measured."""
    rows = [contrast("lines average", "does not hold", scaling="linear", condition=condition,
                     bound=bound) for condition, bound in
            (("text", "near 0"), ("mixed", "near 0"), ("mixed", ""))]  # fmt: skip
    line = "By linear scaling CREAM and PoSE are both near 0 on LongChat-Lines"
    assert any(line in one for one in sentences.opening(evidence(*rows[:2])))
    assert not any(line in one for one in sentences.opening(evidence(rows[0], rows[2])))


def test_dense_retrieval_has_its_intervals_and_its_queries():
    """And how many more queries the other method's windows held."""
    at = {"plan": "dense", "condition": "dense-same", "scaling": "linear",
          "family": "exploratory"}  # fmt: skip
    name = "linear, dense retrieval: "
    found = evidence(
        contrast(name + "lines average", "inconclusive", value=-14.0, low=-50.0, high=22.0, **at),
        contrast(name + "key-value average", "inconclusive", value=-2.0, low=-6.0, high=2.0, **at),
        contrast(name + "skipped positions help, pose", "holds", a="pose", b="plain", value=40.0,
                 low=34.0, high=46.0, **at),
    )  # fmt: skip
    counts = {"plain": {"queries_a_window": 9.0}, "pose": {"queries_a_window": 4.0}}
    found = found._replace(query_counts={"dense-same": {"variants": counts}})
    text = sentences.dense_retrieval(found)
    assert "n = 6 = 2 x 3" in text and "fine-tuning is +40.0 [+34.0, +46.0] points" in text
    assert "holds 2.2 times as many answerable queries, so this is no result" in text
    assert "-14.0 [-50.0, +22.0] on LongChat-Lines and -2.0 [-6.0, +2.0] on key-value" in text


def test_free_content_stands_between_cream_and_pose():
    """Its perplexity, where it was run."""
    at = {"plan": "scale64", "endpoint": "log_ppl_far", "kind": "most", "family": "exploratory"}
    rows = [contrast("scale 64: perplexity no higher than pose", "does not hold", level_a=562.0,
                     level_b=326.0, **at),
            contrast("scale 64: free content, perplexity no higher than pose", "does not hold",
                     a="content free", level_a=363.0, level_b=326.0, **at)]  # fmt: skip
    assert "is 276 after CREAM and 26 after PoSE" in " ".join(sentences.opening(evidence(rows[0])))
    both = " ".join(sentences.opening(evidence(*rows)))
    assert "is 276 after CREAM, 38 with free content and 26 after PoSE" in both


@pytest.fixture(name="runs")
def _runs() -> pd.DataFrame:
    return pd.DataFrame(
        {"plan": "primary", "condition": "text", "variant": variant, "scaling": "yarn",
         "base": base, "seed": 0, "lines": 50.0 + 9 * k * (variant == "cream"), "kv": 50.0,
         "middle": 1.0 * k, "middle_accuracy": 50.0, "needle": 4.0 + 8 * (variant == "pose"),
         "lines_all": 9.0, "in_window": 9.0, "rise": 1.0, "far": 9.0, "log_ppl_far": 300.0,
         "log_ppl_near": 299.0}
        for k, base in ((-1, "a"), (1, "b"), (0.5, "c")) for variant in ("cream", "pose")
    )  # fmt: skip


def test_the_first_look_has_its_bases_and_what_it_decided(runs):
    """The middle is 0 apart in every base: alike, and so decided; the lines are not."""
    text = sentences.first_look(evidence()._replace(first=runs))
    assert text.startswith("The first look had 3 bases. It decided 1 of the ")


def test_the_needle_has_a_range_a_method(runs):
    """Means over bases, a range over data and scalings."""
    more = runs.assign(condition="mixed", needle=runs["needle"] + 2)
    text = sentences.needle(evidence()._replace(runs=pd.concat([runs, more])))
    assert text.endswith("are: CREAM 4 to 6 %; PoSE 12 to 14 %.")
