"""Names of models: what they resolve to, what their rows say, and what is refused."""

import copy
import dataclasses
import json
import shutil

import pytest
from transformers import MptConfig

from cream import models, presets
from cream.evaluation import models as evaluation_models
from cream.evaluation.models import evaluate_models, find
from cream.models.sharper import sharper
from cream.tasks import longchat_lines


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A project folder with a base, a finished run and a run that has not finished."""
    root = tmp_path_factory.mktemp("project")
    models.save(tiny_model(256), tiny_tokenizer, root / "base")
    for name in ("done", "going"):
        (root / "runs" / name).mkdir(parents=True)
        config = {"base": "base", "method": "pose", "seed": 3, "steps": 10, "batch_size": 4}
        (root / "runs" / name / "config.json").write_text(json.dumps(config))
    scaled = models.load(root / "base", scaling="yarn", scale=4)
    models.save(scaled, tiny_tokenizer, root / "runs/done/model")
    return root


def test_names_become_models(place):
    original, scaled, trained = find("original, scaled:linear:8,runs/done", "base", place, "tiny")
    assert (original.method, scaled.method, trained.method) == ("original", "scaled", "pose")
    found = [one.load() for one in (original, scaled, trained)]
    assert [one.header["scaling"] for one in found] == ["none", "linear", "yarn"]
    assert [one.header["scale"] for one in found] == [1, 8, 4]
    assert [one.header["window"] for one in found] == [256] * 3
    assert [one.header["base"] for one in found] == ["base"] * 3
    assert [one.allow_beyond for one in found] == [True, False, False]
    assert len({one.header["model_hash"] for one in found}) == 3
    assert found[2].header["seed"] == 3 and found[2].header["preset"] == "tiny"
    assert found[2].header["tokens_trained"] == 10 * 4 * 256
    assert found[0].settings == {"dtype": "float32"}


def test_a_folder_with_a_checkpoint_is_a_model(place):
    (one,) = find("runs/done/model", "base", place)
    assert one.load().header["scaling"] == "yarn"


def test_a_folder_with_a_comma_in_its_name_stands_alone(place):
    """A comma separates names; cream.chat, which takes one name, could not find such a folder."""
    (place / "runs" / "a, b").mkdir(parents=True)
    shutil.copytree(place / "base", place / "runs" / "a, b" / "mine")
    (spec,) = find("runs/a, b/mine", "base", place)
    assert spec.path == str(place / "runs/a, b/mine")
    with pytest.raises(FileNotFoundError, match="models names runs/a,"):
        find("original,runs/a, b/mine", "base", place)


def test_all_models_are_asked_the_same(place, tmp_path, tiny_tokenizer):
    examples = longchat_lines.examples(tiny_tokenizer, [200, 400], 2)
    listed = find("original,runs/done", "base", place)
    rows = tmp_path / "rows.jsonl"
    frame = evaluate_models(listed, longchat_lines, examples, rows, progress=False)
    assert frame.groupby("method")["prompt_hash"].apply(frozenset).nunique() == 1
    assert frame.groupby("run").size().to_dict() == {"original": 4, "runs/done": 4}
    before = rows.read_bytes()
    assert evaluate_models(listed, longchat_lines, examples, rows, progress=False).equals(frame)
    assert rows.read_bytes() == before


def test_rows_that_cannot_be_written_are_refused_before_any_model_is_loaded(
    place, tmp_path, tiny_tokenizer, monkeypatch
):
    asked = longchat_lines.examples(tiny_tokenizer, [200], 1)
    specs = find("original", "base", place)
    monkeypatch.setattr(type(specs[0]), "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(IsADirectoryError, match="is a folder, rows go to a file: name .*x.jsonl"):
        evaluate_models(specs, longchat_lines, asked, tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match=f"cannot be written, {tmp_path} allows it not"):
        evaluate_models(specs, longchat_lines, asked, tmp_path / "new" / "rows.jsonl")


def test_a_sharper_copy_is_a_model_of_its_own(place, tmp_path, tiny_tokenizer):
    """Beside the run that it was made of: another name and hash, the same length; alone like it."""
    sharper(place / "runs/done", place / "runs/done-sharper", 1.2)
    examples = longchat_lines.examples(tiny_tokenizer, [200, 900], 2)
    listed = find("runs/done,runs/done-sharper", "base", place)
    frame = evaluate_models(
        listed, longchat_lines, examples, tmp_path / "rows.jsonl", progress=False
    )
    assert frame.groupby("method").size().to_dict() == {"pose": 4, "done-sharper": 4}
    assert frame["model_hash"].nunique() == 2 and set(frame["scaling"]) == {"yarn"}
    with pytest.raises(ValueError, match="1 of 1 samples exceed the model.s window of 1024"):
        long = longchat_lines.examples(tiny_tokenizer, [2000], 1)
        evaluate_models(listed[1:], longchat_lines, long, tmp_path / "long.jsonl", progress=False)


@pytest.fixture(scope="module")
def tokenizers(place, tiny_tokenizer, tiny_model):
    """Models with tokenizers of their own beside the base's: another word, padding, a template."""
    from transformers import PreTrainedTokenizerFast

    words, padded, templated = (copy.deepcopy(tiny_tokenizer) for _ in range(3))
    words.add_tokens(["word"])
    padded.add_special_tokens({"pad_token": "<mypad>"})
    templated.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    rewritten = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token=tiny_tokenizer.bos_token,
        eos_token=tiny_tokenizer.eos_token, unk_token=tiny_tokenizer.unk_token,
    )  # fmt: skip
    made = {"words": words, "padded": padded, "templated": templated, "rewritten": rewritten}
    for number, (name, tokenizer) in enumerate(made.items(), 7):
        models.save(tiny_model(256, seed=number, vocab_size=640), tokenizer, place / name)
    return place


@pytest.mark.parametrize(
    "names", ["words", "original,words", "words,original", "http://127.0.0.1:9/v1#x=words"]
)
def test_another_tokenizer_than_the_examples_is_refused_before_any_model_is_loaded(
    names, tokenizers, tmp_path, tiny_tokenizer, monkeypatch
):
    """Alone, too: it would be given ids of a vocabulary that is not its own."""
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))
    examples = longchat_lines.examples(tiny_tokenizer, [200], 1)
    listed = find(names, "base", tokenizers)
    with pytest.raises(ValueError, match="words has another tokenizer .*-p base .*words -p models"):
        evaluate_models(listed, longchat_lines, examples, tmp_path / "rows.jsonl", progress=False)
    assert not (tmp_path / "rows.jsonl").exists()


def test_bases_of_two_tokenizers_are_not_asked_the_same(tokenizers, tmp_path, tiny_tokenizer):
    """Each is its own base; of the examples only one of them is."""
    examples = longchat_lines.examples(tiny_tokenizer, [200], 1)
    listed = [*find("original", "base", tokenizers), *find("scaled:yarn:2", "words", tokenizers)]
    with pytest.raises(ValueError, match="scaled:yarn:2 has another tokenizer"):
        evaluate_models(listed, longchat_lines, examples, tmp_path / "rows.jsonl", progress=False)


def test_a_tokenizer_that_cuts_text_alike_is_the_same(tokenizers, tmp_path, tiny_tokenizer):
    """Files of another version, padding that was added, a chat template; and as its own base."""
    examples = longchat_lines.examples(tiny_tokenizer, [200], 1)
    listed = find("original,scaled:yarn:2,padded,templated,rewritten", "base", tokenizers)
    asked = (listed, longchat_lines, examples, tmp_path / "rows.jsonl")
    assert len(evaluate_models(*asked, progress=False)) == 5
    alone = find("original", "words", tokenizers)
    own = longchat_lines.examples(models.load_tokenizer(tokenizers / "words"), [200], 1)
    assert len(evaluate_models(alone, longchat_lines, own, asked[-1], progress=False)) == 1


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (" , ", ValueError, "names no model"),
        ("original,original", ValueError, "names original twice"),
        ("scaled:yarns:8", ValueError, "a kind of none, linear, ntk, yarn"),
        ("scaled:yarn", ValueError, "write scaled:KIND:SCALE"),
        ("scaled:yarn:2.5", ValueError, "a whole scale"),
        ("scaled:yarn:0", ValueError, "scaled:yarn:0 stretches nothing"),
        ("scaled:linear:1", ValueError, "write original, or a scale of 2 or more"),
        ("runs/none", FileNotFoundError, "there is no folder .*runs/none: train it with 02_train"),
        ("runs/going", FileNotFoundError, "has no finished model"),
    ],
)
def test_names_that_lead_nowhere_are_refused(names, error, message, place):
    with pytest.raises(error, match=message):
        find(names, "base", place)


def test_what_examples_need_of_a_base(place):
    base = evaluation_models.base_of("base", place)
    assert base.window == 256 and base.path == str(place / "base") and len(base.tokenizer) == 600
    assert evaluation_models.token_lengths("0.6, 1,7.8", 512) == [307, 512, 3994]
    assert evaluation_models.token_lengths((1, 2.4), 512) == [512, 1229]
    with pytest.raises(ValueError, match="lengths '1;2' must be multiples of N"):
        evaluation_models.token_lengths("1;2", 512)


def test_prompts_of_the_target_length_leave_room_for_the_answer(place, caplog):
    """At s x N a prompt and all that may be answered are within the scaled model's length."""
    from cream.tasks import kv_retrieval, needle, passkey
    from cream.tasks.base import check_lengths

    base, preset = evaluation_models.base_of("base", place), presets.get("miniature")
    lengths = evaluation_models.prompt_lengths("1,8", base, preset)
    assert lengths == [256, 2048 - 100]
    assert "2048 tokens, are made 100 shorter" in caplog.text
    text = "the grass is green and the sky is blue. " * 3000
    asked = [
        *longchat_lines.examples(base.tokenizer, lengths[1:], 1),
        *kv_retrieval.examples(base.tokenizer, lengths[1:], 1),
        *passkey.examples(base.tokenizer, lengths[1:], 1),
        *needle.grid(base.tokenizer, text, lengths[1:], [50.0]),
    ]
    check_lengths(asked, base.tokenizer, 2048)


def test_prompts_of_a_models_own_target_length_leave_room_too(place):
    """A model of scale 4 asked with the miniature's numbers, which are of scale 8."""
    base, preset = evaluation_models.base_of("base", place), presets.get("miniature")
    specs = find("original,runs/done", "base", place)
    lengths = evaluation_models.prompt_lengths("1,4,8", base, preset, specs)
    assert lengths == [256, 1024 - 100, 2048 - 100]
    asked = longchat_lines.examples(base.tokenizer, lengths[:2], 1)
    for spec in specs:
        spec.check(asked, base.tokenizer)


@pytest.mark.parametrize("name", ["tiny", "miniature", "smollm2-135m", "llama2-7b"])
def test_no_length_of_a_preset_exceeds_the_length_it_trains_for(name):
    """With the most new tokens that any task allows (LongChat-Lines: 35, a sentence: 50)."""
    preset, window = presets.get(name), {"smollm2-135m": 8192, "llama2-7b": 4096}.get(name, 512)
    base = evaluation_models.Base("", None, window)
    target = window * preset.train.scale
    ours = preset.evaluation
    spans = (ours.lines_lengths, ours.pairs_lengths, ours.needle_lengths or ours.lines_lengths)
    for multiples in spans:
        assert max(evaluation_models.prompt_lengths(multiples, base, preset)) + 50 <= target


def retrained(root, tokenizer, **change):
    """Write a run again with other weights (scale 1.01) or another RoPE."""
    model = models.load(root / "base", **{"scaling": "yarn", "scale": 4, **change})
    if not change:
        model.get_output_embeddings().weight.data.mul_(1.01)
    shutil.rmtree(root / "runs/changing/model", ignore_errors=True)
    models.save(model, tokenizer, root / "runs/changing/model")


@pytest.mark.parametrize(
    "change",
    ["weights", "scaling", "scale", "dtype", "prompt", "max_new_tokens", "stop", "min_new_tokens",
     "style", "nothing"],
)  # fmt: skip
def test_no_changed_thing_reuses_an_old_row(place, tmp_path, tiny_tokenizer, monkeypatch, change):
    """Weights, RoPE, prompt, generation: each asks all anew; only the same again asks nothing."""
    (place / "runs/changing").mkdir(exist_ok=True)
    (place / "runs/changing/config.json").write_text('{"base": "base", "method": "cream"}')
    same = {"scaling": "yarn", "scale": 4}
    retrained(place, tiny_tokenizer, **same)
    asked = longchat_lines.examples(tiny_tokenizer, [100], 2)

    def run(asked):
        subject, rows = find("runs/changing", "base", place), tmp_path / "rows.jsonl"
        return evaluate_models(subject, longchat_lines, asked, rows, progress=False)

    first = run(asked)
    if change in ("weights", "scaling", "scale"):
        retrained(place, tiny_tokenizer, **{"weights": {}, "scaling": {"scaling": "ntk"},
                                            "scale": {"scale": 8}}[change])  # fmt: skip
    if change == "dtype":
        load = models.load
        monkeypatch.setattr(
            models, "load", lambda path, dtype=None, **k: load(path, dtype=dtype or "bfloat16", **k)
        )
    made = {
        "prompt": {"prompt": "\n" + asked[0].prompt},
        "max_new_tokens": {"max_new_tokens": 9},
        "stop": {"stop": None},
        "min_new_tokens": {"min_new_tokens": 2},
        "style": {"how": {"style": "official"}},
    }.get(change, {})
    second = run([dataclasses.replace(one, **made) for one in asked])
    assert len(second) == 2
    assert set(first["key"]).isdisjoint(second["key"]) == (change != "nothing")


def test_samples_beyond_a_target_length_are_refused_before_any_model_is_loaded(
    place, tmp_path, tiny_tokenizer, monkeypatch
):
    """The base may be asked beyond its window, a model scaled to 1,024 tokens not beyond that."""
    asked = longchat_lines.examples(tiny_tokenizer, [900, 1100], 2)
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))
    for name in ("scaled:linear:4", "runs/done"):
        with pytest.raises(ValueError, match=f"2 of 4 samples.* 1024 .*of {name}.: 2 of 1100"):
            evaluate_models(
                find(f"original,{name}", "base", place), longchat_lines, asked, tmp_path / "rows"
            )
    assert not (tmp_path / "rows").exists()


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
QWEN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(("theirs", "window"), [(LLAMA3, 256), (QWEN, 1024)])
def test_a_base_whose_makers_scaled_it_is_asked_beyond_its_window(
    theirs, window, place, tmp_path, tiny_tokenizer
):
    """As every original is; what we stretched from its window N is asked up to its target."""
    shutil.copytree(place / "base", tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 1e4, **theirs}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    assert evaluation_models.base_of("base", tmp_path).window == window
    asked = longchat_lines.examples(tiny_tokenizer, [600, 1100], 1)
    (original,) = specs = find("original", "base", tmp_path)
    frame = evaluate_models(specs, longchat_lines, asked, tmp_path / "rows", progress=False)
    assert sorted(frame["token_length"]) == [600, 1100] and set(frame["window"]) == {window}
    assert original.load().header["scaling"] == theirs["rope_type"]
    far = longchat_lines.examples(tiny_tokenizer, [2 * window + 100], 1)
    with pytest.raises(ValueError, match=f"window of {2 * window} tokens .*scaled:linear:2"):
        evaluate_models(
            find("scaled:linear:2", "base", tmp_path), longchat_lines, far, tmp_path / "rows"
        )


def test_configs_are_those_of_the_loaded_models(place):
    for one in find("original,scaled:ntk:8,runs/done", "base", place):
        loaded = one.load()
        config = one.config()
        assert config.max_position_embeddings == loaded.model.config.max_position_embeddings
        assert one.header(config).items() <= loaded.header.items()
        assert one.weights_hash() == loaded.header["model_hash"]


# ------------------------------------------------------------------ one model under two names


@pytest.fixture
def names(copies, tmp_path):
    """A project folder of a test's own with all that `copies` has, and a link."""
    root = shutil.copytree(copies, tmp_path / "project")
    (root / "link").symlink_to(root / "runs/done")
    return root


@pytest.fixture(scope="module")
def copies(place, tmp_path_factory, tiny_model, tiny_tokenizer):
    """The project folder with copies, shards and other dtypes of its models; it is not changed."""
    root = tmp_path_factory.mktemp("copies") / "project"
    shutil.copytree(place, root)
    shutil.copytree(root / "base", root / "copy")
    model = models.load(root / "base")
    model.save_pretrained(root / "sharded", max_shard_size="20KB")
    tiny_tokenizer.save_pretrained(root / "sharded")
    half = models.load(root / "base").bfloat16()
    models.save(half, tiny_tokenizer, root / "half")
    models.save(half.float(), tiny_tokenizer, root / "widened")
    for name in ("a", "b"):
        models.save(tiny_model(256, seed=ord(name)), tiny_tokenizer, root / name / "model")
    return root


@pytest.mark.parametrize(
    "names_of_one",
    [
        "original,base", "original,./base", "original,copy", "base,copy", "original,sharded",
        "half,widened", "runs/done,./runs/done", "runs/done,runs/done/", "runs/done,runs/../link",
        "runs/done,link", "runs/done,runs/done/model", "runs/done,ABSOLUTE/runs/done",
        "scaled:yarn:8,scaled:yarn:08", "scaled,scaled:yarn:8", "runs/done,http://h/v1#x=./link",
    ],
)  # fmt: skip
def test_one_model_under_two_names_is_refused_naming_both(names, names_of_one):
    """Its answers were counted twice, and the interval was too narrow."""
    given = names_of_one.replace("ABSOLUTE", str(names))
    first, second = given.split(",")
    with pytest.raises(ValueError, match=f"models names {first} and {second}.* twice"):
        find(given, "base", names, "tiny")


@pytest.mark.parametrize(
    "different",
    ["original,scaled", "base,half", "scaled:yarn:8,scaled:yarn:4", "original,runs/done",
     "a/model,b/model"],
)  # fmt: skip
def test_other_models_are_not_taken_for_one(names, different):
    assert len(find(different, "base", names, "tiny")) == 2


def test_a_folder_has_one_name_however_it_is_spelt(names):
    spelt = ["runs/done", "./runs/done", "runs/done/", "runs//done", str(names / "runs/done"),
             "runs/done/model", "runs/going/../done"]  # fmt: skip
    for one in spelt:
        (found,) = find(one, "base", names)
        assert (found.name, found.method) == ("runs/done", "pose"), one


def test_folders_of_one_last_name_are_not_pooled(names):
    """`by_method` takes models of one method for seeds of it."""
    assert [one.method for one in find("a/model,b/model", "base", names)] == ["a/model", "b/model"]
    assert [one.method for one in find("a/model", "base", names)] == ["model"]


def test_equal_weights_are_noticed_when_loaded_where_files_do_not_show_them(
    names, tmp_path, tiny_tokenizer, monkeypatch
):
    monkeypatch.setattr(evaluation_models, "equal_weights", lambda *_: False)
    asked = longchat_lines.examples(tiny_tokenizer, [100], 2)
    listed = find("base,copy", "base", names)
    with pytest.raises(ValueError, match="base and copy have equal weights and RoPE"):
        evaluate_models(listed, longchat_lines, asked, tmp_path / "rows", progress=False)


def test_scaled_alone_is_as_the_preset_trains_it(place):
    wanted = {"tiny": ("yarn", 8), "miniature": ("yarn", 8), "llama2-7b": ("linear", 8)}
    for preset, how in wanted.items():
        (one,) = find("scaled", "base", place, preset)
        assert (one.scaling, one.scale) == how
        assert (one.name, one.method) == (f"scaled:{how[0]}:{how[1]}", "scaled")


@pytest.mark.parametrize(
    ("name", "preset", "says"),
    [
        ("scaled", None, "no preset is given: write scaled:KIND:SCALE"),
        ("scaled", "miniature-base", "preset miniature-base trains without a scaling: leave it"),
        ("scaled:none:8", "tiny", "scaled:none:8 has no scaling.* write original"),
        ("scaled", "tinny", "preset is 'tinny'"),
    ],
)
def test_scaled_alone_needs_a_preset_that_scales(place, name, preset, says):
    with pytest.raises(ValueError, match=says):
        find(name, "base", place, preset)


def test_a_base_that_states_no_window_is_refused_by_name(tmp_path):
    """Lengths are multiples of N; it was a TypeError of a float and None."""
    MptConfig(d_model=16, n_heads=2, n_layers=1).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="base: this mpt config names no max_position_embeddings"):
        evaluation_models.base_of("base", tmp_path)
