"""What bad input gets, and what a run directory allows: all of it before a model is loaded."""

from __future__ import annotations

import dataclasses
import errno
import json

import pytest
import training_runs
from transformers import PreTrainedModel

from cream import models, positions, presets, rope
from cream.data import corpus
from cream.training import run as training_run
from cream.training.config import (
    GROUPS,
    TrainConfig,
    describe_fields,
    grouped_fields,
    read_config,
)


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """Fail where a model's weights are loaded: errors come before compute."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded before the error was found")

    monkeypatch.setattr(models, "load", load)


REFUSED = {
    "steps": (0, "steps is 0; it must be a whole number of at least 1"),
    "batch_size": (-1, "batch_size is -1; it must be a whole number of at least 1"),
    "micro_batch": ("2", "micro_batch is '2'; it must be a whole number .*: write 2"),
    "seed": (-1, "seed is -1; it must be a whole number of at least 0"),
    "save_steps": (-5, "save_steps is -5; it must be a whole number of at least 0"),
    "learning_rate": (0.0, "learning_rate is 0.0; it must be a finite number, larger than 0"),
    "warmup_steps": (3, r"warmup_steps is 3; it must lie in \[0, steps = 3\)"),
    "method": (
        "PoSE",
        "method is 'PoSE'; choose one of cream, pose, pose-v1, randpos",
    ),
    "scaling": ("dynamic", "scaling is 'dynamic'; choose one of none, linear, ntk, yarn"),
    "scale": (1, "scale is 1: linear scaling needs a whole number of at least 2"),
    "precision": ("fp16", "precision is 'fp16'; choose one of auto, float32, bfloat16, master"),
    "recompute": ("some", "recompute is 'some'; choose auto, cheap or a number of layers from 0"),
    "offload": ("disk", "offload is 'disk'; choose one of auto, none, moments"),
    "compile": (True, "compile is True; it must be of type str"),
    "gradient_checkpointing": (1, "gradient_checkpointing is 1; it must be true or false"),
    "adam_betas": ((0.9,), r"adam_betas is \(0.9,\); it must be of type tuple\[float, float\]"),
    "probe": (3, r"probe is 3; it must be of type str \| None"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_bad_value_is_named_with_its_limit(field):
    value, message = REFUSED[field]
    with pytest.raises(ValueError, match=message):
        training_runs.config(**{field: value})


TOGETHER = {
    "recompute is 4 and precision 'bfloat16'": {"recompute": 4, "precision": "bfloat16"},
    "offload is 'moments' and precision 'auto'": {"offload": "moments"},
    "compile is 'model' and precision 'master'": {"precision": "master", "compile": "model"},
    "recompute is 'cheap', which compiled layers do": {
        "precision": "master", "recompute": "cheap", "compile": "none"
    },
    "gradient_checkpointing recomputes all layers": {
        "precision": "master", "recompute": "auto", "gradient_checkpointing": True
    },
    "recompute is -1; choose auto": {"precision": "master", "recompute": -1},
    "recompute is True; it must be of type int": {"precision": "master", "recompute": True},
    "zero is 4; choose one of auto, 0, 1, 2, 3": {"zero": 4, "precision": "master"},
    "zero is 2 and precision 'bfloat16'; choose 'master'": {"zero": 2, "precision": "bfloat16"},
    "zero is 1 and precision 'auto'": {"zero": 1},
    "zero_offload is 'optimizer', which ZeRO does": {
        "zero": 0, "zero_offload": "optimizer", "precision": "master"
    },
    "zero_offload is 'all', for zero 3 alone; zero is 2": {
        "zero": 2, "zero_offload": "all", "precision": "master"
    },
    "offload is 'moments' and zero 2": {"zero": 2, "offload": "moments", "precision": "master"},
    "compile is 'model' and zero 1": {"zero": 1, "compile": "model", "precision": "float32"},
    "probe_steps is set and zero 3": {
        "zero": 3, "precision": "master", "probe": "a:b", "probe_steps": 5
    },
}  # fmt: skip


@pytest.mark.parametrize("message", TOGETHER)
def test_settings_that_exclude_each_other_are_refused(message):
    with pytest.raises(ValueError, match=message):
        training_runs.config(**TOGETHER[message])


@pytest.mark.parametrize("name", presets.names())
def test_configurations_survive_json(name):
    options = {} if name == "miniature-base" else {"sigma": 2.5}  # its method has none
    config = presets.get(name, sampler_options=options, revision="abc").train
    assert TrainConfig.from_json(config.to_json()) == config


def test_config_json_names_what_is_wrong_in_it(tmp_path):
    file = tmp_path / "config.json"
    with pytest.raises(
        FileNotFoundError, match="config.json does not exist; `python -m cream.presets "
    ):
        read_config(tmp_path)
    for text, message in (
        ('{"base": "b", "corpus": "c", "stepz": 5}', r"unknown fields: stepz \(did you mean steps"),
        ('{"base": "b"}', "lacks corpus"),
        ('{"base": "b", "cor', "config.json: Unterminated string"),
        ("[]", "does not hold the fields of a run"),
        ('{"base": "b", "corpus": "c", "steps": 2.5}', "steps is 2.5; it must be a whole number"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(tmp_path)


def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "no")], "no/config.json does not exist"),
        (["--local_rank=0", str(tmp_path)], "unknown fields: stepz"),
    ):
        (tmp_path / "config.json").write_text('{"stepz": 1}')
        with pytest.raises(SystemExit):
            training_run.main(arguments)
        assert message in capsys.readouterr().err


def test_a_command_that_cannot_train_ends_in_one_line(training_place, tmp_path, capsys):
    """No traceback: what is wrong is the last thing that is read."""
    training_runs.share(training_place, tmp_path)
    training_runs.job(tmp_path / "run", base="gone/base")
    with pytest.raises(SystemExit) as ended:
        training_run.main([str(tmp_path / "run"), "--root", str(tmp_path)])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("gone/base: no such directory here, and the Hugging")


BAD_RUNS = {
    "another's tokenizer": ({"corpus": "foreign"}, "foreign was tokenised by"),
    "no corpus": ({"corpus": "nowhere"}, "nowhere holds no corpus .* given the same preset"),
    "neither": ({"corpus": "nowhere", "base": "gone/base"}, "nowhere holds no corpus"),
    "no base": ({"base": "base/typo"}, "base/typo: there is no such checkpoint directory"),
    "no hub": ({"base": "gone/base"}, "gone/base: no such directory here, and the Hugging Face"),
    "scaled base": ({"base": "scaled"}, "this base already scales its RoPE"),
    "short documents": ({"method": "full", "scale": 64}, "has the 4096 tokens that full needs; "),
    "batch": ({"batch_size": 6, "micro_batch": 4}, "batch_size 6 is not a multiple of micro_batch"),
    "small batch": ({"batch_size": 2, "micro_batch": 4}, "batch_size 2 is not a multiple of"),
    "no middle": ({"sampler_options": {"ends": 32}}, "leave no middle in a window of 64"),
    "option": ({"sampler_options": {"sigmar": 2}}, "cream has no option sigmar; it has: .*ends, "),
    "probe": ({"probe": "cream.tasks.probe:nothing"}, "it must be MODULE:FUNCTION"),
    "probe module": ({"probe": "in_window_retrieval"}, "it must be MODULE:FUNCTION"),
}


@pytest.fixture(scope="module")
def place(training_place, tiny_model, tiny_tokenizer, tmp_path_factory):
    """The usual base and corpus, a corpus of another tokenizer and a base that is scaled."""
    root = tmp_path_factory.mktemp("bad")
    training_runs.share(training_place, root)
    other = type(tiny_tokenizer)(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    other.add_tokens(["another"])
    documents = training_runs.documents()
    corpus.build(root / "foreign", documents, other, 64, {"of": "others"}, progress=False)
    scaled = models.load(root / "base", "linear", 2)
    models.save(scaled, models.load_tokenizer(root / "base"), root / "scaled")
    return root


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_bad_run_ends_before_it_begins(place, tmp_path, unloaded, name):
    """Before the weights are loaded, and without a run directory."""
    changes, message = BAD_RUNS[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        training_runs.train(place, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_base_that_lacks_weights_leaves_no_run(training_place, tmp_path, tiny_tokenizer):
    """Found only when the weights are read: still no run directory."""
    training_runs.share(training_place, tmp_path)
    models.save(models.load(tmp_path / "base"), tiny_tokenizer, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        training_runs.train(tmp_path, tmp_path / "run", base="cut")
    assert not (tmp_path / "run").exists()


def test_another_run_is_refused_by_its_fields(training_place, tmp_path, unloaded):
    run = tmp_path / "run"
    training_runs.job(run, seed=1)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    message = r"holds another run \(seed 1 -> 2; scale 8 -> 16\); choose another run directory"
    with pytest.raises(ValueError, match=message):
        training_runs.train(training_place, run, seed=2, scale=16)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / "config.json").unlink()
    (run / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds checkpoints but no config.json"):
        training_runs.train(training_place, run, seed=2)
    (run / "checkpoints").rmdir()
    with pytest.raises(AssertionError, match="loaded"):  # an empty directory is free
        training_runs.train(training_place, run, seed=2)


def test_a_finished_run_is_not_trained_again(training_place, tmp_path, monkeypatch, capsys):
    made = training_runs.train(training_place, tmp_path / "run")
    before = (made / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(models, "load", None)
    assert training_runs.train(training_place, tmp_path / "run") == made
    for flag in ("--local_rank=0", "--local-rank=0"):  # as launchers put it, first
        training_run.main([flag, str(tmp_path / "run")])
        assert capsys.readouterr().out == f"{made}\n"
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_a_full_disk_leaves_no_model_and_the_run_goes_on(training_place, tmp_path, monkeypatch):
    """The last save fails half-way: nothing of it stays, and the next start only saves."""

    def full(self, folder, **_: object) -> None:
        (folder / "model.safetensors").write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = {"steps": 4, "save_steps": 2}
    with monkeypatch.context() as patched:
        write = PreTrainedModel.save_pretrained
        patched.setattr(
            PreTrainedModel,
            "save_pretrained",
            lambda self, folder, **more: (full if ".model" in str(folder) else write)(
                self, folder, **more
            ),
        )
        with pytest.raises(OSError, match="model was not saved, nothing is left behind"):
            training_runs.train(training_place, tmp_path / "run", **settings)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["checkpoints", "config.json", "metrics.jsonl"]
    steps = []
    monkeypatch.setattr(training_run.CreamTrainer, "compute_loss", lambda *_, **__: steps.append(1))
    made = training_runs.train(training_place, tmp_path / "run", **settings)
    assert steps == [] and json.loads((made / "config.json").read_text())["use_cache"] is True
    assert list(training_runs.losses(tmp_path / "run")) == [1, 2, 3, 4]


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        training_runs.config().steps = 5


def test_every_field_has_a_group_a_meaning_and_a_line_of_help():
    grouped, text = grouped_fields(), describe_fields()
    assert list(grouped) == list(GROUPS) and all(grouped.values())
    fields = [one for found in grouped.values() for one in found]
    assert fields == list(dataclasses.fields(TrainConfig)), "declared in the order of the groups"
    for one in fields:
        assert one.metadata["meaning"] and f"\n  {one.name}" in text
    assert max(map(len, text.splitlines())) <= 96


def test_a_config_written_in_another_order_is_the_same_run():
    """Such as one of before fields were grouped."""
    config = training_runs.config(sampler_options={"sigma": 2}, adam_betas=(0.9, 0.95))
    values = json.loads(config.to_json())
    turned = json.dumps(dict(reversed(values.items())))
    assert TrainConfig.from_json(turned) == config


@pytest.mark.parametrize(("method", "length"), [("cream", 64), ("plain", 64), ("full", 512)])
def test_a_run_gives_its_sampler_and_its_scaling(method, length):
    config = training_runs.config(method=method, scaling="yarn")
    assert config.sampler(64) == positions.sampler(method, 64, 8)
    assert config.sampler(64).example_length == length
    assert len(config.sampler(64).draw(3000, 0, 0, 0).positions) == length
    assert config.rope == rope.scaling("yarn", 8)
    with pytest.raises(ValueError, match="window is 1"):
        config.sampler(1)


def test_a_runs_sampler_and_scaling_have_its_options():
    """Examples of `train_window` tokens reach s N all the same; CLEX's own are of `tokens`."""
    short = training_runs.config(scaling="yarn", train_window=32)
    assert short.sampler(64) == positions.sampler("cream", 32, 16)
    assert short.sampler(64).example_length == 32
    clex = training_runs.config(scaling="clex", method="clex", sampler_options={"tokens": 48},
                                scaling_options={"act": "silu"})  # fmt: skip
    assert clex.rope == rope.scaling("clex", 8, act="silu") != rope.scaling("clex", 8)
    draw = clex.sampler(64)
    assert len(draw.draw(3000, 0, 0, 0).positions) == draw.example_length == 48


def test_what_decides_a_runs_weights():
    """All but how a step is computed and what is logged; forward passes only where t is theirs."""
    plain = training_runs.config()
    for changes in ({"seed": 1}, {"scale": 4}, {"train_window": 32}, {"lora_rank": 4},
                    {"precision": "master"}, {"base": "other"}, {"warmup_steps": 0}):  # fmt: skip
        assert training_runs.config(**changes).deciding() != plain.deciding(), changes
    for changes in ({"micro_batch": 1}, {"workers": 2}, {"zero": 0}, {"compile": "none"},
                    {"save_steps": 1}, {"attention": "eager"}):  # fmt: skip
        assert training_runs.config(**changes).deciding() == plain.deciding(), changes
    clex = {"method": "clex", "scaling": "clex"}
    one, two = (training_runs.config(**clex, micro_batch=n).deciding() for n in (1, 2))
    assert one != two
