"""What other releases computed: their windows, their weights, and who reads what how often."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cream.evaluation.runner import evaluate
from cream.results import Rows
from cream.tasks import perplexity_variants
from cream.tasks.perplexity import examples as ours
from cream.tasks.perplexity import measure as measure_ours
from cream.tasks.perplexity_variants import (
    DEFINITIONS,
    Part,
    by_definition,
    combine,
    cut,
    examples,
    measure,
)

LONG = (65536, 98304, 131072, 196608, 262144)
DOCUMENTS = [(f"d{i}", np.random.default_rng(i).integers(2, 600, 150 + i)) for i in range(3)]


def parts(name: str, tokens: int, window: int, stride: int, loss, bos: bool = True) -> list[Part]:
    """Parts of a document where a target costs `loss(its place, tokens of the window before it)`.

    Places count the document's tokens from 0; without BOS a window's first token is no target.
    """
    found = []
    for one in cut(name, tokens, window, stride, bos):
        places = np.arange(one.start + (not bos), one.end)
        found.append(Part(loss(places, places - one.start + bos), one.new))
    return found


def ppl(name: str, found: list[Part]) -> float:
    total, weight = combine(name, found)
    return float(np.exp(total / weight))


# ------------------------------------------------------------------ CREAM, protocols 5.6


def test_creams_windows_are_as_many_as_its_code_makes():
    """The document has W - 1 tokens; a window never holds more than 32,768 and BOS."""
    made = [cut("cream", length - 1, 32768, 4096, True) for length in LONG]
    assert [len(each) for each in made] == [9, 17, 25, 41, 57]
    assert max(one.end - one.start for each in made for one in each) == 32768
    assert [one.start for one in made[0]] == list(range(0, 32769, 4096))
    assert [one.new for one in made[0]] == [32768] + 7 * [4096] + [4095]


def test_creams_weights_rise_to_1875_and_fall_to_an_eighth():
    """Of a loss in each block of 4,096 tokens, by the sum it makes alone."""
    window, stride, length = 32768, 4096, 65536
    weights = []
    for block in range(length // stride):

        def only(places, _, block=block):
            return (places // stride == block) / stride

        weights.append(combine("cream", parts("cream", length - 1, window, stride, only))[0])
    first = [1 + k / 8 for k in range(8)]
    assert weights == pytest.approx(first + [1 - k / 8 for k in range(8)], rel=1e-3)
    assert max(weights) == pytest.approx(1.875, rel=1e-3)
    assert min(weights) == pytest.approx(0.125, rel=1e-3)


def test_creams_number_does_not_move_with_the_length_it_is_named_after():
    """On losses that fall with context: constant, while the right ones fall; and above them."""

    def falling(_, context):
        return 1.9 + 2.0 / (1 + context) ** 0.25

    found = {
        name: [ppl(name, parts(name, length - 1, 32768, 4096, falling)) for length in LONG]
        for name in ("cream", "sliding", "truncate")
    }
    assert np.ptp(found["cream"]) < 1e-4
    assert all(np.diff(found["sliding"]) < 0) and all(np.diff(found["truncate"]) < 0)
    for cream, sliding, truncate in zip(*found.values(), strict=True):
        assert cream > sliding > truncate
    assert found["sliding"][0] - found["sliding"][-1] > 100 * np.ptp(found["cream"])


# ------------------------------------------------------------------ YaRN and CLEX


def test_yarns_mean_of_means_weighs_a_short_window_as_a_long_one():
    found = [Part(np.full(100, 2.0), 100), Part(np.r_[np.full(90, 9.0), np.full(10, 4.0)], 10)]
    assert combine("yarn", found) == (6.0, 2)
    assert combine("sliding", found) == (240.0, 110)
    assert combine("cream", found) == (pytest.approx(200 + 10 * 8.5), 110)


def test_clex_gives_the_tokens_it_skips_the_mean_of_their_run():
    found = [Part(np.full(3, 1.0), 4), Part(np.full(1, 5.0), 2)]
    assert combine("clex", found) == (4.0 + 10.0, 6)


def test_without_bos_the_first_token_weighs_only_where_the_release_lets_it():
    """transformers shifts labels: a window of n tokens has n - 1 losses, and says n."""
    found = parts("sliding", 10, 4, 2, lambda places, _: np.ones(len(places)), bos=False)
    assert [(len(part.losses), part.new) for part in found] == [(3, 4), (3, 2), (3, 2), (3, 2)]
    assert combine("sliding", found) == (9.0, 9)
    assert combine("cream", found) == (10.0, 10)
    assert combine("yarn", found) == (4.0, 4)


# ------------------------------------------------------------------ on a model


@pytest.fixture
def model(tiny_model):
    return tiny_model(256, initializer_range=0.05)


def by_hand(name: str, model, ids: np.ndarray, length: int, window: int, stride: int) -> tuple:
    """The releases' loops, in double precision, with labels as they set them."""
    bos = [0]
    ids = ids[: length - 1]

    def loss(tokens, scored, cache=None):
        tokens = torch.tensor([tokens])
        if cache is None:
            model(tokens[:, :2])  # a dynamic RoPE remembers the longest until it reads a short one
        labels = tokens.clone()
        labels[:, :-scored] = -100
        with torch.no_grad():
            out = model(tokens, labels=labels, past_key_values=cache, use_cache=True)
        return out.loss.item(), out.past_key_values

    if name == "clex":
        total, cache, tokens = 0.0, None, [*bos, *ids.tolist()]
        for start in range(0, length, window):
            run = tokens[start : start + window]
            mean, cache = loss(run, len(run), cache)
            total += mean * len(run)
        return total, length
    total, weight, done = 0.0, 0, 0
    size = {"truncate": length, "cream": window}.get(name, window - 1)
    for start in range(0, len(ids), stride):
        end = min(start + size, len(ids))
        new = end - done
        read = [*bos, *ids[start:end].tolist()]
        mean = loss(read, len(read) if name == "cream" else new)[0]
        total += mean if name == "yarn" else mean * new
        weight, done = weight + (1 if name == "yarn" else new), end
        if end == len(ids):
            break
    return total, weight


@pytest.mark.thinned
@pytest.mark.parametrize("rope_type", ["default", "dynamic"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_each_definition_equals_its_loop_in_double_precision(name, rope_type, tiny_model):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    model = tiny_model(16, initializer_range=0.05, rope_parameters=rope)
    built = examples(DOCUMENTS, [40, 101, 150], 2, 32, 8, 0, [name])
    found = dict(measure(model, built, allow_beyond=True))
    model.double()
    for index, example in enumerate(built):
        ids = dict(DOCUMENTS)[example.document]
        total, weight = by_hand(name, model, ids, example.token_length, 32, 8)
        assert found[index]["scored_tokens"] == weight
        assert found[index]["num_tokens"] == example.token_length
        ours, theirs = np.exp([found[index]["nll"] / weight, total / weight])
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_what_is_called_ours_is_what_perplexity_measures(model):
    built = examples(DOCUMENTS, [150], 3, 32, 8, 0, ["truncate", "sliding"])
    found = dict(measure(model, built))
    same = [*ours(DOCUMENTS, [150], 3, 0)]
    same += ours(DOCUMENTS, [32], 3, 0, mode="sliding", stride=8, document_tokens=150)
    theirs = dict(measure_ours(model, same))
    pairs = {(e.how["mode"], e.document): found[i] for i, e in enumerate(built)}
    for index, example in enumerate(same):
        mine = pairs[example.how["mode"], example.document]
        assert mine["nll"] == pytest.approx(theirs[index]["nll"], rel=1e-6)
        assert mine["scored_tokens"] == theirs[index]["scored_tokens"] == 149


def test_windows_are_read_once_for_all_definitions_and_lengths(model):
    built = examples(DOCUMENTS, [40, 96, 150], 1, 32, 8, 0)
    read = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    list(measure(model, built))
    starts = len(range(0, 150 - 32, 8)) + 1
    looks = sum(length == 8 for length in read)  # log_likelihood's look at the head
    runs = [32, 32, 32, 32, 22]
    assert len(read) == looks + starts + len(runs)
    assert sorted(read)[-2:] == [33, 150]  # CREAM's windows, and the document itself once


@pytest.mark.parametrize("rope_type", ["default", "dynamic"])
def test_a_part_measured_later_gives_the_same_to_the_last_bit(rope_type, tiny_model):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    model = tiny_model(64, rope_parameters=rope)
    built = examples(DOCUMENTS, [40, 96, 150], 1, 32, 8, 0)
    whole = dict(measure(model, built, True))
    for place in (1, 4, 8, 12):
        assert next(measure(model, built[place:], True))[1] == whole[place]


def test_lengths_share_nothing_where_rotations_change_with_length(tiny_model):
    """As they would be alone: a dynamic RoPE turns by another base in longer sequences."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = tiny_model(64, rope_parameters=rope)
    built = examples(DOCUMENTS, [90, 150], 1, 70, 8, 0)
    together = dict(measure(model, built, True))
    for index, example in enumerate(built):
        alone = next(measure(model, [replace(example, context=None)], True))[1]
        assert together[index] == alone


def test_rows_resume_and_are_told_apart_by_definition(model, tiny_tokenizer, tmp_path):
    built = examples(DOCUMENTS, [64, 150], 2, 32, 8, 0, corpus="here")
    header = {"run": "r", "model_hash": "m", "settings": {"dtype": "float32"}, "window": 32,
              "method": "original", "scaling": "none", "scale": 1}  # fmt: skip
    ask = {"task": perplexity_variants, "settings": {"dtype": "float32"}, "progress": False}
    with Rows(tmp_path / "rows.jsonl", header) as rows:
        evaluate(model, tiny_tokenizer, examples=built[:7], rows=rows, **ask)
    with Rows(tmp_path / "rows.jsonl", header) as rows:
        frame = evaluate(model, tiny_tokenizer, examples=built, rows=rows, **ask)
    assert len(frame) == len(built) == 2 * 2 * len(DEFINITIONS) and frame["key"].is_unique
    table = by_definition(frame).set_index(["definition", "token_length"])
    assert len(table) == 2 * len(DEFINITIONS) and set(table["n"]) == {2}
    found = dict(measure(model, built))
    yarn = [found[i] for i, e in enumerate(built) if e.how["mode"] == "yarn"]
    yarn = [each for each in yarn if each["num_tokens"] == 150]
    means = sum(each["nll"] for each in yarn) / sum(each["scored_tokens"] for each in yarn)
    assert table["value"]["yarn", 150] == pytest.approx(np.exp(means))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"definitions": ["pose"]}, "no definition 'pose': choose from truncate, sliding, cream"),
        ({"stride": 0}, "stride 0 must be from 1 to 31 in windows of 32"),
        ({"stride": 32}, "stride 32 must be from 1 to 31"),
        ({"lengths": [97]}, "length 97 leaves CLEX's last run of 32 tokens a single one"),
        ({"lengths": [1000]}, "no document has 999 tokens .the longest has 152."),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message):
    given = {"lengths": [64], "samples": 1, "window": 32, "stride": 8, "bos_token_id": 0}
    with pytest.raises(ValueError, match=message):
        examples(DOCUMENTS, **{**given, **changes})
