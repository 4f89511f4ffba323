"""The miniature's tokenizer: a byte-level BPE with digits one by one, trained deterministically.

What belongs here: training such a tokenizer and saving it so that transformers 4 and 5 read it.
A number of five digits is always five tokens, so that no value is easier than another.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cream.data.retrieval import documents, records
from cream.data.writer import atomic_directory

__all__ = ["BOS", "EOS", "sample", "save_tokenizer", "train_tokenizer"]

BOS, EOS = "<s>", "</s>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose entries are the 256 bytes, ``<s>``, ``</s>`` and merges.

    The same texts in the same order give the same tokenizer. ``<s>`` (BOS) is prepended where
    ``add_special_tokens`` is true; ``</s>`` is EOS and padding. Decoding restores text exactly.

    Raises:
        ValueError: ``vocab_size`` is below 258, or the texts are too few to fill it.
    """
    if vocab_size < 258:
        raise ValueError(f"vocab_size {vocab_size} must be at least 258: 256 bytes, BOS, EOS")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[BOS, EOS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if backend.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the texts fill {backend.get_vocab_size()} of {vocab_size} entries: "
            "pass more text or a smaller vocab_size"
        )
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=EOS,
        clean_up_tokenization_spaces=False, model_max_length=10**12, padding_side="left",
    )  # fmt: skip


def sample(
    texts: Iterable[str], seed: int = 0, characters: int = 16_000, retrieval_documents: int = 480
) -> Iterator[str]:
    """Yield what the miniature's tokenizer is trained on.

    The first ``characters`` of every training text, then retrieval documents of about 1,000
    tokens: enough for their fixed words to become few tokens, too few for a pseudo-word to.
    """
    heads: list[str] = []
    for text in texts:
        heads.append(text[:2_000])
        yield text[:characters]
    rng = np.random.default_rng(seed)
    haystack = "".join(heads[:100])
    for index in range(retrieval_documents):
        family = records.FAMILIES[index % len(records.FAMILIES)]
        yield documents.training_document(family, rng, 1_000, text=haystack).text


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    """Save to a new folder, atomically, with a class name transformers 4 and 5 both know."""
    with atomic_directory(directory) as folder:
        tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        # transformers 5 writes TokenizersBackend, a name that transformers 4 cannot resolve.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings.pop("backend", None)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return directory
