"""Tables by method: documents of two variants are two, and variants are never averaged."""

import json
import math

import pandas as pd
import pytest

from cream import statistics
from cream.statistics import proportion, share_over_lengths


def rows(**changes: object) -> pd.DataFrame:
    """Two models' answers about a sentence in code and in manuals; stretches have one name."""
    made = [
        {
            "method": method, "scaling": "yarn", "scale": 8, "base": "b", "model_hash": method,
            "task": "needle", "sample": sample, "prompt_hash": f"{kind} {sample}",
            "token_length": 2048, "document": f"2048 tokens, stretch {sample // 2}-0",
            "settings": json.dumps({"style": "chat", "mode": "alone", "haystack": kind}),
            "score": float(kind == "code"), "contained": 1.0,
        }
        for method in ("cream", "pose") for kind in ("code", "manual") for sample in range(8)
    ]  # fmt: skip
    return pd.DataFrame(made).assign(**changes)


def test_code_and_manuals_are_documents_of_their_own():
    """Of 8 samples each, two a stretch: 4 and 4 documents, not 4."""
    frame = rows()
    mine = frame[frame["method"] == "cream"]
    found = statistics.units(mine)
    assert found.nunique() == 8 and found.index.equals(mine.index)
    one = mine[mine["settings"].str.contains("code")]
    assert statistics.units(one).tolist() == one["document"].tolist()


def test_the_interval_counts_them():
    """What one variant answers always and the other never is no effect of documents."""
    mine = rows()[lambda f: f["method"] == "cream"]
    apart = statistics.proportion(mine["score"], statistics.units(mine))
    pooled = statistics.proportion(mine["score"], mine["document"])
    assert apart.high - apart.low != pooled.high - pooled.low
    wanted = statistics.proportion(mine["score"], [f"{d} {k}" for d, k in zip(
        mine["document"], mine["settings"], strict=True)])  # fmt: skip
    assert apart == wanted


def test_variants_are_not_averaged_by_method():
    """The mean over both, 0.5, is nobody's accuracy."""
    with pytest.raises(ValueError, match="rows of 2 variants .*'chat alone code', 'chat alone man"):
        statistics.by_method(rows(), ["token_length"])
    table = statistics.by_method(rows(), ["variant", "token_length"])
    cells = dict(zip(zip(table["method"], table["variant"], strict=True), table["value"],
                     strict=True))  # fmt: skip
    assert cells[("cream", "chat alone code")] == 1 and cells[("pose", "chat alone manual")] == 0
    assert set(table["n"]) == {8}


def test_tables_of_one_variant_and_without_settings_are_as_before():
    one = rows()[lambda f: f["settings"].str.contains("manual")]
    pd.testing.assert_frame_equal(
        statistics.by_method(one, ["token_length"]),
        statistics.by_method(one.drop(columns="settings"), ["token_length"]),
    )


def test_two_tasks_may_have_two_forms():
    """A table over tasks: each has a form of its own."""
    frame = rows(task="needle")
    manual = frame["settings"].str.contains("manual")
    frame.loc[manual, "task"] = "passkey"
    assert len(statistics.by_method(frame, ["task"])) == 4


def test_pairs_are_of_one_variant():
    """Equal prompts under two settings (truncated, sliding) are two pairs, not four."""
    frame = rows(prompt_hash="same")
    first, second = (frame[frame["method"] == name] for name in ("cream", "pose"))
    a, b, unit = statistics.match(first, second)
    assert len(a) == len(b) == 16 and (a == b).all() and len(set(unit)) == 8


def _models(counts, sample=lambda model, k: k):
    """Ten questions a model and length, of which so many are answered."""
    return pd.DataFrame([
        {"model_hash": model, "multiple": multiple, "document": None, "sample": sample(model, k),
         "score": float(k < right)}
        for (model, multiple), right in counts.items() for k in range(10)
    ])  # fmt: skip


def test_a_share_over_one_length_is_its_proportion():
    found, runs = share_over_lengths(_models({("a", 2.0): 4}), [2.0])
    assert (found, runs) == (proportion([1.0] * 4 + [0.0] * 6), 1)


def test_lengths_weigh_alike_and_a_model_that_lacks_one_is_left_out():
    frame = _models({("a", 2.0): 4, ("a", 4.0): 0, ("b", 2.0): 10})
    found, runs = share_over_lengths(frame, [2.0, 4.0])
    assert (found.value, found.n, runs) == (pytest.approx(0.2), 20, 1)
    one = proportion([1.0] * 4 + [0.0] * 6)
    none = proportion([0.0] * 10)
    assert found.high - found.value == pytest.approx(math.hypot(one.high - 0.4, none.high) / 2)


def test_the_same_questions_of_two_models_are_no_new_questions():
    same = share_over_lengths(_models({("a", 2.0): 4, ("b", 2.0): 4}), [2.0])[0]
    own = {"a": 0, "b": 10}
    apart = _models({("a", 2.0): 4, ("b", 2.0): 4}, lambda model, k: own[model] + k)
    new = share_over_lengths(apart, [2.0])
    assert new[0] == proportion([1.0] * 8 + [0.0] * 12)
    assert same.high - same.low > new[0].high - new[0].low and same.n == new[0].n == 20


def test_no_model_with_all_lengths_is_no_share():
    found, runs = share_over_lengths(_models({("a", 2.0): 4, ("b", 4.0): 1}), [2.0, 4.0])
    assert math.isnan(found.value) and (found.n, runs) == (0, 0)


def test_two_scales_of_one_scaling_are_told_apart_and_others_keep_their_name():
    """A table by method and scaling would have both in one place; a lone scale needs no name."""
    four, eight = rows(method="scaled", scale=4), rows(method="scaled", scale=8)
    lone = rows(method="scaled", scaling="linear", scale=8)
    frame = pd.concat([four, eight, lone, rows()], ignore_index=True)
    found = statistics.told_apart(frame)
    named = found[found["method"] == "scaled"].groupby("scaling")["scale"].unique()
    assert {k: list(v) for k, v in named.items()} == {"yarn x4": [4], "yarn x8": [8], "linear": [8]}
    assert set(found.loc[found["method"] == "cream", "scaling"]) == {"yarn"}
    assert set(frame["scaling"]) == {"yarn", "linear"}
    table = statistics.told_apart(statistics.by_method(frame, ["variant"]))
    assert not table.duplicated(["method", "scaling", "variant"]).any()
