"""`make verify` finds committed rows as they are, and every change to one."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from cream import models, questions, results, verify, verify_grid, verify_rows
from cream.provenance import hash_of
from cream.tasks import kv_retrieval, longchat_lines

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


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    """Answers of the base at short lengths, read off one forward as a grid does."""
    base = ROOT / "data" / "miniature"
    tokenizer, model = models.load_tokenizer(base), models.load(base, dtype=torch.float32)
    asked = [*longchat_lines.examples(tokenizer, [307], 5, questions=5),
             *kv_retrieval.examples(tokenizer, [512], 1)]  # fmt: skip
    items = tuple(questions._item(tokenizer, one) for one in asked)
    built = questions.Questions("main", 512, items, (), ())
    right, _ = questions.right_tokens(model, items)
    return built.table(tokenizer).assign(
        score=[float(n == len(item.target)) for n, item in zip(right, items, strict=True)],
        steps=0, key="k", variant="original", scaling="none", scale=1, base="miniature",
        base_hash=models.weights_hash(base), asked="main", card="cpu",
    )  # fmt: skip


def test_a_grids_answers_are_what_generating_gives(grid):
    """All ten; a score that was changed is found, a near tie on another card is spared."""
    found = verify_grid.verify_grid(grid, ROOT, rows=10, progress=False)
    assert len(found.rows) == 10 and found.differing.empty and found.unchecked == []
    wrong = grid.assign(score=1 - grid["score"])
    found = verify_grid.verify_grid(wrong, ROOT, rows=4, progress=False)
    assert set(found.differing["value"]) == {"score"} and len(found.differing) == 4
    one = grid.assign(score=[1 - grid["score"][0], *grid["score"][1:]], card="NVIDIA H100")
    found = verify_grid.verify_grid(one, ROOT, rows=10, progress=False)
    assert found.differing.empty and found.unchecked[0].what == "near ties"
    assert len(verify_grid.verify_grid(one.assign(card="cpu"), ROOT, 10, 0, False).differing) == 1


def test_what_of_a_grid_cannot_be_checked_is_counted(grid):
    """Tuned models, texts, a base that is not here, other weights, a question nobody asked."""
    parts = [grid, grid.assign(steps=100), grid.assign(task="perplexity"),
             grid.assign(base="seed9"), grid.assign(base_hash="0" * 16)]  # fmt: skip
    found = verify_grid.verify_grid(pd.concat(parts, ignore_index=True), ROOT, 2, progress=False)
    assert [(one.rows, one.why.split()[-1]) for one in found.unchecked] == [
        (10, "kept"), (10, "texts"), (10, "weights"), (10, "here"),
    ]  # fmt: skip
    found = verify_grid.verify_grid(grid.assign(document="nothing"), ROOT, 1, progress=False)
    assert list(found.differing["value"]) == ["question"]


@pytest.mark.parametrize(("was", "now"), [(100.0, 100.02), (None, 1.0)])
def test_losses_are_compared_within_rounding(was, now):
    """1e-4 of the sum: other processors add in another order; what is absent is not 0."""
    row = pd.Series(dict.fromkeys((*verify_rows.EXACT, *verify_rows.CLOSE)), dtype=object)
    one, two = row.copy(), row.copy()
    one["nll"], two["nll"] = was, now
    assert [each[0] for each in verify_rows.compare(one, two)] == ["nll"]
    two["nll"] = was and was * (1 + 5e-5)
    assert list(verify_rows.compare(one, two)) == []


def test_a_grid_that_cannot_be_checked_fails_no_rows_that_can(monkeypatch):
    """Times are left out; of tuned models no weights are kept."""
    none = verify_rows.Checked(pd.DataFrame(), pd.DataFrame(), [])
    some, asked = none._replace(rows=pd.DataFrame({"row": [1]})), []
    monkeypatch.setattr(verify, "_said", lambda *_: "")
    monkeypatch.setattr(verify_rows, "verify", lambda rows, *_: asked.append(rows) or some)
    monkeypatch.setattr(verify_grid, "verify_grid", lambda *_: none)
    assert verify.main(["data/results", "--seed", "0"]) == 0
    assert not asked[0]["task"].str.startswith("speed_").any()
    monkeypatch.setattr(verify_rows, "verify", lambda *_: none)
    assert verify.main(["data/results", "--seed", "0"]) == 1
