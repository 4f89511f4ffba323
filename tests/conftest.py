"""Fixtures for all tests: a tiny tokenizer and tiny random models, made here, never downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# cuBLAS adds in a fixed order only with such a workspace, which it reads before its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import argparse
import contextlib
import gc
import inspect
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import thinning
import warm_python

if TYPE_CHECKING:  # pytest-xdist's controller loads this file: what it needs not, fixtures import
    import pandas as pd
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# jsonschema's grammar of IRIs, which no notebook's schema asks for, takes a second to build.
sys.modules.setdefault("rfc3987_syntax", None)

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed need not look for others


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect no garbage while a million objects are imported, which stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _set_aside()


_FILES: list[Path] = []  # of which tests have begun


def _set_aside() -> None:
    """Take all objects there are out of later collections; every training run asks for one."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` on a host without a CUDA device; `gpu(2)`, with fewer than two."""
    if _FILES[-1:] != [item.path]:  # what the file before has imported stays as well
        _FILES.append(item.path)
        _set_aside()
    for mark in item.iter_markers("gpu"):
        import torch

        wanted, here = mark.args[0] if mark.args else 1, torch.cuda.device_count()
        if here < wanted:
            pytest.skip(f"needs {wanted} CUDA device{'s' * (wanted > 1)}, and this host has {here}")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a CUDA device where there is one: the test makes its claim of both."""
    import torch

    return torch.device(request.param)


TEXT = "\n".join(inspect.getsource(module) for module in (argparse, inspect))


def pytest_configure(config: pytest.Config) -> None:
    """Serve warm processes to all workers, and start every notebook's kernel as one."""
    if not hasattr(config, "workerinput"):
        serving = contextlib.ExitStack()
        serving.enter_context(warm_python.served())
        config.add_cleanup(serving.close)
        if config.getoption("numprocesses", None):
            _start_workers_warm(config.option)
    if config.getoption("numprocesses", None) in (None, 0):
        warm_python.warm_kernels()


def _start_workers_warm(option: argparse.Namespace) -> None:
    """Let xdist's workers be warm processes, which share the cores; threads in excess only spin."""
    workers = len(option.tx)
    option.tx = [f"popen//python={shlex.quote(warm_python.executable())}"] * workers
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that no worker ends with one: many slow tests, then many.

    Then thin matrices, whose cells are short.
    """
    tests = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(
        key=lambda item: ("notebooks" not in item.path.parts, -slow[item.path], -tests[item.path])
    )
    thinning.thin(items)


@pytest.fixture
def traced() -> Iterator[None]:
    """Let torch.compile trace graphs and run them without building their C++ (`tracing`)."""
    import tracing

    with tracing.traced():
        yield


@pytest.fixture
def warm_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what this process starts by `sys.executable` start warm."""
    monkeypatch.setattr("sys.executable", warm_python.executable())
    monkeypatch.setenv("PYTHON_EXEC", warm_python.executable())  # torchrun's name for it


@pytest.fixture(scope="session")
def haystack() -> str:
    """Some hundred kilobytes of honest text: two modules of the standard library."""
    return TEXT


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 600 tokens with digits split and a BOS token it puts before each text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def _texts() -> Iterator[str]:
    import numpy as np

    from cream.data.retrieval import documents, records

    rng = np.random.default_rng(0)
    for family in records.FAMILIES:
        for _ in range(20):
            yield documents.training_document(family, rng, 300, text=TEXT).text


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., LlamaForCausalLM]:
    """Make a random 2-layer Llama: `tiny_model(window=64, seed=0, **config overrides)`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(window: int = 64, seed: int = 0, **overrides: object) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": 600,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": window,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        return LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})).eval()

    return make


@pytest.fixture(scope="session")
def training_place(tmp_path_factory, tiny_model, tiny_tokenizer) -> Path:
    """A folder with a tiny base and a corpus for it, as `training_runs.config` names them."""
    import training_runs  # a Trainer's imports take seconds, which few tests need

    root = tmp_path_factory.mktemp("training")
    gc.freeze()  # each training run collects garbage: a third of a second over all modules
    return training_runs.lay_out(root, tiny_model(), tiny_tokenizer)


@pytest.fixture(scope="session")
def grid_answers() -> pd.DataFrame:
    """A made-up grid's answers, of every plan; not to be written into."""
    from made_campaign import campaign

    return campaign(samples=6)


@pytest.fixture(scope="session")
def grid_runs(grid_answers) -> pd.DataFrame:
    """Its runs, as `claims.units` has them; not to be written into."""
    from cream.study.analysis import endpoints

    return endpoints.units(grid_answers)
