"""Every preset's numbers, and Llama-2's presets on a layer of Llama-2's shape."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess

import families
import pytest
import torch
import training_runs
import warm_python
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from cream import models
from cream.data import corpus
from cream.presets import named
from cream.training import callbacks
from cream.training import config as training_config
from cream.training import run as training_run

# protocols.md 4.1, but for the seed (its run had none) and the linear warm-up.
LLAMA = {
    "method": "cream",
    "scaling": "linear",
    "scale": 8,
    "batch_size": 32,
    "micro_batch": 2,
    "learning_rate": 2e-5,
    "seed": 0,
    "sampler_options": {},
    "scaling_options": {},
    "weight_decay": 0.0,
    "adam_betas": (0.9, 0.999),
    "max_grad_norm": 1.0,
    "clex_grad_norm": 0.0,
    "precision": "master",
    "save_dtype": "bfloat16",
    "attention": "auto",
    "gradient_checkpointing": False,
    "recompute": "auto",
    "offload": "auto",
    "zero": "auto",
    "zero_offload": "auto",
    "train_window": 0,
    "float8": "none",
    "float8_layers": "auto",
    "lora_rank": 0,
    "lora_alpha": 0,
    "lora_targets": "all-linear",
    "lora_train": "none",
    "base_bits": 16,
    "compile": "layers",
    "log_steps": 5,
    "probe": None,
    "probe_steps": 0,
    "workers": 4,
}
PAPER = {
    "llama2-7b": {
        **LLAMA,
        "base": "meta-llama/Llama-2-7b-hf",
        "revision": "01c7f73d771dfac7d292323805ebc428287df4f9",
        "corpus": "runs/corpora/pile_4k_train",
        "steps": 1000,
        "warmup_steps": 10,
        "save_steps": 500,
    },
    "llama2-7b-chat": {
        **LLAMA,
        "base": "meta-llama/Llama-2-7b-chat-hf",
        "revision": "f5db02db724555f92da89c216ac04704f23d4590",
        "corpus": "runs/corpora/ShareGPT_4k_train",
        "steps": 100,
        "warmup_steps": 0,
        "save_steps": 100,
    },
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_have_the_papers_numbers(name):
    preset = named.get(name)
    assert dataclasses.asdict(preset.train) == PAPER[name]
    lengths = [round(length * 4096) for length in preset.evaluation.lines_lengths]
    assert lengths == [
        2500, 3600, 4200, 4800, 6000, 7100, 9400, 11800, 14000, 16000, 17500, 20000, 22000,
        26000, 28000, 30000, 32000,
    ]  # fmt: skip
    assert preset.evaluation.lines_samples == 50
    assert (preset.evaluation.pairs_lengths, preset.evaluation.pairs_samples) == ((1.2, 2.4), 500)


def test_overrides_replace_and_none_leaves():
    preset = named.get("miniature", method="pose", seed=3, scale=None, learning_rate=1e-4)
    usual = named.get("miniature").train
    expected = dataclasses.replace(usual, method="pose", seed=3, learning_rate=1e-4)
    assert preset.train == expected and preset.train.scale == 8
    models = ("tiny", "miniature", "miniature-base", "smollm2-135m", "llama2-7b", "llama2-7b-chat")
    assert named.names() == models


def test_overrides_that_touch_other_fields():
    """Another base has other revisions, and a short run no room for a long warm-up."""
    assert named.get("llama2-7b", base="some/model").train.revision is None
    assert named.get("llama2-7b", base="some/model", revision="v1").train.revision == "v1"
    chat = named.get("llama2-7b", base="meta-llama/Llama-2-7b-chat-hf").train
    assert chat.revision == PAPER["llama2-7b-chat"]["revision"]
    for steps, warmup in ((1, 0), (5, 2), (10, 5), (11, 10), (500, 10)):
        assert named.get("llama2-7b", steps=steps).train.warmup_steps == warmup
    with pytest.raises(ValueError, match=r"warmup_steps is 7; it must lie in \[0, steps = 5\)"):
        named.get("llama2-7b", steps=5, warmup_steps=7)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="preset is 'llama'; choose one of tiny, miniature, "):
        named.get("llama")
    with pytest.raises(
        ValueError, match=r"a run has no rate, stepz \(did you mean steps\?\); it has: adam"
    ):
        named.get("tiny", stepz=5, rate=1)
    with pytest.raises(ValueError, match="method is 'CREAM'; choose one of cream"):
        named.get("tiny", method="CREAM")


def _made(place, run, *fields: str) -> None:
    """Write the run directory of a tiny preset on the base and the corpus of `place`."""
    here = ["--root", str(place), "base=base", "corpus=corpus", "probe_steps=0"]
    named.main(["tiny", str(run), *here, *fields])


def test_a_run_directory_is_made_of_a_preset(training_place, tmp_path, capsys):
    """Values as JSON or text; every number as the preset with these fields has it."""
    run = tmp_path / "my run"
    _made(training_place, run, "micro_batch=1", "scaling=ntk", "adam_betas=[0.9, 0.95]",
          'sampler_options={"sigma": 2}', "learning_rate=1e-3")  # fmt: skip
    there = training_config.read_config(run)
    assert there == named.get(
        "tiny", base="base", corpus="corpus", probe_steps=0, micro_batch=1, scaling="ntk",
        adam_betas=(0.9, 0.95), sampler_options={"sigma": 2}, learning_rate=1e-3,
    ).train  # fmt: skip
    assert [path.name for path in run.iterdir()] == ["config.json"]
    said = capsys.readouterr().out
    assert "micro_batch 2 -> 1" in said and "4 steps of 2 examples, 1 at a time in one pass" in said
    started = [shlex.split(line.split(" > ")[0]) for line in said.splitlines()[-3:]]
    end = [str(run), "--root", str(training_place)]
    assert started == [
        ["torchrun", "--nproc-per-node", "2", "-m", "cream.training", *end],
        ["deepspeed", "--num_gpus", "2", "--module", "cream.training", *end],
        ["python", "-m", "cream.training.slurm", end[0], "--gpus", "2", *end[1:]],
    ]


def test_a_7bs_run_directory_says_what_is_missing(tmp_path, capsys):
    """Nothing is asked of the hub; the same again is no error."""
    for _ in range(2):
        named.main(["llama2-7b", str(tmp_path / "run"), "zero=2", "--processes", "4", "steps=500"])
        said = capsys.readouterr().out
    assert f"revision {PAPER['llama2-7b']['revision']}; needs access to the weights" in said
    assert "01_data.ipynb runs/01_data.ipynb -p preset llama2-7b\n" in said
    assert "2 at a time in 4 passes of each of 4 processes" in said
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {
        **PAPER["llama2-7b"], "steps": 500, "zero": 2, "adam_betas": [0.9, 0.999]
    }  # fmt: skip


REFUSED = {
    "micro_batch=1 stepz=5": r"a run has no stepz (did you mean steps?)",
    "micro_batch=1 steps=2.5": "steps is 2.5; it must be a whole number of at least 1",
    "micro_batch=1 method=creme": "method is 'creme'; choose one of cream",
    "micro_batch=1 steps": "'steps' is no FIELD=VALUE",
    "micro_batch=1 steps=3 steps=4": "steps is given twice",
    "micro_batch=1 probe=null": "leave probe out to keep the preset's",
    "micro_batch=2": "x 2 processes; give micro_batch=1",
    "micro_batch=1 batch_size=3": "x 2 processes; give other --processes",
    "micro_batch=1 base=base/typo": "there is no such checkpoint directory",
    'micro_batch=1 sampler_options={"sigmar":2}': "cream has no option sigmar",
    "micro_batch=1 --processes 0": "processes is 0; it must be at least 1",
}


@pytest.mark.parametrize("fields", REFUSED)
def test_what_is_wrong_is_said_before_anything_is_written(training_place, tmp_path, capsys, fields):
    with pytest.raises(SystemExit) as ended:
        run = ["tiny", str(tmp_path / "run"), "--root", str(training_place), "base=base"]
        given = fields.split()
        named.main([*(one for one in run if "base=base/" not in fields or one != "base=base"),
                      "corpus=corpus", *given])  # fmt: skip
    assert ended.value.code == 1 and REFUSED[fields] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("refused", ["Mistral 0.1", "Command R7B", "GPT-2"])
def test_a_base_that_cannot_be_extended_is_said_before_a_job_waits(tmp_path, capsys, refused):
    """A job of Slurm waited for its GPUs, loaded and said it then."""
    family = next(one for one in families.REFUSED if one.name == refused)
    family.make().save_pretrained(tmp_path / "base")
    with pytest.raises(SystemExit):
        named.main(["tiny", str(tmp_path / "run"), "--root", str(tmp_path), "base=base"])
    assert families.refusal(family) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_runs_directory_and_a_broken_corpus_are_refused(training_place, tmp_path, capsys):
    _made(training_place, tmp_path / "run", "micro_batch=1")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(SystemExit):
        _made(training_place, tmp_path / "run", "micro_batch=1", "seed=5")
    assert "holds another run (seed 0 -> 5)" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    training_runs.share(training_place, tmp_path / "old")
    (tmp_path / "old" / "corpus").unlink()
    (tmp_path / "old" / "corpus").mkdir()
    (tmp_path / "old" / "corpus" / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(SystemExit):
        _made(tmp_path / "old", tmp_path / "other", "micro_batch=1")
    assert "corpus format 1" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.slow
def test_what_is_printed_starts_two_processes(training_place, tmp_path, capsys):
    """The torchrun line as it stands, on CPUs (gloo)."""
    _made(training_place, tmp_path / "run", "micro_batch=1", "compile=none")
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "torchrun" in one]
    torchrun = [warm_python.executable(), "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run([*torchrun, *shlex.split(line)[1:]], env=training_runs.environment(),
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert sorted(training_runs.losses(tmp_path / "run")) == [1, 2, 3, 4]


class _Stop(TrainerCallback):
    """Ends training early, as a save and a stop would: the schedule stays that of all steps."""

    def __init__(self, last: int):
        self.last = last

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.last:
            control.should_training_stop = True


def _small(name: str, **more: object) -> training_run.TrainConfig:
    """A Llama-2 preset for a CPU: 1 example a step, float32 (bfloat16 is emulated), no compiler."""
    smaller = {"batch_size": 1, "micro_batch": 1, "precision": "float32", "compile": "none"}
    smaller |= {"workers": 0, "save_steps": 0, "log_steps": 1}
    return named.get(name, base="base", corpus="corpus", **smaller, **more).train


@pytest.mark.parametrize("name", PAPER)
def test_the_rates_of_the_papers_runs(monkeypatch, training_place, tmp_path, name):
    """As a real run logs them: up to the peak and towards 0, no step wasted."""
    monkeypatch.setattr(training_run, "CheckpointSeal", lambda: _Stop(100))
    config = _small(name)
    training_run.train(config, tmp_path / "run", root=training_place, progress=False)
    rows = callbacks.read_metrics(tmp_path / "run" / "metrics.jsonl")
    rates = [row["learning_rate"] for row in rows]
    if name == "llama2-7b":
        expected = [2e-6 * step for step in range(1, 11)]
        expected += [2e-5 * (1000 - step) / 990 for step in range(10, 100)]
    else:
        expected = [2e-5 * (100 - step) / 100 for step in range(100)]
    assert rates == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A layer of Llama-2-7B's width and vocabulary, at N = 64, and a corpus for it.

    Input and output embeddings are one: 333 instead of 464 M parameters, 6 instead of 8 GB.
    """
    place = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
        num_hidden_layers=1, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 32000)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    models.save(_drawn(config), tokenizer, place / "base")
    corpus.build(
        place / "corpus", training_runs.documents(), tokenizer, 64, {"of": "tests"}, progress=False
    )
    yield place
    shutil.rmtree(place)  # a gigabyte, which pytest would keep for three sessions


def _drawn(config: LlamaConfig) -> torch.nn.Module:
    """Fill a bfloat16 model from one million normal numbers, since drawing all takes long."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    numbers = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)) * 0.02
    numbers = numbers.to(torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.fill_(1)
                continue
            for part in weight.view(-1).split(len(numbers)):
                part.copy_(numbers[: len(part)])
    model.tie_weights()
    return model


@pytest.mark.slow
def test_llama_2s_shape_takes_a_step(monkeypatch, llama, tmp_path):
    """One optimizer step of the paper's schedule, saved in bfloat16, read by stock transformers.

    Of its base run; the chat run differs by its rates and steps, which are tested above.
    """
    monkeypatch.setattr(training_run, "CheckpointSeal", lambda: _Stop(1))
    made = training_run.train(_small("llama2-7b"), tmp_path / "run", root=llama, progress=False)
    (row,) = callbacks.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert row["learning_rate"] == pytest.approx(2e-6, rel=1e-9)
    assert row["tokens"] == 64 and 10 < row["loss"] < 12  # ln 32,000 = 10.4
    stock = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    assert stock.dtype == torch.bfloat16 and len(AutoTokenizer.from_pretrained(made)) == 32000
    config = stock.config
    assert (config.max_position_embeddings, config.rope_parameters["factor"]) == (512, 8.0)
    assert (config.rope_parameters["rope_type"], config.rope_parameters["rope_theta"]) == (
        "linear", 10000.0
    )  # fmt: skip
    before = AutoModelForCausalLM.from_pretrained(llama / "base", dtype="auto")
    moved = [
        (new != old).any() for new, old in zip(stock.parameters(), before.parameters(), strict=True)
        if new.ndim == 2
    ]  # fmt: skip
    assert len(moved) == 8 and all(moved)
    stock(torch.arange(3, 15)[None], position_ids=torch.arange(500, 512)[None])
    shutil.rmtree(made)


def test_help_lists_a_runs_fields_by_group(capsys):
    with pytest.raises(SystemExit):
        named.main(["--help"])
    said = capsys.readouterr().out
    assert said.index("\nmodel: ") < said.index("\npositions: ") < said.index("\nmemory: ")
    assert "  scale (8)                         s = L / N" in said
