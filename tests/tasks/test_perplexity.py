"""Perplexity: the same documents at every length, every token but the first scored once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cream.data import corpus
from cream.evaluation.runner import evaluate
from cream.results import Rows
from cream.rope import clex, scalings
from cream.rope.config import extend
from cream.statistics import perplexities
from cream.tasks import perplexity as task
from cream.tasks.perplexity import examples, measure, perplexity, windows
from cream.tasks.perplexity_texts import from_corpus

DOCUMENTS = [(f"d{i}", np.random.default_rng(i).integers(2, 600, 100 * (i + 1))) for i in range(4)]


def test_the_same_documents_serve_every_length():
    built = examples(DOCUMENTS, [50, 201], samples=2, bos_token_id=0)
    assert [(e.document, e.token_length, e.sample) for e in built] == [
        ("d1", 50, 0), ("d1", 201, 0), ("d2", 50, 1), ("d2", 201, 1),
    ]  # fmt: skip
    for example in built:
        ids = dict(DOCUMENTS)[example.document]
        assert example.tokens == (0, *ids[: example.token_length - 1].tolist())
    assert built[0].settings == {"mode": "truncate", "bos": "prepended"}


def test_without_bos_the_first_tokens_are_read():
    example = examples(DOCUMENTS, [50], samples=1)[0]
    assert example.tokens == tuple(DOCUMENTS[0][1][:50].tolist())
    assert example.settings["bos"] == "none"
    assert example.prompt_hash != examples(DOCUMENTS, [50], 1, bos_token_id=0)[0].prompt_hash


def test_a_measure_is_the_models_own_loss(tiny_model):
    model = tiny_model(256, initializer_range=0.02)
    example = examples(DOCUMENTS, [150], samples=1, bos_token_id=0)[0]
    ids = torch.tensor([example.tokens])
    (index, found), *more = measure(model, [example])
    assert index == 0 and not more
    loss = model.double()(ids, labels=ids).loss.item()
    assert found["num_tokens"] == 150 and found["scored_tokens"] == 149
    assert found["nll"] / 149 == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("rope_type", ["default", "dynamic"])
def test_a_document_is_read_once_for_all_its_lengths(rope_type, tiny_model):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    model = tiny_model(64, initializer_range=0.02, rope_parameters=rope)
    built = examples(DOCUMENTS, [40, 90, 200], samples=2, bos_token_id=0)
    alone = [next(measure(model, [replace(e, context=None)], True))[1]["nll"] for e in built]
    read = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    found = dict(measure(model, built, allow_beyond=True))
    assert [found[k]["nll"] for k in range(6)] == pytest.approx(alone, rel=1e-6)
    long = [length for length in read if length > 8]  # 8: log_likelihood's look at the head
    assert long == ([200, 200] if rope_type == "default" else [40, 90, 200] * 2)


def test_each_length_of_a_clex_model_is_read_at_its_own_t(tiny_model):
    """Within N such a model turns as its base does, whatever else of the document is asked."""
    model = tiny_model(64, initializer_range=0.02)
    built = examples(DOCUMENTS, [40, 200], samples=2, bos_token_id=0)
    base = [found["nll"] for _, found in measure(model, built, allow_beyond=True)]
    model.config = extend(model.config, scalings.scaling("clex", 4))
    clex.attach(model)
    found = [found["nll"] for _, found in measure(model, built)]
    assert found[::2] == pytest.approx(base[::2], rel=2e-7)
    assert found[1::2] != base[1::2]


def test_a_part_measured_later_gives_the_same_to_the_last_bit(tiny_model):
    model = tiny_model(256)
    built = examples(DOCUMENTS, [40, 90, 200], samples=1, bos_token_id=0)
    whole = dict(measure(model, built))
    assert next(measure(model, built[:1]))[1] == whole[0]


def test_perplexity_weighs_tokens_not_documents():
    assert perplexity([2.0, 0.0], [1, 3]) == pytest.approx(np.exp(0.5))


# ------------------------------------------------------------- against a second implementation


def reference(model, document: np.ndarray, how: dict, length: int) -> tuple[float, int]:
    """(loss, tokens) from whole logits in double precision, with labels masked as PoSE masks them.

    The loop that Hugging Face's guide to perplexity made common: a window ends where the next
    labels start, -100 elsewhere.
    """
    bos = [] if how["bos"] == "none" else [0]
    ids = document.tolist()
    size, stride = length - len(bos), how.get("stride", len(ids))
    if how["mode"] == "truncate":
        ids = ids[:size]
    total, count, done = 0.0, 0, 0
    for start in range(0, len(ids), stride):
        end = min(start + size, len(ids))
        read = torch.tensor([*bos, *ids[start:end]])
        labels = read.clone()
        labels[: -(end - done)] = -100
        with torch.no_grad():
            logits = model(read[None], use_cache=False).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")
        total, count = total + losses.sum().item(), count + int((labels[1:] != -100).sum())
        done = end
        if end == len(ids):
            break
    return total, count


@pytest.mark.thinned
@pytest.mark.parametrize("bos", [0, None])
@pytest.mark.parametrize(
    "given",
    [{"mode": "truncate"}, {"mode": "sliding", "stride": 7}, {"mode": "sliding", "stride": 39},
     {"mode": "sliding"}],
)  # fmt: skip
def test_perplexity_equals_a_float64_reference(given, bos, tiny_model):
    model = tiny_model(256, initializer_range=0.1)
    built = examples(DOCUMENTS, [40, 101, 200], 2, bos, **given)
    found = dict(measure(model, built))
    model.double()
    for length in (40, 101, 200):
        of_length = [i for i, e in enumerate(built) if e.token_length == length]
        theirs = []
        for index in of_length:
            document = dict(DOCUMENTS)[built[index].document][: 200 - (bos is not None)]
            theirs.append(reference(model, document, built[index].how, length))
            assert found[index]["scored_tokens"] == theirs[-1][1]
        nll, tokens = zip(*theirs, strict=True)
        ours = [(found[i]["nll"], found[i]["scored_tokens"]) for i in of_length]
        expected = np.exp(sum(nll) / sum(tokens))
        assert perplexity(*zip(*ours, strict=True)) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------- sliding windows


@pytest.mark.parametrize(
    ("num_tokens", "size", "stride"),
    [(100, 10, 3), (100, 10, 10), (7, 10, 3), (10, 10, 1), (11, 10, 9)],
)
def test_windows_hold_every_token_and_are_new_to_each_once(num_tokens, size, stride):
    made = windows(num_tokens, size, stride)
    new = [place for one in made for place in range(one.end - one.new, one.end)]
    assert new == list(range(num_tokens))
    assert all(one.end - one.start == size for one in made[:-1])
    assert [one.start for one in made] == [stride * k for k in range(len(made))]
    assert made[-1].end == num_tokens and all(one.end < num_tokens for one in made[:-1])


def test_a_sliding_window_of_the_documents_length_is_one_true_forward(tiny_model):
    model = tiny_model(256)
    (whole,) = examples(DOCUMENTS, [180], 1, 0)
    (sliding,) = examples(DOCUMENTS, [180], 1, 0, mode="sliding", stride=5)
    assert next(measure(model, [whole]))[1] == next(measure(model, [sliding]))[1]


def test_each_window_begins_with_bos_and_only_what_is_new_is_scored(tiny_model):
    model, read, scored = tiny_model(64), [], []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    model.lm_head.register_forward_hook(lambda _, args, out: scored.append(out.shape[-2]))
    (example,) = examples(DOCUMENTS, [50], 1, 0, "sliding", 20, document_tokens=150)
    next(measure(model, [example]))
    ids = dict(DOCUMENTS)[example.document].tolist()
    starts = [0, 20, 40, 60, 80, 100]
    assert [r for r in read if len(r) > 8] == [[0, *ids[s : s + 49]][:50] for s in starts]
    assert [n for n in scored if n != 8] == [49, 20, 20, 20, 20, 20]


def test_a_sliding_document_may_be_longer_than_the_model_and_a_window_may_not(tiny_model):
    built = examples(DOCUMENTS, [64], 1, 0, "sliding", document_tokens=300)
    assert next(measure(tiny_model(64), built))[1]["scored_tokens"] == 299
    with pytest.raises(ValueError, match="65 tokens exceed the model's window of 64"):
        next(measure(tiny_model(64), examples(DOCUMENTS, [65], 1, 0, "sliding")))


def test_settings_name_mode_window_stride_and_bos():
    (one,) = examples(DOCUMENTS, [50], 1, 0, "sliding", corpus="pg19")
    assert one.settings == {"mode": "sliding", "window": 50, "stride": 25, "corpus": "pg19",
                            "document_tokens": 50,
                            "bos": "prepended to each window"}  # fmt: skip
    assert examples(DOCUMENTS, [50], 1, None, "sliding")[0].settings["bos"] == "none"


def test_rows_resume_and_are_told_apart_by_mode_stride_and_bos(
    tiny_model, tiny_tokenizer, tmp_path
):
    model = tiny_model(256)
    forms = [{"bos_token_id": 0}, {}, {"bos_token_id": 0, "mode": "sliding", "stride": 20},
             {"bos_token_id": 0, "mode": "sliding", "stride": 10},
             {"mode": "sliding", "stride": 10}]  # fmt: skip
    built = [one for form in forms for one in examples(DOCUMENTS, [40, 100], 4, **form)]
    header = {"run": "r", "model_hash": "m", "settings": {"dtype": "float32"}}
    for some in (built[:5], built, built):
        with Rows(tmp_path / "rows.jsonl", header) as rows:
            frame = evaluate(model, tiny_tokenizer, task, some, rows, progress=False)
        assert len(frame) == len(some) and frame["key"].is_unique
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(built) == 40
    assert set(frame["document"]) == set(dict(DOCUMENTS))
    assert set(frame["num_tokens"]) == {40, 100}
    how = frame["settings"].map(json.loads)
    sliding = frame[how.map(lambda each: each["mode"] == "sliding")]
    assert set(sliding["num_tokens"]) == {100} and set(sliding["token_length"]) == {40, 100}
    table = perplexities(frame, ["settings", "token_length"])
    assert len(table) == 10 and set(table["n"]) == {4}
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


# ------------------------------------------------------------- documents


@pytest.mark.parametrize("bos", [True, False])
def test_documents_of_a_corpus_come_without_their_bos(bos, tmp_path, haystack, tiny_tokenizer):
    texts = {"one": haystack[:2000], "two": haystack[2000:5000]}
    documents = [
        {"split": "test", "source": "here", "name": name, "kind": kind, "text": text}
        for kind in ("text", "lines")
        for name, text in texts.items()
    ]
    corpus.build(tmp_path / "made", documents, tiny_tokenizer, 64, {}, bos=bos, progress=False)
    made = corpus.open_corpus(tmp_path / "made", tiny_tokenizer)
    found = {name: ids.tolist() for name, ids in from_corpus(made, tiny_tokenizer.bos_token_id)}
    assert found == {
        name: tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        for name, text in texts.items()
    }


def test_truncation_and_choice_are_those_of_the_release():
    """Protocols 5.5: without special tokens at least W - 1 are needed, W - 1 follow BOS."""
    sizes = [32766, 32767, 40000, 5, 32768, 90000]
    documents = [(f"d{size}", np.arange(size) % 500 + 2) for size in sizes]
    built = examples(documents, [4096, 8192, 16384, 32768], samples=3, bos_token_id=0)
    assert list(dict.fromkeys(e.document for e in built)) == ["d32767", "d40000", "d32768"]
    for example in built:
        assert len(example.tokens) == example.token_length and example.tokens[0] == 0
        assert example.tokens[1:] == tuple(
            dict(documents)[example.document][: example.token_length - 1].tolist()
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": [1000]}, "no document has 999 tokens .the longest has 400.*d0 .100., d1 .200"),
        ({"lengths": [1]}, "length 1 leaves"),
        ({"mode": "yarn"}, "mode is 'yarn': choose one of truncate, sliding"),
        ({"stride": 8}, "stride 8 is of mode 'sliding'"),
        ({"document_tokens": 300}, "document_tokens is of mode 'sliding'"),
        ({"mode": "sliding", "stride": 0}, "stride 0 must be from 1 to 49 in windows of 50"),
        ({"mode": "sliding", "stride": 50}, "stride 50 must be from 1 to 49"),
        ({"mode": "sliding", "stride": 90}, "stride 90 must be from 1 to 49"),
        ({"mode": "sliding", "document_tokens": 80}, "document_tokens 80 is below .* window, 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        examples(DOCUMENTS, **{"lengths": [50, 100], "samples": 1, "bos_token_id": 0, **given})


def test_ids_of_another_tokenizer_are_refused(tiny_model):
    documents = [("foreign", np.full(100, 600))]
    with pytest.raises(ValueError, match="run from 0 to 600 and the model has 600 embeddings"):
        next(measure(tiny_model(256), examples(documents, [50], 1, 0)))
