"""What a user reads when the hub gives no model: asked of a server that refuses as the hub does."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig

from cream import models, presets, rope
from cream.evaluation import models as evaluation_models
from cream.models import hub, loading
from cream.notebook import declared

ROOT = Path(__file__).resolve().parents[2]

ASK = """
import sys
from cream import evaluation, models
for name in sys.argv[1:]:
    for read in (models.load_tokenizer, models.load, evaluation.base_of):
        try:
            read(name)
        except FileNotFoundError as error:
            print(error)
"""


class _Refuses(http.server.BaseHTTPRequestHandler):
    """Answers as huggingface.co does: gated, unknown."""

    def do_GET(self) -> None:  # noqa: N802
        gated = self.path.startswith("/meta-llama")
        self.send_response(401 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What three readers say of a gated model, then of one that is not there."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    cache = str(tmp_path_factory.mktemp("hub"))
    environment = {**os.environ, "HF_ENDPOINT": place, "HF_HOME": cache}
    environment |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    names = ["meta-llama/Llama-2-7b-hf", "nobody/nothing"]
    done = subprocess.run([sys.executable, "-c", ASK, *names], env=environment, timeout=90,
                          capture_output=True, text=True, check=True)  # fmt: skip
    server.shutdown()
    yield done.stdout.splitlines()


@pytest.mark.slow
def test_a_gated_model_names_the_page_and_open_ones(said):
    """Whatever is read first: tokenizer, weights, a base's window."""
    assert len(said) == 6 and len(set(said[:3])) == 1
    assert "only to accounts that have access" in said[0] and "`hf auth login`" in said[0]
    assert "https://huggingface.co/meta-llama/Llama-2-7b-hf" in said[0]
    assert "NousResearch/Llama-2-7b-hf (a copy of these weights" in said[0]
    assert "They were not tried here" in said[0]


@pytest.mark.slow
def test_it_names_the_parameters_of_the_notebooks(said):
    """01_data calls a base by its tokenizer."""
    for notebook, names in (("01_data", {"tokenizer", "window"}), ("02_train", {"base"})):
        assert names <= set(declared(ROOT / "notebooks" / f"{notebook}.ipynb"))
    assert "to 01_data as `-p tokenizer NAME -p window N` and to the other notebooks as" in said[0]


READERS = {
    "tokenizer": lambda name: loading.load_tokenizer(name),
    "config": lambda name: loading.load_config(name),
    "weights": lambda name: loading.load(name),
    "base": lambda name: evaluation_models.base_of(name),
    "original": lambda name: evaluation_models.find("original", name)[0].config(),
    "scaled": lambda name: evaluation_models.find("scaled:yarn:8", name)[0].load(),
    "server": lambda name: evaluation_models.find("http://localhost:1/v1#x", name)[0].load(),
}


@pytest.mark.parametrize("name", hub.REVISIONS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_the_pinned_commit(monkeypatch, name, reader):
    """Of the models that are pinned; of others the newest, unless one is named."""
    asked = []

    def gives(path: str, revision: str | None = None, **_: object) -> None:
        asked.append((path, revision))
        raise OSError("offline")

    for auto in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(getattr(loading, auto), "from_pretrained", gives)
    with pytest.raises(FileNotFoundError, match=f"--revision {hub.REVISIONS[name]}"):
        READERS[reader](name)
    assert asked == [(name, hub.REVISIONS[name])]
    for given in ("v1", None):
        with pytest.raises(FileNotFoundError):
            loading.load_config("some/model", given)
        assert asked[-1] == ("some/model", given)


def test_weights_are_of_the_pinned_commit(monkeypatch):
    name, asked = "meta-llama/Llama-2-7b-hf", []
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", lambda *_, **__: LlamaConfig())

    def weights(path: str, revision: str | None = None, **_: object) -> None:
        asked.append((path, revision))
        raise OSError("offline")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", weights)
    for revision in (None, "v1"):
        with pytest.raises(OSError, match="offline"):
            loading.load(name, revision=revision, device="cpu")
    assert asked == [(name, hub.REVISIONS[name]), (name, "v1")]


@pytest.mark.slow
def test_an_unknown_model_is_said_to_be_unknown(said):
    assert len(set(said[3:])) == 1 and "the Hugging Face Hub has no such model" in said[3]
    assert "Open models" not in said[3]


def test_without_a_network_it_says_how_to_fetch(tmp_path):
    """As transformers wraps a connection that failed; the pinned revision is in the command."""
    error = OSError("We couldn't connect to the hub\nCheck your internet connection")
    error.__cause__ = ConnectionError("no route")
    train = presets.get("llama2-7b-chat").train
    said = hub.refusal(train.base, error, train.revision)
    assert f"hf download {train.base} --revision {train.revision} --local-dir DIR" in said
    assert "(We couldn't connect to the hub)" in said and "01-ai/Yi-6B-Chat" in said


def test_every_gated_preset_has_open_models():
    gated = {presets.get(name).train.base for name in presets.names()}
    assert {base for base in gated if base.startswith("meta-llama/")} == set(hub.OPEN)
    assert set(hub.OPEN) <= set(hub.REVISIONS)
    for name in ("llama2-7b", "llama2-7b-chat"):
        train = presets.get(name).train
        assert train.revision == hub.REVISIONS[train.base]


# Of the cards of the open models: window, theta, key-value heads, vocabulary.
CARDS = {
    "Llama-2": (4096, 10000.0, 32, 32000),
    "Yi": (4096, 5_000_000.0, 4, 64000),
    "TinyLlama": (2048, 10000.0, 4, 32000),
}


@pytest.mark.thinned
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_the_open_models_shapes_can_be_extended(card, kind):
    """Their RoPE, narrow and shallow: extended, built, turning as asked."""
    window, theta, heads, vocabulary = CARDS[card]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32 * 8, head_dim=8, num_attention_heads=32,
        num_key_value_heads=heads, num_hidden_layers=1, intermediate_size=32,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    model = loading.create(models.extend(config, rope.scaling(kind, 8)), 0)
    models.check_rotation(model)
    assert models.describe(model.config)["target_length"] == 8 * window
