"""Tables by method: documents of two variants are two, and variants are never averaged."""

import json

import pandas as pd
import pytest

from cream import statistics


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
