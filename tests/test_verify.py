"""`make verify` finds committed rows as they are, and every change to one."""

import re
from pathlib import Path

import pandas as pd
import pytest

from cream import results, verify, verify_rows
from cream.provenance import hash_of

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "data" / "results" / "reproduce.parquet"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """The base's short questions: all rows of two tasks at their cheapest lengths."""
    rows = results.read(ROWS)
    rows = rows[rows["method"] == "original"]
    lines = rows[(rows["task"] == "longchat_lines") & (rows["token_length"] <= 512)]
    pairs = rows[(rows["task"] == "kv_retrieval") & (rows["token_length"] == 614)]
    return pd.concat([lines, pairs], ignore_index=True)


def changed(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Every row with other values: whichever is sampled has them."""
    return frame.assign(**{name: [value] * len(frame) for name, value in values.items()})


def test_committed_rows_are_what_is_computed(frame):
    """Four of them, two a task; nothing differs and nothing is left unchecked."""
    found = verify_rows.verify(frame, ROOT, rows=4, seed=3, progress=False)
    assert found.rows.groupby("task").size().to_dict() == {"kv_retrieval": 2, "longchat_lines": 2}
    assert found.differing.empty and found.unchecked == []


@pytest.mark.parametrize(
    ("column", "value", "also"),
    [
        ("prediction", "12345>", set()),
        ("score", 0.5, set()),
        ("prompt_hash", hash_of("another"), set()),
        ("key", hash_of("made up"), set()),
        ("model_hash", hash_of("other weights"), set()),
        ("document", "307 tokens, record 999", {"question"}),
    ],
)
def test_a_changed_value_is_named(frame, column, value, also):
    """In a table of one row a value: what was committed and what is computed."""
    lines = frame[(frame["task"] == "longchat_lines") & (frame["token_length"] == 307)]
    found = verify_rows.verify(changed(lines, **{column: value}), ROOT, rows=1, progress=False)
    assert set(found.differing["value"]) == (also or {column})
    if not also:
        assert (found.differing["committed"] == value).all()


def test_the_sample_is_random_and_spread():
    """Another seed takes other rows; models and tasks have equal shares as far as they reach."""
    made = pd.DataFrame(
        {"model_hash": ["a"] * 60 + ["b"] * 60, "task": (["x"] * 50 + ["y"] * 10) * 2}
    )
    first, again, other = (verify_rows.pick(made, 48, seed) for seed in (1, 1, 2))
    assert first.equals(again) and set(first.index) != set(other.index)
    assert first.groupby(["model_hash", "task"]).size().to_list() == [14, 10, 14, 10]
    assert len(verify_rows.pick(made, 500, 0)) == 120


def test_what_cannot_be_checked_is_counted_with_its_reason(frame, tmp_path):
    """A run that is not here, a task without its texts, a precision that needs a GPU."""
    lines = frame[frame["task"] == "longchat_lines"].head(3)
    absent = lines.assign(run="runs/nowhere", model_hash="0" * 16)
    text = lines.assign(task="perplexity")
    tabled = lines.assign(task="a_task_of_tomorrow")
    half = lines.assign(settings=lines["settings"].str.replace("float32", "bfloat16"))
    found = verify_rows.verify(
        pd.concat([absent, text, tabled, half]), ROOT, 4, corpus=tmp_path / "none", progress=False
    )
    said = {one.what: one.why for one in found.unchecked}
    assert "not here" in said["runs/nowhere"] and "01_data" in said["original, perplexity"]
    assert "no builder" in said["original, a_task_of_tomorrow"]
    assert "GPU" in said["original, longchat_lines"] or len(found.rows)
    assert sum(one.rows for one in found.unchecked) + len(found.rows) >= 9


def test_the_command_says_its_seed_and_fails_on_a_difference(frame, tmp_path, capsys):
    """Exit code 0 for rows as they are, 1 for changed ones, 1 where nothing could be checked."""
    pairs = frame[(frame["task"] == "kv_retrieval") & (frame["sample"] < 2)]
    good = results.to_parquet(pairs, tmp_path / "good.parquet")
    assert verify.main([str(good), "--rows", "2"]) == 0
    said = capsys.readouterr().out
    assert (
        re.search(r"2 of 10 rows, chosen by --seed \d+", said)
        and "All 2 are as committed: key, prompt" in said
    )
    bad = results.to_parquet(changed(pairs, prediction="?"), tmp_path / "bad.parquet")
    assert verify.main([str(bad), "--rows", "2", "--seed", "4"]) == 1
    said = capsys.readouterr().out
    assert "--seed 4" in said and "2 of 2 rows differ" in said and "prediction" in said
    none = results.to_parquet(pairs.assign(run="runs/none"), tmp_path / "none.parquet")
    assert verify.main([str(none)]) == 1
    assert "None of 10 rows could be checked" in capsys.readouterr().out
    assert verify.main([str(tmp_path / "absent")]) == 1


@pytest.mark.parametrize(("was", "now"), [(100.0, 100.02), (None, 1.0)])
def test_losses_are_compared_within_rounding(was, now):
    """1e-4 of the sum: other processors add in another order; what is absent is not 0."""
    row = pd.Series(dict.fromkeys((*verify_rows.EXACT, *verify_rows.CLOSE)), dtype=object)
    one, two = row.copy(), row.copy()
    one["nll"], two["nll"] = was, now
    assert [each[0] for each in verify_rows.compare(one, two)] == ["nll"]
    two["nll"] = was and was * (1 + 5e-5)
    assert list(verify_rows.compare(one, two)) == []
