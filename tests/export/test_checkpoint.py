"""Exports: stock libraries find the same model, engines are asked and believed only when equal.

Engines that live elsewhere are tested where these name them, and skipped with a reason otherwise:

    CREAM_LLAMA_CPP             a clone of llama.cpp, for its converter
    CREAM_LLAMA_CPP_PYTHON      an interpreter with llama-cpp-python and what the converter imports
    CREAM_TRANSFORMERS_4_PYTHON an interpreter with torch and transformers 4.57
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
import training_runs
from transformers import AutoConfig, AutoModelForCausalLM, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cream import models, rope
from cream.export import checkpoint, engine_worker, engines, model_card

SCALE = training_runs.SCALE
LENGTHS = [32, 65, 300]  # of 64 tokens in the window and 512 in the extended one
TREE, LLAMA = os.environ.get("CREAM_LLAMA_CPP"), os.environ.get("CREAM_LLAMA_CPP_PYTHON")
OLD = os.environ.get("CREAM_TRANSFORMERS_4_PYTHON")
kinds = pytest.mark.parametrize("kind", tiny_models.STOCK_KINDS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, training_place, tiny_tokenizer) -> Path:
    """A folder with a finished run a scaling; what a run leaves, without the training."""
    root = tmp_path_factory.mktemp("runs")
    for kind in tiny_models.STOCK_KINDS:
        scale = None if kind == "none" else SCALE
        model = models.load(training_place / "base", scaling=kind, scale=scale, device="cpu")
        models.save(model, tiny_tokenizer, root / kind / "model")
        config = training_runs.config(scaling=kind, base=str(training_place / "base"))
        (root / kind / "config.json").write_text(config.to_json())
        rows = [{"step": 0, "probe_n": 4}, {"step": 3, "tokens": 768, "loss": 1.5}]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / kind / "metrics.jsonl").write_text(text)
    return root


@pytest.fixture(scope="module")
def exports(finished, tmp_path_factory) -> Path:
    """A folder with the export of each of them."""
    root = tmp_path_factory.mktemp("exports")
    for kind in tiny_models.STOCK_KINDS:
        assert checkpoint.export(finished / kind, root / kind) == root / kind
    return root


@torch.no_grad()
def _logits(model, tokens: list[int]) -> np.ndarray:
    ids = torch.tensor([tokens])
    return model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].numpy()


ALONE = """
import json, sys, numpy, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
places, tokens = json.loads(sys.argv[1])
found = {}
for place in places:
    model = AutoModelForCausalLM.from_pretrained(place)
    with torch.no_grad():
        found[place.rpartition("/")[2]] = model(torch.tensor([tokens])).logits[0].numpy()
    assert AutoTokenizer.from_pretrained(place)("a 12")["input_ids"][0] == 0
assert not [name for name in sys.modules if name.split(".")[0] == "cream"]
numpy.savez(sys.argv[2], **found)
"""


@pytest.mark.slow
def test_stock_transformers_gives_equal_logits_with_no_code_of_ours(finished, exports, tmp_path):
    """Each scaling, well beyond the window, in a process that never imports this package."""
    tokens = np.random.default_rng(0).integers(2, 600, 400).tolist()
    job = json.dumps([[str(exports / kind) for kind in tiny_models.STOCK_KINDS], tokens])
    told = [sys.executable, "-c", ALONE, job, str(tmp_path / "found.npz")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    seen = []
    with np.load(tmp_path / "found.npz") as found:
        for kind in tiny_models.STOCK_KINDS:
            ours = _logits(models.load(finished / kind / "model", device="cpu"), tokens)
            assert np.abs(found[kind] - ours).max() <= 1e-5 * ours.std(), kind
            seen += [hashlib.sha256(ours.tobytes()).hexdigest()]
    assert len(set(seen)) == len(tiny_models.STOCK_KINDS)  # else equality would say nothing


@kinds
def test_weights_are_copied_and_known_by_the_same_hash(finished, exports, kind):
    """Bit for bit; the rows of a run's evaluations name the export too."""
    file = "model.safetensors"
    assert (exports / kind / file).read_bytes() == (finished / kind / "model" / file).read_bytes()
    facts = json.loads((exports / kind / "cream.json").read_text())
    wanted = models.weights_hash(finished / kind / "model")
    assert models.weights_hash(exports / kind) == wanted == facts["model_hash"]
    assert facts["tokens_trained"] == 768 and facts["seed"] == 0 and facts["checks"] == []
    assert sorted(p.name for p in exports.iterdir()) == sorted(tiny_models.STOCK_KINDS)


@pytest.mark.parametrize("kind", ["yarn", "yarn-original"])
def test_attention_is_exported_sharper(finished, exports, kind, tmp_path):
    """The config and the card say it, longrope's to every engine; the weights are the same."""
    out = checkpoint.export(finished / kind, tmp_path / "out", sharper=1.2)
    config, facts = (json.loads((out / name).read_text()) for name in ("config.json", "cream.json"))
    wanted = rope.scaling(kind, SCALE).attention_factor(64) * 1.2**0.5
    keys = ["attention_factor", *(("short_mscale", "long_mscale") if kind == "yarn" else ())]
    for name in ("rope_parameters", "rope_scaling"):
        assert [config[name][key] for key in keys] == pytest.approx([wanted] * len(keys))
    text = (out / "README.md").read_text()
    assert "logits of attention times 1.2 (not in training)" in text and facts["sharper"] == 1.2
    assert ("read it there was not tested" in text) == (kind == "yarn-original")
    assert facts["model_hash"] == models.weights_hash(out) != models.weights_hash(exports / kind)
    file = "model.safetensors"
    assert (out / file).read_bytes() == (exports / kind / file).read_bytes()
    assert [place.name for place in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_sharper_is_not_exported(finished, tmp_path):
    """By the scaling that has no factor, and by the number; nothing is left."""
    with pytest.raises(ValueError, match="'linear', which has no attention factor"):
        checkpoint.export(finished / "linear", tmp_path / "out", sharper=1.2)
    with pytest.raises(ValueError, match="sharper is -1; it must be a finite number, larger"):
        checkpoint.export(finished / "yarn", tmp_path / "out", sharper=-1)
    assert list(tmp_path.iterdir()) == []


def test_longrope_says_its_factor_to_every_engine(exports):
    """vLLM and SGLang read short_mscale and long_mscale, transformers attention_factor."""
    config = json.loads((exports / "yarn" / "config.json").read_text())
    wanted = rope.scaling("yarn", SCALE).attention_factor(64)
    for key in ("rope_parameters", "rope_scaling"):
        told = [config[key][k] for k in ("attention_factor", "short_mscale", "long_mscale")]
        assert told == [wanted] * 3
    for kind in set(tiny_models.STOCK_KINDS) - {"yarn", "cope"}:
        assert "mscale" not in (exports / kind / "config.json").read_text()


@pytest.mark.parametrize("stated", [{"factor": 4.0}, {"attention_factor": None}])
def test_a_base_of_longrope_that_states_no_factor_is_exported(
    stated, training_place, tiny_tokenizer, tmp_path
):
    """As Phi-3's is: engines are told the factor that transformers computes."""
    theirs = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
              "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, **stated}  # fmt: skip
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(training_place / "base", base)
    config = json.loads((base / "config.json").read_text())
    config |= {"rope_parameters": theirs, "rope_scaling": theirs}
    (base / "config.json").write_text(json.dumps(config))
    models.save(models.load(base, device="cpu"), tiny_tokenizer, run / "model")
    tuned = training_runs.config(base=str(base), method="plain", scaling="none", scale=1)
    (run / "config.json").write_text(tuned.to_json())
    out = checkpoint.export(run)
    written = json.loads((out / "config.json").read_text())
    compute = ROPE_INIT_FUNCTIONS["longrope"]
    wanted = compute(AutoConfig.from_pretrained(base), "cpu")[1]
    assert wanted > 1
    for key in ("rope_parameters", "rope_scaling"):
        told = [written[key][name] for name in ("short_mscale", "long_mscale")]
        assert told == pytest.approx([wanted] * 2)
    card = (out / "README.md").read_text()
    assert "as the base's own `rope_type` longrope." in card
    assert "original_max_position_embeddings" not in card and "both lists" not in card


@kinds
def test_the_tokenizer_is_named_by_a_class_of_both_majors(exports, kind):
    """transformers 4 cannot resolve the class that 5 writes."""
    about = json.loads((exports / kind / "tokenizer_config.json").read_text())
    assert about["tokenizer_class"] == "PreTrainedTokenizerFast" and "is_local" not in about


@kinds
def test_the_card_says_what_it_is_and_that_nothing_was_run(exports, kind, training_place):
    """Numbers of the run, a command an engine, and six times "not run"."""
    text = (exports / kind / "README.md").read_text()
    length = 64 if kind == "none" else 64 * SCALE
    lengths = (f"--max-model-len {length}", f"--context-length {length}", f"-c {length}")
    for wanted in ("| seed | 0 |", "| tokens trained | 768 |", "AutoModelForCausalLM", *lengths):
        assert wanted in text
    assert text.count("| not run |") == len(model_card.ROWS) == 6
    assert ("--json-model-override-args '{" in text) == (kind in ("yarn", "cope"))
    assert str(training_place) not in text  # a base given by its path is named, not placed


@pytest.mark.parametrize("kind", sorted(set(tiny_models.STOCK_KINDS) - {"none"}))
def test_the_overrides_of_the_card_make_the_export_of_the_base(exports, training_place, kind):
    """vLLM's --hf-overrides: the file on the base's own config and files gives the same logits."""
    text = (exports / kind / "README.md").read_text()
    assert '--hf-overrides "$(cat PATH/hf_overrides.json)"' in text
    told = [line for line in text.splitlines() if line.startswith(("vllm", "python -m sglang"))]
    assert len(told) == (3 if kind in ("yarn", "cope") else 4)
    assert not any("--rope-scaling" in line for line in told)
    config = AutoConfig.from_pretrained(training_place / "base")
    config.update(json.loads((exports / kind / "hf_overrides.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(training_place / "base", config=config).eval()
    tokens = np.random.default_rng(1).integers(2, 600, 400).tolist()
    wanted = _logits(AutoModelForCausalLM.from_pretrained(exports / kind).eval(), tokens)
    np.testing.assert_array_equal(_logits(model, tokens), wanted)
    plain = _logits(AutoModelForCausalLM.from_pretrained(training_place / "base").eval(), tokens)
    assert np.abs(plain - wanted).max() > 0.01


@pytest.mark.parametrize(
    ("scaling", "said"),
    [("yarn", "With transformers 5: version 4 refuses"), ("ntk", "The same lines for")],
)
def test_the_card_promises_no_version_that_refuses(tmp_path, training_place, scaling, said):
    """transformers 4 takes no attention factor in a Phi-3 config (families.md); NTK needs none."""
    config = Phi3Config(
        **{**tiny_models.SHAPE, "hidden_size": 128}, num_key_value_heads=1, sliding_window=None,
        original_max_position_embeddings=64,
    )  # fmt: skip
    base, run = tmp_path / "base", tmp_path / "run"
    models.save(models.create(config, 0), tiny_models.tokenizer(), base)
    model = models.load(base, scaling=scaling, scale=SCALE, device="cpu")
    models.save(model, tiny_models.tokenizer(), run / "model")
    settings = training_runs.config(scaling=scaling, base=str(base))
    (run / "config.json").write_text(settings.to_json())
    assert said in (checkpoint.export(run) / "README.md").read_text()


def test_an_adapter_is_served_where_engines_take_it():
    """vLLM counts ranks in steps, and takes neither norms nor embeddings that were trained."""
    facts = {"base": "a/b", "base_is_local": False, "target_length": 512, "scaling": "linear"}
    for more, said in (
        ({"lora_rank": 16, "lora_train": "none"}, "--max-lora-rank 16 --lora-modules tuned=RUN/"),
        ({"lora_rank": 24, "lora_train": "none"}, "--max-lora-rank 32"),
        ({"lora_rank": 16, "lora_train": "norms"}, ""),
        ({"lora_rank": 0, "lora_train": "none"}, ""),
    ):
        found = model_card.on_the_base({**facts, **more})
        assert said in found["vLLM"] and ("lora" in found["vLLM"]) == bool(said)
        assert ("--lora-paths tuned=RUN/adapter" in found["SGLang"]) == bool(said)
        assert found["vLLM"].startswith("vllm serve a/b --max-model-len 512 --hf-overrides")


@pytest.mark.slow
def test_a_check_asks_another_process_and_is_recorded(exports, tmp_path):
    """The card's row changes, and words that its owner added stay."""
    out = Path(shutil.copytree(exports / "yarn", tmp_path / "out"))
    with (out / "README.md").open("a") as card:
        card.write("\nMy own words.\n")
    record = engines.check(out, "transformers", lengths=LENGTHS)
    assert record["agrees"] and record["text_equal"]
    assert [one["length"] for one in record["lengths"]] == LENGTHS
    assert all(one["equal"] == one["tokens"] == 17 for one in record["lengths"])
    text = (out / "README.md").read_text()
    assert text.count("| not run |") == 5 and "51 of 51" in text
    assert text.endswith("My own words.\n") and record["version"] in text
    assert json.loads((out / "cream.json").read_text())["checks"] == [record]


def test_another_rope_is_not_believed(exports, tmp_path):
    """Stock yarn is another model; so is longrope without its attention factor."""
    asked = engines.questions(
        models.load(exports / "yarn", device="cpu"), models.load_tokenizer(exports / "yarn"), [300]
    )
    ours = _logits(models.load(exports / "yarn", device="cpu"), asked[0]["tokens"])[299:]
    for name, change in {
        "right": {},
        "stock yarn": {"rope_type": "yarn", "attention_factor": None},
        "no factor": {"attention_factor": None},
    }.items():
        out = Path(shutil.copytree(exports / "yarn", tmp_path / name))
        config = json.loads((out / "config.json").read_text())
        for key in ("rope_parameters", "rope_scaling"):
            config[key] = {k: v for k, v in {**config[key], **change}.items() if v is not None}
        (out / "config.json").write_text(json.dumps(config))
        job = {"model": str(out), "sequences": asked, "texts": []}
        (theirs,), _ = engine_worker.run_transformers(job)
        one = engines.compare(ours, theirs)
        assert (one["difference"] <= engines.TOLERANCE * one["spread"]) == (name == "right"), name


def test_a_check_that_fails_says_so_in_the_card():
    """Loudly, in bold."""
    one = {"length": 9, "tokens": 17, "equal": 3, "difference": 1.0, "spread": 2.0}
    check = {"engine": "vllm", "version": "vllm 1", "lengths": [one], "agrees": False,
             "text_equal": False, "command": "c", "date": "d"}  # fmt: skip
    row = model_card.checks_table([check]).splitlines()[-2]
    assert "vLLM" in row and "**DIFFERS: do not use**, 3 of 17" in row and "5e-01" in row
    assert "**text becomes other tokens**" in row


def test_runs_that_cannot_be_exported_are_named(finished, training_place, tmp_path):
    """Before anything is written."""
    run = Path(shutil.copytree(finished / "linear", tmp_path / "run"))
    shutil.rmtree(run / "model")
    with pytest.raises(FileNotFoundError, match="has no model/: the run is not finished"):
        checkpoint.export(run, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="there is no such run directory"):
        checkpoint.export(tmp_path / "typo", tmp_path / "out")
    with pytest.raises(ValueError, match="is a checkpoint, not a run"):
        checkpoint.export(training_place / "base", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_target_that_holds_something_is_refused(finished, tmp_path):
    """A file, a folder with a file; an empty folder is taken."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for place in ("full", "full/thesis.tex"):
        with pytest.raises(FileExistsError, match="is not empty"):
            checkpoint.export(finished / "linear", tmp_path / place)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    checkpoint.export(finished / "linear", tmp_path / "empty")
    assert (tmp_path / "empty" / "README.md").is_file()


def test_a_full_disk_leaves_nothing(finished, tmp_path, monkeypatch):
    """Known before the copy, or met on the way."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2**20))
        with pytest.raises(OSError, match=r"has 1 MiB free and the export takes 1"):
            checkpoint.export(finished / "linear", tmp_path / "out")
    copy = shutil.copyfile

    def full(source, place):
        if Path(source).name == "tokenizer.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, place)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="was not exported, nothing is left behind.*No space left"):
        checkpoint.export(finished / "linear", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_reads_otherwise_is_not_published(finished, tmp_path, monkeypatch):
    """Cut short, or with another RoPE."""
    with monkeypatch.context() as patch:
        other = {"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
        patch.setattr(checkpoint, "_for_every_engine", lambda config, _: config | other)
        with pytest.raises(RuntimeError, match="reads back with another RoPE"):
            checkpoint.export(finished / "linear", tmp_path / "out")
    cut = lambda source, place: Path(place).write_bytes(Path(source).read_bytes()[:-1])  # noqa: E731
    monkeypatch.setattr(shutil, "copyfile", cut)
    with pytest.raises((OSError, ValueError), match="not copied whole|truncated"):
        checkpoint.export(finished / "linear", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_checks_that_cannot_start_are_named(exports, tmp_path):
    """And an engine that is not there, with what to install."""
    out = exports / "linear"
    with pytest.raises(FileNotFoundError, match="it is not an export"):
        engines.check(tmp_path, "transformers")
    with pytest.raises(ValueError, match="python -m cream.export gguf"):
        engines.check(out, "llama.cpp")
    with pytest.raises(FileNotFoundError, match="cream.export gguf writes it"):
        engines.check(out, "llama.cpp", gguf=tmp_path / "no.gguf")
    with pytest.raises(FileNotFoundError, match="there is no such interpreter"):
        engines.check(out, "transformers", python=tmp_path / "python", lengths=[32])
    with pytest.raises(FileNotFoundError, match="name a llama.cpp clone"):
        engines.convert(out, tmp_path / "x.gguf", tmp_path)
    (tmp_path / "x.gguf").write_text("not one")
    (tmp_path / "none").write_text('#!/bin/sh\necho "ModuleNotFoundError: llama_cpp" >&2; exit 1\n')
    (tmp_path / "none").chmod(0o755)
    with pytest.raises(RuntimeError, match="needs llama-cpp-python; --python names another"):
        engines.check(out, "llama.cpp", tmp_path / "none", tmp_path / "x.gguf", [32])
    (tmp_path / "convert_hf_to_gguf.py").touch()
    with pytest.raises(FileExistsError, match="is there already"):
        engines.convert(out, tmp_path / "x.gguf", tmp_path)
    assert json.loads((out / "cream.json").read_text())["checks"] == []


def test_the_base_s_licence_is_read_and_not_invented(tmp_path):
    """From the Hub's metadata, from a line of text, or not at all."""
    assert checkpoint.licence_of(tmp_path) == ""
    for text, wanted in {
        "---\nlicense: llama2\n---\n# x": "llama2",
        "---\nlicense: other\nlicense_name: my-own\n---\n": "my-own",
        "Seed 0. Licence: Apache-2.0 for the weights.": "Apache-2.0",
        "No word of it.": "",
    }.items():
        (tmp_path / "README.md").write_text(text)
        assert checkpoint.licence_of(tmp_path) == wanted


def test_a_pre_tokenizer_is_named_only_where_it_is_the_same(tmp_path):
    """Digits one by one, then GPT-2's pattern: llama.cpp's smollm. Nothing else is guessed."""
    digits = {"type": "Digits", "individual_digits": True}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for parts, wanted in (
        ([digits, last], "smollm"),
        ([{**digits, "individual_digits": False}, last], None),
        ([digits, {**last, "use_regex": False}], None),
        ([last], None),
    ):
        text = json.dumps({"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}})
        (tmp_path / "tokenizer.json").write_text(text)
        assert engines._pre_tokenizer(tmp_path) == wanted


def test_the_command_exports_checks_and_reports_errors(finished, tmp_path, capsys, monkeypatch):
    """`python -m cream.export`, as typed."""
    run = Path(shutil.copytree(finished / "ntk", tmp_path / "run"))
    checkpoint.main([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "export")
    for words in ([str(run)], ["check", str(run), "--engine", "transformers"]):
        with pytest.raises(SystemExit) as left:
            checkpoint.main(words)
        assert left.value.code == 1 and str(run) in capsys.readouterr().err
    one = {"length": 9, "tokens": 17, "equal": 17, "difference": 0.0, "spread": 2.0}
    said = {"version": "v", "lengths": [one], "agrees": True, "text_equal": True}
    monkeypatch.setattr(engines, "check", lambda *given: said)
    checkpoint.main(["check", str(run / "export"), "--engine", "transformers"])
    assert "17 of 17" in capsys.readouterr().out
    said["agrees"] = False
    with pytest.raises(SystemExit):
        checkpoint.main(["check", str(run / "export"), "--engine", "transformers"])
    assert "DIFFERS from cream's" in capsys.readouterr().err


@pytest.mark.skipif(not OLD, reason="CREAM_TRANSFORMERS_4_PYTHON names no transformers 4.57")
@kinds
def test_transformers_4_gives_our_logits(exports, tmp_path, kind):
    """The same folder, another major version."""
    out = Path(shutil.copytree(exports / kind, tmp_path / "out"))
    record = engines.check(out, "transformers", OLD, lengths=LENGTHS)
    assert record["version"].startswith("transformers 4.")
    assert record["agrees"] and record["text_equal"]


@pytest.mark.skipif(not (TREE and LLAMA), reason="CREAM_LLAMA_CPP and CREAM_LLAMA_CPP_PYTHON unset")
@kinds
def test_llama_cpp_gives_our_logits(exports, tmp_path, kind):
    """Converted by its own converter; the tests' tokenizer has to be named to it."""
    out = Path(shutil.copytree(exports / kind, tmp_path / "out"))
    if kind == "none":
        with pytest.raises(RuntimeError, match="pre-tokenizer was not recognized"):
            engines.convert(out, tmp_path / "x.gguf", TREE, LLAMA)
        assert not list(tmp_path.glob(".gguf-*")) and not (tmp_path / "x.gguf").exists()
    gguf = engines.convert(out, tmp_path / "x.gguf", TREE, LLAMA, pre="smollm")
    record = engines.check(out, "llama.cpp", LLAMA, gguf, LENGTHS)
    assert record["agrees"] and record["text_equal"], record


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_llama_cpp_s_server_gives_our_greedy_tokens(exports, tmp_path, kind):
    """The GGUF file behind llama.cpp's own HTTP server, as xllamacpp carries it."""
    if not TREE:
        pytest.skip("CREAM_LLAMA_CPP is unset: no converter")
    pytest.importorskip("xllamacpp", reason="xllamacpp, which carries the server, is not installed")
    out = Path(shutil.copytree(exports / kind, tmp_path / "out"))
    gguf = engines.convert(out, tmp_path / "x.gguf", TREE, pre="smollm")
    record = engines.check(out, "llama-server", None, gguf, LENGTHS)
    assert record["agrees"] and record["text_equal"], record
    assert [one["equal"] for one in record["lengths"]] == [16] * 3
    assert "a server gives none" in (out / "README.md").read_text()


def test_a_server_agrees_only_with_equal_tokens():
    """One token apart, or one short, is another model."""
    asked = {"tokens": [5, 6, 7, 8, 9], "first": 2}
    for greedy, equal in (([7, 8, 9], 3), ([7, 8, 1], 2), ([7, 8], 2), ([], 0)):
        one = engines._same_tokens(asked, greedy)
        assert one == {"length": 2, "tokens": 3, "equal": equal}
        assert engines._agrees(one) == (equal == 3)


@pytest.mark.parametrize("given", ["abc", "0", "-5", "", "256,x", ","])
def test_lengths_of_a_check_are_refused_by_name(tmp_path, capsys, given):
    """Before the model is loaded; -5 said "expected non-negative integer" after it was."""
    with pytest.raises(SystemExit) as ended:
        checkpoint.main(["check", str(tmp_path), "--engine", "transformers", f"--lengths={given}"])
    assert ended.value.code == 1
    assert f"--lengths is {given!r}: give whole numbers of tokens" in capsys.readouterr().err
