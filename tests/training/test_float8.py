"""Float8 by torchao, emulated on a CPU: which layers, what training leaves, what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
import training_runs
from transformers import AutoModelForCausalLM, LlamaConfig

from cream.training import float8, memory, parallel
from cream.training import run as training_run

SEVEN = LlamaConfig(max_position_embeddings=4096)
EIGHT = LlamaConfig(num_key_value_heads=8, intermediate_size=14336, max_position_embeddings=8192)
ONE = {"num_hidden_layers": 1}
MASTER = {"precision": "master", "float8": "tensorwise", "float8_layers": "all"}

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed (extra float8)"
)


@pytest.fixture
def emulated(monkeypatch) -> None:
    """Products are computed in float32 from numbers that were cast to 8 bits."""
    real = float8.recipe
    monkeypatch.setattr(
        float8, "recipe", lambda name: dataclasses.replace(real(name), emulate=True)
    )
    monkeypatch.setattr(float8, "check_machine", lambda config: None)


def linear(about: LlamaConfig) -> dict[str, torch.nn.Linear]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**{**about.to_dict(), **ONE}))
    return dict(float8._linear(model))


@pytest.mark.parametrize("about, left", [(SEVEN, set()), (EIGHT, {"k_proj", "v_proj"})])
def test_layers_are_chosen_by_size(about, left):
    """All of Llama-2-7B's; of Llama-3-8B's all but keys and values, 4,096 x 1,024."""
    config = training_runs.config(precision="master", float8="tensorwise")
    out = {name for name, one in linear(about).items() if float8.left_out(one, config)}
    assert {name.split(".")[1] for name in out} == left


def test_sizes_that_no_product_takes_are_left_whatever_is_asked():
    config = training_runs.config(**MASTER)
    assert float8.left_out(torch.nn.Linear(8192, 8200), config) == "sizes are not multiples of 16"
    assert float8.left_out(torch.nn.Linear(64, 64), config) is None


@needs_torchao
@pytest.mark.parametrize("kind", ["tensorwise", "rowwise"])
def test_layers_compute_on_numbers_of_8_bits(emulated, tiny_model, kind, caplog):
    """Outputs differ, by no more than 8 bits may; the parameters are the same objects."""
    config = training_runs.config(precision="master", float8=kind, float8_layers="all")
    model = tiny_model().bfloat16()
    tokens = torch.randint(2, 600, (2, 64), generator=torch.Generator().manual_seed(0))
    before, names = model(tokens).logits, dict(model.named_parameters())
    with caplog.at_level("INFO"):
        said = float8.convert(model, config)
    assert said in caplog.text and said == f"float8 {kind}: 14 of 14 linear layers"
    after = dict(model.named_parameters())
    assert list(after) == list(names) and all(after[name] is names[name] for name in names)
    changed = (model(tokens).logits - before).norm() / before.norm()
    assert 1e-3 < changed < 0.2
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    model(tokens, labels=tokens).loss.backward()
    assert all(one.grad.isfinite().all() for one in model.parameters())


@needs_torchao
@pytest.mark.parametrize("precision", ["master", "bfloat16"])
def test_a_run_resumes_bit_for_bit_and_leaves_a_stock_model(
    emulated, training_place, tmp_path, precision
):
    """Nothing of float8 is kept between steps or in what is saved."""
    settings = {**MASTER, "precision": precision, "steps": 4, "save_steps": 2}
    whole, parted, plain = (tmp_path / name for name in ("whole", "parted", "plain"))
    training_runs.train(training_place, whole, **settings)
    config = training_runs.config(**settings)

    class Stop(training_run.TrainerCallback):
        def on_save(self, args, state, control, **_):
            raise training_runs.Stopped

    with pytest.raises(training_runs.Stopped):
        training_run.train(config, parted, root=training_place, progress=False, callbacks=[Stop()])
    assert not (parted / "model").exists()
    training_runs.train(training_place, parted, **settings)
    assert training_runs.weights(parted) == training_runs.weights(whole)
    training_runs.train(training_place, plain, **{**settings, "float8": "none",
                                                  "float8_layers": "auto"})  # fmt: skip
    assert training_runs.weights(plain) != training_runs.weights(whole)
    stock = [AutoModelForCausalLM.from_pretrained(run / "model") for run in (whole, plain)]
    assert [str(one) for one in stock][0] == str(stock[1])
    far = [
        (a - b).norm() / b.norm()
        for a, b in zip(stock[0].parameters(), stock[1].parameters(), strict=True)
    ]
    assert max(far) < 0.1
    losses = [list(training_runs.losses(run).values()) for run in (whole, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0] != losses[1]


REFUSED = {
    "float8 is 'tensorwise' and precision 'auto', which was not tested": {"precision": "auto"},
    "float8 is 'tensorwise' and compile 'none'": {"compile": "none"},
    "float8 is 'tensorwise' and lora_rank 8": {"lora_rank": 8},
    "float8 is 'tensorwise' and zero 2": {"zero": 2},
    "float8 is 'tensorwise' and gradient_checkpointing True": {"gradient_checkpointing": True},
    "float8 is 'tensorwise' and probe_steps 2": {"probe": "a:b", "probe_steps": 2},
    "float8_layers is 'all' and float8 'none'": {"float8": "none"},
    "float8 is 'int4'; choose one of none, tensorwise, rowwise": {"float8": "int4"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_was_not_tested_together_is_refused(message):
    with pytest.raises(ValueError, match=message):
        training_runs.config(**{**MASTER, **REFUSED[message]})


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """Fail where weights are loaded: a refusal costs nothing."""
    monkeypatch.setattr(training_run, "_loaded", lambda *_: pytest.fail("weights were loaded"))


@needs_torchao
def test_a_machine_without_float8_is_refused(unloaded, training_place, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="compute capability 8.9 .*there is no CUDA device"):
        training_runs.train(training_place, tmp_path / "run", **MASTER)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(ValueError, match="this card has 8.0"):
        float8.check_machine(training_runs.config(**MASTER))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    float8.check_machine(training_runs.config(**MASTER))
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named(unloaded, training_place, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .* '\.\[float8\]'"):
        training_runs.train(training_place, tmp_path / "run", **MASTER)


def test_a_model_that_gains_nothing_is_refused(emulated, unloaded, training_place, tmp_path):
    small = {"precision": "master", "float8": "tensorwise"}
    said = r"none of 14 linear layers would be faster by it \(too small to be faster, the largest"
    with pytest.raises(ValueError, match=said):
        training_runs.train(training_place, tmp_path / "run", **small)
    with pytest.raises(ValueError, match="a micro-batch 8190 tokens, which is not a multiple"):
        float8.check(training_runs.config(**MASTER, micro_batch=2), SEVEN, 4095)


def test_one_process_holds_less_of_each_layer(monkeypatch):
    """One window of a 7B takes 12 GiB on an H100 (measured), and no process shares it."""
    monkeypatch.setattr(memory, "free_ram", lambda: 120 * memory.GIB)
    config = training_runs.config(
        precision="master", float8="tensorwise", micro_batch=1, recompute=0, offload="moments"
    )
    machine = parallel.Machine(1, 1, int(79.2 * memory.GIB), "H100")
    settled, said = parallel.choose(config, SEVEN, 4096, machine)
    assert settled.zero == 0 and "float8 tensorwise, moments in RAM" in said
    kept = memory.needs(SEVEN, settled, 4096).activations / memory.GIB
    assert 12 < kept < 13
    assert 10 < memory.left(settled, SEVEN, 4096, machine.card) / memory.GIB < 11
    assert memory.left(dataclasses.replace(settled, offload="none"), SEVEN, 4096, 1) == 0
    with pytest.raises(ValueError, match="2 processes train, which was not tested"):
        parallel.choose(config, SEVEN, 4096, dataclasses.replace(machine, processes=2))
    assert "LoRA of rank 16: " in "\n".join(memory.fitting(SEVEN, config, 4096))
