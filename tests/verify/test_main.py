"""`make verify` finds committed rows as they are, and every change to one."""

import functools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch

from cream import evaluation, results
from cream.tasks import infinitebench, ruler
from cream.utils.provenance import hash_of
from cream.verify import __main__ as verify
from cream.verify import examples, study
from cream.verify import rows as verify_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "data" / "results" / "reproduce.parquet"
GRID = ROOT / "data" / "results" / "grid.parquet"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """The base's short questions: all rows of two tasks at their cheapest lengths."""
    rows = results.read(ROWS)
    rows = rows[rows["method"] == "original"]
    short = rows[(rows["task"] == "longchat_lines") & (rows["token_length"] <= 512)]
    pairs = rows[(rows["task"] == "kv_retrieval") & (rows["token_length"] == 614)]
    return pd.concat([short, pairs], ignore_index=True)


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
    short = frame[(frame["task"] == "longchat_lines") & (frame["token_length"] == 307)]
    found = verify_rows.verify(changed(short, **{column: value}), ROOT, rows=1, progress=False)
    assert set(found.differing["value"]) == (also or {column})
    if not also:
        assert (found.differing["committed"] == value).all()


def test_an_answer_in_a_narrow_dtype_that_rounding_chose_is_counted_apart(frame, monkeypatch):
    short = frame[(frame["task"] == "longchat_lines") & (frame["token_length"] == 307)]
    monkeypatch.setattr(verify_rows, "_is_near_tie", lambda *given: len(given[-1]) > 0)
    found = verify_rows.verify(changed(short, prediction="1"), ROOT, rows=1, progress=False)
    assert found.differing.empty and found.rows.empty
    assert [(one.rows, "near tie" in one.what) for one in found.unchecked] == [(1, True)]
    assert len(verify_rows.verify(short, ROOT, rows=1, progress=False).rows) == 1


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
    few = frame[frame["task"] == "longchat_lines"].head(3)
    absent = few.assign(run="runs/nowhere", model_hash="0" * 16)
    text = few.assign(task="perplexity")
    tabled = few.assign(task="a_task_of_tomorrow")
    half = few.assign(settings=few["settings"].str.replace("float32", "bfloat16"))
    found = verify_rows.verify(
        pd.concat([absent, text, tabled, half]), ROOT, 4, corpus=tmp_path / "none", progress=False
    )
    said = {one.what: one.why for one in found.unchecked}
    assert "not here" in said["runs/nowhere"]
    assert str(tmp_path / "none") in said["original, perplexity"]
    assert "no builder" in said["original, a_task_of_tomorrow"]
    assert "GPU" in said["original, longchat_lines"] or len(found.rows)
    assert sum(one.rows for one in found.unchecked) + len(found.rows) >= 9


@pytest.mark.parametrize("task", verify_rows.BUILDERS)
def test_every_task_with_a_builder_is_registered(task, tmp_path):
    """With its corpus and float32 nothing hinders it; RULER's rows are of ruler-NAME."""
    assert verify_rows._obstacle(task, {"dtype": "float32"}, tmp_path) is None


@pytest.mark.slow
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
    """Committed answers of the shipped base, as it is and scaled by YaRN, to short questions."""
    wanted = [("base", "==", "miniature"), ("plan", "==", "primary"), ("steps", "==", 0),
              ("scaling", "in", ["none", "yarn"]), ("token_length", "in", [307, 512])]  # fmt: skip
    found = parquet.filters_to_expression(wanted)
    # Batch by batch: to touch the memory of the whole table takes longer than to read it.
    batches = parquet.ParquetFile(GRID).iter_batches(batch_size=16384, use_threads=False)
    parts = [pyarrow.Table.from_batches([batch]).filter(found) for batch in batches]
    return pyarrow.concat_tables(parts).to_pandas()


def lines(grid: pd.DataFrame) -> pd.DataFrame:
    """The scaled base's answers to the questions that are the quickest to build and to ask."""
    part = grid[(grid["variant"] == "scaled") & (grid["token_length"] == 307)]
    return part.reset_index(drop=True)


def check(frame: pd.DataFrame, rows: int = 8, seed: int = 0) -> verify_rows.Checked:
    return study.verify_grid(frame, ROOT, rows, seed, progress=False)


@pytest.mark.slow
def test_a_grids_answers_are_what_generating_gives(grid):
    """Of both models and tasks, on whatever card they were computed; nothing is left out."""
    found = check(grid[grid["task"].isin(study.TASKS)], rows=12, seed=2)
    assert found.differing.empty and found.unchecked == []
    sizes = found.rows.groupby(["variant", "task"]).size()
    assert len(found.rows) == 12 and len(sizes) == 4 and sizes.min() == 3


@pytest.mark.slow
def test_made_up_scores_fail(grid):
    """Random coins differ in half of the rows; so do scores with predictions to match."""
    made, rng = lines(grid), np.random.default_rng(0)
    made["score"] = rng.integers(0, 2, len(made)).astype(float)
    assert 1 <= check(made).differing["row"].nunique() <= 8
    right = made["score"] == 1
    said = made["target"].where(right, [f"{n}>" for n in rng.integers(10_000, 99_999, len(made))])
    size = made["answer_tokens"].where(right, 0)
    fair = made.assign(prediction=said, right=size)
    assert check(fair).differing["row"].nunique() >= 4
    assert len(check(fair, rows=1).rows) == 1  # nothing is forgiven in small samples either


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"score": 0.0}, "score"),
        ({"score": 0.0, "prediction": "12345>", "right": 0}, "score"),
        ({"target": "12345>"}, "target"),
    ],
)
def test_one_tampered_answer_is_found(grid, values, named):
    """Among eight that are as they were, one that was right; whichever card it names."""
    rows = lines(grid)[:8]
    place = int(rows.index[rows["score"] == 1][0])
    for name, value in values.items():
        rows.loc[place, name] = value
    found = check(rows)
    assert list(found.differing["value"]) == [named] and len(found.rows) == 8
    assert f"sample {rows['sample'][place]}" in found.differing["row"][0]


@pytest.mark.slow
def test_the_text_of_a_wrong_answer_counts(grid):
    """A score of 0 stays 0 whatever is said: the sentence is compared, and no empty one passes."""
    rows = lines(grid)
    wrong = rows["score"] == 0
    rows = rows[rows["document"].isin(rows["document"][wrong][:1])]
    wrong = rows["score"] == 0
    assert wrong.any() and check(rows).differing.empty
    for said in ("no number", "", rows["target"].iloc[0][0] + " line"):
        found = check(rows.assign(prediction=rows["prediction"].where(~wrong, said)))
        assert list(found.differing["value"]) == ["prediction"] * wrong.sum()


@pytest.mark.slow
def test_a_near_tie_is_left_out_and_counted(grid, monkeypatch):
    """Only where the committed token is nearly as likely here, and the row agrees with itself."""
    rows = lines(grid)
    record = rows["document"][rows["score"] == 1].iloc[0]
    rows = rows[rows["document"] == record].sort_values("score", ascending=False)
    rows = rows.reset_index(drop=True)
    assert len(rows) == 5 and rows["score"][0] == 1
    digits = sorted(set("123456789") - {rows["target"][0][0]})  # a token for itself each
    made = [rows.assign(**{
        name: rows[name].where(rows.index > 0, value)
        for name, value in {"score": 0.0, "prediction": digit, "right": 0}.items()
    }) for digit in digits]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(study, "NEAR_TIE", 100.0)
        found = ((one, check(one)) for one in made)
        rows, left = next((one, each) for one, each in found if each.differing.empty)
    assert len(left.rows) == 4
    (tie,) = left.unchecked
    assert "near tie" in tie.what and tie.rows == 1
    assert list(check(rows).differing["value"]) == ["score"]  # its logit is not that near
    monkeypatch.setattr(study, "NEAR_TIE", 100.0)
    rows.loc[0, "prediction"] = "no token of these"
    assert list(check(rows).differing["value"]) == ["score"]


def test_what_can_be_wrong_is_drawn_most(grid):
    """Beyond N the original model is always wrong: a quarter as often, but not never."""
    length = np.where(np.arange(200) % 2, 512, 2048)
    made = pd.DataFrame({
        "key": "o", "task": "x", "variant": "original", "window": 512, "token_length": length,
    })  # fmt: skip
    both = pd.concat([made, made.assign(key="s", variant="scaled")], ignore_index=True)
    found = study._pick(both, 45, 3)
    counts = found.groupby(["variant", found["token_length"] > 512]).size()
    assert counts["original", True] == 5 and counts["original", False] == 20
    assert counts["scaled"].sum() == 20
    other = study._pick(both, 45, 4)
    assert set(other.index) != set(found.index)


def test_what_of_a_grid_cannot_be_checked_is_counted(grid, monkeypatch):
    """Tuned models, texts, a base that is not here, other weights, length; a question of nobody."""
    few = lines(grid)
    parts = [few, few.assign(steps=100), few.assign(task="perplexity"), few.assign(base="seed9"),
             few.assign(base_hash="0" * 16), few.assign(token_length=30_000)]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = check(pd.concat(parts, ignore_index=True), rows=2)
    said = {one.what: one.why for one in found.unchecked}
    assert {one.rows for one in found.unchecked} == {len(few)} and len(said) == 5
    assert "--train 1" in said["tuned models"] and "runs/bases/seed9" in said["base seed9"]
    assert "other weights" in said["base miniature"] and "questions longer than 8 windows" in said
    assert len(found.rows) == 2 and found.differing.empty
    found = check(few.assign(document="nothing"), rows=1)
    assert list(found.differing["value"]) == ["question"]


def test_questions_are_built_once_for_all_models(grid, monkeypatch):
    """A model takes them as they were built for the first; those that none is asked are not."""
    built = []
    monkeypatch.setattr(
        study, "rebuild", lambda *given: built.append(examples.rebuild(*given)) or built[-1]
    )
    part = grid[(grid["token_length"] == 307) & (grid["task"] == "longchat_lines")]
    found = check(part, rows=4)
    assert set(found.rows["variant"]) == {"original", "scaled"} and len(built) == 1
    assert {one.sample for one in built[0].values()} == set(found.rows["sample"])


def test_trained_runs_need_the_grids_texts(grid, tmp_path):
    """The message says how they are made; nothing is downloaded for a check."""
    with pytest.raises(FileNotFoundError, match="make grid-data"):
        study.train_again(grid.assign(steps=1), tmp_path)


@pytest.mark.parametrize(("was", "now"), [(100.0, 100.02), (None, 1.0)])
def test_losses_are_compared_within_rounding(was, now):
    """1e-4 of the sum: other processors add in another order; what is absent is not 0."""
    row = pd.Series(dict.fromkeys((*verify_rows.EXACT, *verify_rows.CLOSE)), dtype=object)
    one, two = row.copy(), row.copy()
    one["nll"], two["nll"] = was, now
    assert [each[0] for each in verify_rows.compare(one, two)] == ["nll"]
    two["nll"] = was and was * (1 + 5e-5)
    assert list(verify_rows.compare(one, two)) == []


@pytest.mark.slow
def test_a_grid_that_cannot_be_checked_fails_no_rows_that_can(monkeypatch):
    """Times are left out; of tuned models no weights are kept."""
    none = verify_rows.Checked(pd.DataFrame(), pd.DataFrame(), [])
    some, asked = none._replace(rows=pd.DataFrame({"row": [1]})), []
    monkeypatch.setattr(verify, "_report", lambda *_: "")
    monkeypatch.setattr(verify_rows, "verify", lambda rows, *_: asked.append(rows) or some)
    monkeypatch.setattr(study, "verify_grid", lambda *_: none)
    monkeypatch.setattr(verify.records, "read", functools.cache(verify.records.read))
    assert verify.main(["data/results", "--seed", "0"]) == 0
    assert not asked[0]["task"].str.startswith("speed_").any()
    monkeypatch.setattr(verify_rows, "verify", lambda *_: none)
    assert verify.main(["data/results", "--seed", "0"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "name"), [(ruler, "niah_multikey_2"), (infinitebench, "kv_retrieval")]
)
def test_rows_of_ruler_and_infinitebench_are_computed_again(task, name, tmp_path):
    """Their questions from task, length, sample and style; a changed answer is named."""
    base = evaluation.base_of("data/miniature", ROOT)
    asked = task.examples(base.tokenizer, [400], 2, tasks=[name])
    subjects = evaluation.find("original", "data/miniature", ROOT, "miniature")
    frame = evaluation.evaluate_models(
        subjects, task, asked, tmp_path / "rows.jsonl", progress=False
    )
    found = verify_rows.verify(frame, ROOT, rows=1, progress=False)
    assert found.rows["task"].str.endswith(name).tolist() == [True] and found.unchecked == []
    assert found.differing.empty
    wrong = verify_rows.verify(changed(frame, prediction="7"), ROOT, rows=1, progress=False)
    assert wrong.differing["value"].tolist() == ["prediction"]
    texts, last = examples.Texts(base.tokenizer, 512), frame[frame["sample"] == 1]
    assert list(examples.rebuild(frame, texts, wanted=last).values()) == asked[1:]


@pytest.mark.parametrize("task", ["needle", "passkey", "longchat_lines", "kv_retrieval"])
def test_few_questions_are_those_of_the_whole(task, monkeypatch):
    """The same examples; none is built that is not asked."""
    monkeypatch.setattr(examples, "open_corpus", lambda *_: None)
    text = " ".join(f"The road of number {number} is long." for number in range(3000))
    monkeypatch.setattr(examples.haystack, "from_corpus", lambda *_, **__: text)
    rows = results.read(ROWS)
    rows = rows[(rows["method"] == "original") & (rows["task"] == task)]
    rows = rows[rows["token_length"] <= 614]
    texts = examples.Texts(evaluation.base_of("data/miniature", ROOT).tokenizer, 512)
    whole, wanted = examples.rebuild(rows, texts), rows.iloc[[0, -1]]
    few = examples.rebuild(rows, texts, wanted=wanted)
    assert set(few) == {examples.identity(row) for _, row in wanted.iterrows()}
    assert all(few[one] == whole[one] for one in few) and len(whole) > len(few)
