"""A small multiple-choice task in lm-evaluation-harness's own YAML form, made of any texts.

What belongs here: making it. It stands in for the paper's benchmarks where there is no hub or the
model is small; `harness` asks it by its file's path as it asks theirs by name.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from cream.data.corpus import Corpus
from cream.utils.files import atomic_write

__all__ = ["from_corpus", "make_task"]

CONTEXT, ENDING = 50, 15  # words
LONGEST = 8 * (CONTEXT + ENDING)  # characters: prose, which also a small window holds

TASK = """\
task: next_passage
dataset_path: json
dataset_kwargs: {{data_files: {{train: {train}, test: {test}}}, cache_dir: {cache}}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_target: answer
doc_to_choice: endings
num_fewshot: {shots}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


def from_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, split: str = "test"
) -> list[str]:
    """Return the texts of a split, each a document; generated records are left out."""
    documents = corpus.split(split)
    found = [index for index, kind in enumerate(documents.column("kind")) if kind == "text"]
    return [tokenizer.decode(documents.tokens(index), skip_special_tokens=True) for index in found]


def make_task(
    folder: str | Path, texts: Sequence[str], samples: int = 100, seed: int = 0, shots: int = 0
) -> Path:
    """Write a task of the harness's form: which of four passages goes on with this text?

    50 words of a text, and 15 words of four, one of which follows; the same in (texts, seed).
    Of fewer than four texts the longest are halved. Returns its YAML file. ValueError when that
    gives no four of 200 words.
    """
    words = [text.split() for text in texts]
    words = [each for each in words if len(each) >= 200]
    while 0 < len(words) < 4 and len(longest := max(words, key=len)) >= 400:
        words.remove(longest)
        words += [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
    if len(words) < 4:
        raise ValueError(f"{len(words)} texts have 200 words: a choice of four passages needs 4")
    folder, rng = Path(folder).resolve(), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    documents = [_choice(words, rng) for _ in range(samples + 4)]
    parts = {"train": documents[samples:], "test": documents[:samples]}
    for name, part in parts.items():
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in part)
        atomic_write(folder / f"{name}.jsonl", lines)
    places = {name: json.dumps(str(folder / f"{name}.jsonl")) for name in parts}
    cache = json.dumps(str(folder / "cache"))
    atomic_write(folder / "next_passage.yaml", TASK.format(**places, cache=cache, shots=shots))
    return folder / "next_passage.yaml"


def _choice(words: Sequence[Sequence[str]], rng: np.random.Generator) -> dict[str, object]:
    """One question: the right passage stands at any of four places."""
    for _ in range(1000):
        texts = rng.choice(len(words), 4, replace=False).tolist()
        starts = [int(rng.integers(len(words[one]) - CONTEXT - ENDING)) for one in texts]
        found = [
            (words[one][start:][:CONTEXT], words[one][start + CONTEXT :][:ENDING])
            for one, start in zip(texts, starts, strict=True)
        ]
        if all(len(" ".join([*context, *ending])) <= LONGEST for context, ending in found):
            break
    else:
        raise ValueError(f"the texts have few passages of {LONGEST} characters: use prose")
    order = rng.permutation(4).tolist()
    return {
        "context": " ".join(found[0][0]),
        "endings": [" ".join(found[i][1]) for i in order],
        "answer": order.index(0),
    }
