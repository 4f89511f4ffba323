"""The choice of ZeRO by hand-made sums, DeepSpeed's settings, who a launcher says one is."""

from __future__ import annotations

import importlib.util
import json
import re
from types import SimpleNamespace

import pytest
import torch
import training_runs
from large_models import COUNT, GIB, seven
from transformers import LlamaConfig

from cream.training import memory, parallel
from cream.training.config import TrainConfig
from cream.training.parallel import Machine

SEVEN = LlamaConfig(max_position_embeddings=4096)
H100, H200 = int(79.2 * GIB), int(140 * GIB)
has_deepspeed = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not has_deepspeed, reason="DeepSpeed is not installed")


@pytest.fixture(autouse=True)
def much_ram(monkeypatch):
    monkeypatch.setattr(memory, "free_ram", lambda: 500 * GIB)


def chosen(config: TrainConfig, processes: int, card: int | None, **more: int) -> tuple:
    found, said = parallel.choose(config, SEVEN, 4096, Machine(processes, processes, card, **more))
    return (found.zero, found.zero_offload, found.recompute, found.offload), said


# (GPUs, GiB of each, settings) and what is chosen: stage, in RAM, recomputed, our own offload.
CHOICES = [
    (1, 140, {}, (0, "none", 0, "none")),
    (1, 79.2, {}, (0, "none", 0, "moments")),
    (2, 140, {}, (1, "none", 0, "none")),
    (8, 79.2, {}, (1, "none", 0, "none")),
    (2, 79.2, {"zero": 2}, (2, "none", 11, "none")),
    (2, 79.2, {}, (3, "none", "cheap", "none")),  # stage 2 would compute a third of layers twice
    (2, 40, {}, (3, "optimizer", 0, "none")),
    (1, 24, {}, (3, "all", "cheap", "none")),
    (2, 140, {"zero": 3, "zero_offload": "all"}, (3, "all", 0, "none")),
    (2, 140, {"zero_offload": "optimizer"}, (2, "optimizer", 0, "none")),
]


@needs_deepspeed
@pytest.mark.parametrize(("processes", "card", "settings", "wanted"), CHOICES)
def test_the_least_that_fits_is_chosen(processes, card, settings, wanted):
    assert chosen(seven(**settings), processes, int(card * GIB))[0] == wanted


@needs_deepspeed
def test_the_choice_is_said_with_its_arithmetic():
    """Bytes a parameter by hand; beside DeepSpeed's own estimate, which counts 18 over the GPUs."""
    said = chosen(seven(), 2, H100)[1]
    second = COUNT * (2 + 16 / 2) + GIB + 3 * 2 * memory.BUCKET
    theirs = COUNT * (2 + 18 / 2)
    assert f"ZeRO-2: states {second / GIB:.1f} " in said
    assert f"(DeepSpeed's own estimate of the states: {theirs / GIB:.1f}): fits" in said
    first = COUNT * (2 + 4 + 12 / 2) + GIB + 3 * 4 * memory.BUCKET
    assert f"ZeRO-1: states {first / GIB:.1f} " in said and "does not fit" in said
    assert said.splitlines()[0] == f"2 processes, card of 79.2 GiB: {COUNT:,} parameters"
    assert said.splitlines()[-1].strip() == "chosen: ZeRO-3, offload none, recompute cheap"


def test_small_models_and_other_precisions_are_not_sharded():
    """Also where DeepSpeed is missing: nothing looks for it."""
    for precision in ("auto", "float32", "bfloat16"):
        config = training_runs.config(precision=precision)
        found, said = parallel.choose(config, LlamaConfig(num_hidden_layers=1), 64, Machine(2, 2))
        assert (found.zero, found.zero_offload, said) == (0, "none", "")
    with pytest.raises(MemoryError, match="states 138.1 .* Set precision='master'"):
        config = training_runs.config(precision="bfloat16", micro_batch=1)
        parallel.choose(config, SEVEN, 4096, Machine(2, 2, H100))  # DDP sends gradients once more


def test_several_processes_need_a_stage_for_masters():
    with pytest.raises(ValueError, match="zero is 0, precision 'master', and 2 processes train"):
        chosen(seven(zero=0), 2, H100)


@needs_deepspeed
def test_what_does_not_fit_is_refused_with_what_to_change(monkeypatch):
    with pytest.raises(MemoryError, match="does not fit") as caught:
        chosen(seven(zero=1, micro_batch=2, recompute=0), 2, H100)
    said = str(caught.value)
    for part in ("zero='auto' and zero_offload='auto'", "recompute='auto'", "less than 2"):
        assert part in said, said
    monkeypatch.setattr(memory, "free_ram", lambda: 16 * GIB)
    with pytest.raises(MemoryError, match="16.0 GiB of RAM are free on this host"):
        chosen(seven(zero=2, zero_offload="optimizer"), 2, H100)
    with pytest.raises(MemoryError, match="With DeepSpeed on 1 process"):
        chosen(seven(), 1, 20 * GIB)


def test_without_deepspeed_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install .*gpu"):
        chosen(seven(), 2, H100)
    with pytest.raises(MemoryError, match="DeepSpeed can keep more .*, and is not installed"):
        chosen(seven(), 1, 20 * GIB)


def test_deepspeed_is_given_stages_and_what_lies_in_ram():
    settings = parallel.deepspeed_config(seven(zero=3, zero_offload="all"))
    zero = settings["zero_optimization"]
    assert (zero["stage"], zero["offload_param"]["device"]) == (3, "cpu")
    assert settings["gradient_clipping"] == settings["train_batch_size"] == "auto"
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    first = parallel.deepspeed_config(seven(zero=1))
    assert first["communication_data_type"] == "fp32"
    assert "offload_optimizer" not in first["zero_optimization"]
    assert json.loads(json.dumps(settings)) == settings
    with pytest.raises(ValueError, match="zero is 'auto'"):
        parallel.deepspeed_config(seven())


def test_a_launcher_says_who_a_process_is(monkeypatch):
    """torchrun's names and those of the deepspeed launcher; a host with fewer cards is refused."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Machine.here() == Machine(1, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_SIZE", "2")
    assert Machine.here() == Machine(4, 2)
    assert str(Machine.here()) == "4 processes on 2 hosts, no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="process 1 of this host has no GPU of its own"):
        Machine.here()


def test_weights_are_read_into_ram_where_a_card_has_no_room_for_all():
    card = Machine(2, 2, H100)
    assert parallel.loads_on_card(seven(zero=3), COUNT, card)
    assert not parallel.loads_on_card(seven(zero=3), 4 * COUNT, card)
    assert not parallel.loads_on_card(seven(zero=3, zero_offload="all"), COUNT, card)
    assert parallel.loads_on_card(seven(zero=2), 4 * COUNT, card)


@needs_deepspeed
def test_a_plan_is_printed_from_a_run_directory(training_place, tmp_path, capsys):
    training_runs.job(tmp_path / "run", precision="master", recompute="auto")
    where = [str(tmp_path / "run"), "--root", str(training_place)]
    parallel.main([*where, "--processes", "2", "--card", "80"])
    assert "chosen: ZeRO-1, offload none, recompute 0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parallel.main([*where, "--card", "0.5"])
    assert "Nothing fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "tokens"), [({}, 64), ({"train_window": 32}, 32), ({"method": "full"}, 512)]
)
def test_the_plan_is_of_the_tokens_that_an_example_has(
    training_place, tmp_path, monkeypatch, more, tokens
):
    """train_window's, or all of L for full; it was the base's window, of 128K tokens for some."""
    seen = []
    monkeypatch.setattr(parallel, "choose", lambda *given: seen.append(given) or (given[0], "plan"))
    training_runs.job(tmp_path / "run", **more)
    parallel.main([str(tmp_path / "run"), "--root", str(training_place)])
    assert [window for _, _, window, _ in seen] == [tokens]


def test_a_run_that_is_not_planned_says_so(training_place, tmp_path, capsys):
    """It printed an empty line."""
    training_runs.job(tmp_path / "run")
    parallel.main([str(tmp_path / "run"), "--root", str(training_place), "--processes", "2"])
    assert "2 processes, a GPU of 80.0 GiB: zero 0, nothing is sharded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--processes", "0"], "processes is 0; it must be a whole number of at least 1"),
        (["--processes", "2", "--on-host", "4"], "on_host is 4; .* at most 2"),
        (["--card", "-3"], "card is -3.0; it must be a finite number, larger than 0"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(tmp_path, capsys, given, says):
    """They printed an empty line, or arithmetic with a GPU of -3 GiB."""
    training_runs.job(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        parallel.main([str(tmp_path / "run"), *given])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == "" and re.search(says, said.err)


def test_a_base_that_is_nowhere_is_said_as_everywhere(tmp_path, capsys):
    training_runs.job(tmp_path / "run", base="meta-llama/Llama-2-7b-hf")
    with pytest.raises(SystemExit) as ended:
        parallel.main([str(tmp_path / "run"), "--root", str(tmp_path)])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Open models of the same family" in said


@needs_deepspeed
def test_nothing_is_loaded_before_the_choice(training_place, tmp_path, monkeypatch):
    """A refusal leaves no run directory and reads no weights."""
    card = SimpleNamespace(total_memory=GIB, name="a small card")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr("cream.models.load", None)
    with pytest.raises(MemoryError, match="a small card of 1.0 GiB"):
        training_runs.train(training_place, tmp_path / "run", precision="master", zero=2)
    assert not (tmp_path / "run").exists()


def test_what_was_asked_for_by_number_is_told_how_it_would_fit():
    """One card: DeepSpeed does not take over, which would move to RAM what was to stay."""
    with pytest.raises(MemoryError, match="Set precision='master', recompute='auto'") as caught:
        chosen(seven(recompute=0, offload="none"), 1, H100)
    assert "ZeRO" not in str(caught.value)
