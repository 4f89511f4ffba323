"""Benchmarks through lm-evaluation-harness: its own scores, as rows that resume; a task of ours."""

import json

import pytest
import torch

from cream import models, results
from cream.evaluation import harness
from cream.evaluation import models as evaluation_models
from cream.evaluation.harness import Policy, differences, evaluate_models, table
from cream.evaluation.harness_task import make_task

pytestmark = pytest.mark.slow  # lm_eval takes ten seconds to import
needs_harness = pytest.mark.skipif(
    not harness.installed(), reason="lm_eval is not installed (the extra `evaluation`)"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A folder with a base."""
    root = tmp_path_factory.mktemp("benchmarks")
    models.save(tiny_model(1024), tiny_tokenizer, root / "base")
    return root


@pytest.fixture(scope="module")
def texts(haystack):
    return [haystack[i : i + 4000] for i in range(0, 40_000, 4000)]


@pytest.fixture(scope="module")
def task(place, texts):
    return make_task(place / "task", texts, samples=6, shots=1)


def find(place, names="original"):
    return evaluation_models.find(names, "base", place)


@pytest.fixture(scope="module")
def whole(place, task):
    """Rows of an evaluation that nothing interrupted, the base beside itself scaled."""
    return evaluate_models(
        find(place, "original,scaled:yarn:4"), [str(task)], place / "whole.jsonl"
    )


@needs_harness
def test_rows_have_the_scores_that_the_harness_gives_by_itself(whole, place, task):
    """Against its own loading of the same checkpoint, with its own tokenizer and batches of one."""
    import lm_eval

    own = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(place / "base"), "dtype": "float32", "add_bos_token": False},
        tasks=[str(task)],
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
        task_manager=harness._manager(()),
    )
    own, samples = own["results"]["next_passage"], own["samples"]["next_passage"]
    mine = table(whole[whole["method"] == "original"]).set_index("metric")
    for metric in ("acc", "acc_norm"):
        assert mine["value"][metric] == pytest.approx(own[f"{metric},none"])
        assert mine["n"][metric] == 6
    first = samples[0]
    row = whole[(whole["method"] == "original") & (whole["sample"] == 0)].iloc[0]
    wanted = [one[0] for one in first["filtered_resps"]]
    assert json.loads(row["prediction"]) == pytest.approx(wanted, abs=1e-3)
    assert row["target"] == str(first["target"])


@needs_harness
def test_settings_say_what_decides_the_scores(whole):
    assert len(whole) == 2 * 6 * 2 and set(whole["task"]) == {"next_passage"}
    how = json.loads(whole["settings"][0])
    assert how["bos"] == "none" and how["shots"] == 1 and how["task_version"] == "1.0"
    assert how["harness"].startswith("lm_eval 0.4.") and how["dtype"] == "float32"
    assert set(results.variant(whole)) == {"acc", "acc_norm"}


@needs_harness
def test_differences_are_of_the_same_documents(whole):
    scaled, main = whole["method"] == "scaled", results.variant(whole) == "acc_norm"
    right = whole.assign(score=(scaled & main & whole["sample"].ne(3)).astype(float))
    (one,) = differences(right).to_dict("records")
    assert one["difference"] == pytest.approx(5 / 6) and one["n"] == 6
    assert one["method"] == "scaled" and one["task"] == "next_passage"
    assert one["low"] < 5 / 6 < one["high"]
    assert differences(whole[scaled]).empty


@needs_harness
def test_an_interrupted_evaluation_goes_on(place, task, whole, tmp_path, monkeypatch):
    """What the harness had scored is not scored again, and the rows are those of one go."""
    calls, last = [], 2
    forward = torch.nn.Embedding.forward

    def counted(self, ids):
        calls.append(len(ids))
        if len(calls) > last:
            raise KeyboardInterrupt
        return forward(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", counted)
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(find(place), [str(task)], rows, batch_size=4)
    assert len(results.read(rows)) == 0 and len(list(tmp_path.iterdir())) > 1
    last, before = 100, sum(calls[:2])
    calls.clear()
    again = evaluate_models(find(place), [str(task)], rows, batch_size=4)
    assert sum(calls) == 6 * 4 - before == 16
    wanted = whole[whole["method"] == "original"]
    for name in ("key", "score", "prompt_hash"):
        assert list(again[name]) == list(wanted[name])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    calls.clear()
    content = rows.read_bytes()
    assert evaluate_models(find(place), [str(task)], rows).equals(again)
    assert not calls and rows.read_bytes() == content


@needs_harness
def test_the_first_documents_are_asked_alike_whatever_the_limit(place, task, whole, tmp_path):
    few = evaluate_models(find(place), [str(task)], tmp_path / "rows.jsonl", Policy(limit=2))
    assert len(few) == 4 and set(few["key"]) <= set(whole["key"])


@needs_harness
@pytest.mark.parametrize(("policy", "many"), [(Policy(), 0), (Policy(bos=True), 1)])
def test_a_bos_stands_where_it_is_asked_for(policy, many, place, task, tmp_path, monkeypatch):
    seen = []
    forward = torch.nn.Embedding.forward
    monkeypatch.setattr(
        torch.nn.Embedding, "forward", lambda s, ids: seen.append(ids) or forward(s, ids)
    )
    frame = evaluate_models(
        find(place), [str(task)], tmp_path / "rows.jsonl", Policy(policy.bos, limit=2), 1
    )
    assert seen and all((ids == 0).sum() == many for ids in seen)
    assert all((ids[:, 0] == 0).all() == bool(many) for ids in seen)
    assert json.loads(frame["settings"][0])["bos"] == ("add_special_tokens" if many else "none")


@needs_harness
@pytest.mark.parametrize("bos", [False, True])
def test_a_chat_model_is_asked_in_its_own_template(bos, place, task, tmp_path, monkeypatch):
    """The example as an earlier turn, one BOS in all: the template has one, and a fixed date."""
    tokenizer = models.load_tokenizer(place / "base")
    tokenizer.chat_template = (
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    models.save(models.load(place / "base"), tokenizer, tmp_path / "chat")
    seen = []
    forward = torch.nn.Embedding.forward
    monkeypatch.setattr(
        torch.nn.Embedding, "forward", lambda s, ids: seen.append(ids) or forward(s, ids)
    )
    subject = evaluation_models.find("original", "chat", tmp_path)
    frame = evaluate_models(
        subject, [str(task)], tmp_path / "rows.jsonl", Policy(bos, True, limit=1), 1
    )
    assert seen and all((ids == 0).sum() == 1 and ids[0, 0] == 0 for ids in seen)
    text = tokenizer.decode(seen[0][0])
    assert text.count("<|user|>") == 2 and text.count("<|assistant|>") == 2
    assert "26 Jul 2024<|user|>" in text
    how = json.loads(frame["settings"][0])
    assert how["bos"] == "template" and how["style"] == "chat" and len(how["chat_template"]) == 16
    assert how["chat_date"] == "2024-07-26"


@needs_harness
def test_a_base_without_a_template_is_not_asked_as_a_chat_model(place, task, tmp_path):
    with pytest.raises(ValueError, match="base has no chat template"):
        evaluate_models(find(place), [str(task)], tmp_path / "rows.jsonl", Policy(chat=True))


@needs_harness
def test_a_prompt_beyond_the_window_is_refused_not_cut(place, texts, tmp_path):
    task = make_task(tmp_path, texts, samples=2, shots=4)
    with pytest.raises(
        ValueError, match=r"next_passage has \d{4} tokens, more than the model's win"
    ):
        evaluate_models(find(place), [str(task)], tmp_path / "rows.jsonl")


def write_documents(folder, contexts):
    """Give a task that `make_task` wrote other test documents."""
    about = {"endings": ["a", "b", "c", "d"], "answer": 0}
    lines = "".join(json.dumps({"context": one, **about}) + "\n" for one in contexts)
    (folder / "test.jsonl").write_text(lines)


@needs_harness
def test_a_prompt_of_few_characters_and_many_tokens_is_refused(place, texts, tmp_path):
    """Each digit is a token; all others have more characters, and fewer tokens than the window."""
    task = make_task(tmp_path, texts, samples=2)
    write_documents(tmp_path, [*(text[:1500] for text in texts), "Say " + "7" * 1100])
    with pytest.raises(ValueError, match=r"next_passage has 110\d tokens, more than the model's"):
        evaluate_models(find(place), [str(task)], tmp_path / "rows.jsonl")


@needs_harness
def test_an_answer_has_the_harness_own_room_where_a_task_names_none(place, texts, tmp_path):
    """The harness keeps 256 tokens free, and would cut the prompt for them."""
    task = make_task(tmp_path, texts, samples=2)
    written = task.read_text().replace("multiple_choice", "generate_until")
    kept = [line for line in written.splitlines() if "_choice" not in line and "metric" not in line]
    kept += ["generation_kwargs: {until: ['.']}", "metric_list: [{metric: exact_match}]"]
    task.write_text("\n".join(kept))
    write_documents(tmp_path, ["Say " + "7" * 800])
    with pytest.raises(ValueError, match=r"has 80\d tokens and 256 to answer, more than"):
        evaluate_models(find(place), [str(task)], tmp_path / "rows.jsonl")


@needs_harness
def test_the_papers_tasks_are_those_of_the_harness(monkeypatch):
    """Their data come from the hub, which is not here."""
    paper = harness._manager(harness.FOLDERS)
    assert set(harness.SHOTS) <= set(paper.all_subtasks)
    assert sum(harness.SHOTS.values()) == 35
    monkeypatch.setattr(harness, "_manager", lambda folders: paper)
    with pytest.raises(ValueError, match="no task 'bolq'; did you mean 'boolq'"):
        evaluate_models([], ["bolq"], "rows.jsonl")
    with pytest.raises(ConnectionError, match="the data of piqa did not come .* Hugging Face Hub"):
        evaluate_models([], ["piqa"], "rows.jsonl")


def test_what_cannot_be_asked_is_refused_by_name(place, tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="tasks names no task"):
        evaluate_models([], harness.task_names(" , "), rows)
    with pytest.raises(FileNotFoundError, match="no task file .*none.yaml"):
        evaluate_models([], harness.task_names("boolq, none.yaml", tmp_path), rows)
    served = evaluation_models.find("http://localhost:1/v1#model", "base", place)
    with pytest.raises(ValueError, match="is behind a server"):
        evaluate_models(served, ["boolq"], rows)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in one process"):
        evaluate_models([], ["boolq"], rows)
    assert not rows.exists()


def test_without_the_harness_its_installation_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    harness._manager.cache_clear()
    with pytest.raises(ImportError, match=r'pip install -e "\.\[evaluation\]" -c constraints'):
        evaluate_models([], ["boolq"], tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("name", "metric"), [("boolq", "acc"), ("arc_challenge", "acc_norm")])
def test_tasks_are_reported_by_their_usual_metric(name, metric):
    assert harness.main_metric(name) == metric
