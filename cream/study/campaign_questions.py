"""What a campaign asks its models: how many questions of which tasks, the same for every model.

What belongs here: from counts to the examples of each task, built once and kept for every process
of a campaign. Prompts and scores are the tasks'; `campaign` says which models are asked. (The
pre-registered grid's questions are `scoring`'s.)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from cream import presets
from cream.data.corpus import open_corpus
from cream.data.tokenization import adds_bos
from cream.evaluation import models as evaluation_models
from cream.presets import Preset
from cream.tasks import (
    haystack,
    kv_retrieval,
    longchat_lines,
    needle,
    passkey,
    perplexity,
    perplexity_texts,
    prompts,
    ruler,
)
from cream.tasks.base import Example
from cream.utils import forks
from cream.utils.files import atomic_write
from cream.utils.provenance import commit, hash_of

__all__ = ["KINDS", "TASKS", "USUAL", "Questions", "kept", "per_length"]

TASKS: dict[str, ModuleType] = {
    "needle": needle, "passkey": passkey, "perplexity": perplexity, "ruler": ruler,
    "longchat_lines": longchat_lines, "kv_retrieval": kv_retrieval,
}  # fmt: skip
USUAL = ("needle", "passkey", "perplexity")
KINDS = ("code", "manual")  # of the text that sentences are hidden in


@dataclass(frozen=True)
class Questions:
    """How many questions of each task, from which split and by which seed."""

    preset: str
    needle: tuple[int, ...] | None = None  # of a length, depth and kind of text; a length each
    style: str | None = None
    passkeys: int | None = None  # a length
    documents: int | None = None
    ruler: int = 20  # of each of the six tasks and each length
    ruler_lengths: tuple[int, ...] = (8192, 16384, 32768)
    split: str = "test"
    seed: int = 0
    lines: int | None = None  # a length
    pairs: int | None = None  # objects of key-value pairs a size, each asked at five places
    lengths: tuple[float, ...] | None = None  # of all but RULER and UUIDs, in windows N
    scale: int | None = None  # of the models, where it is not the preset's
    pair_keys: tuple[int, ...] = kv_retrieval.KEYS_PAPER  # sizes of a base that is asked UUIDs

    def build(self, task: str, root: Path) -> list[Example]:
        """Build the examples of one task; the same on every machine."""
        preset = presets.get(self.preset, scale=self.scale)
        makers = {"needle": self._needles, "passkey": self._passkeys, "perplexity": self._texts,
                  "ruler": self._ruler, "longchat_lines": self._lines,
                  "kv_retrieval": self._pairs}  # fmt: skip
        return makers[task](preset, root)

    def examples(self, task: str, root: Path, folder: Path) -> list[Example]:
        """Return the examples of one task, built by the first process that asks and kept."""
        # Other counts, another style or other code are other questions.
        asked = hash_of(dataclasses.asdict(self), commit())
        return kept(folder / f"{task}-{asked}.json", lambda: self.build(task, root))

    def _prompts(
        self, usual: Sequence[float], base: evaluation_models.Base, preset: Preset
    ) -> list[int]:
        """Lengths of prompts in tokens: those of the campaign, or else the preset's."""
        return evaluation_models.prompt_lengths(self.lengths or usual, base, preset)

    def _needles(self, preset: Preset, root: Path) -> list[Example]:
        base, asked = evaluation_models.base_of(preset.train.base, root), preset.evaluation
        lengths = self._prompts(asked.needle_lengths, base, preset)
        counts = per_length(self.needle or (asked.needle_samples,), lengths)
        corpus = open_corpus(root / preset.train.corpus, base.tokenizer)
        style = self.style or asked.needle_style
        texts = {kind: haystack.from_corpus(corpus, base.tokenizer, self.split, kind)
                 for kind in KINDS}  # fmt: skip
        cells = [(kind, *cell) for kind in KINDS for cell in zip(lengths, counts, strict=True)]

        def cell(one: tuple[str, int, int]) -> list[Example]:
            kind, length, count = one
            return needle.grid(
                base.tokenizer, texts[kind], [length], asked.needle_depths, count, self.seed, style,
                asked.needle_hidden, "exact", kind,
            )  # fmt: skip

        longest = sorted(cells, key=lambda one: -one[1])  # they take the longest
        found = dict(zip(longest, forks.mapped(cell, longest), strict=True))
        return [example for one in cells for example in found[one]]

    def _passkeys(self, preset: Preset, root: Path) -> list[Example]:
        base, asked = evaluation_models.base_of(preset.train.base, root), preset.evaluation
        count = self.passkeys or asked.passkeys
        lengths = self._prompts(asked.needle_lengths, base, preset)
        return passkey.examples(base.tokenizer, lengths, count, self.seed, "chat")

    def _ruler(self, preset: Preset, root: Path) -> list[Example]:
        tokenizer = evaluation_models.base_of(preset.train.base, root).tokenizer
        style = preset.evaluation.ruler_style or "official"
        return ruler.examples(tokenizer, self.ruler_lengths, self.ruler, self.seed, style)

    def _lines(self, preset: Preset, root: Path) -> list[Example]:
        base, asked = evaluation_models.base_of(preset.train.base, root), preset.evaluation
        lengths = self._prompts(asked.lines_lengths, base, preset)
        style = self.style or prompts.default_style(preset.name, base.window)
        count = self.lines or asked.lines_samples
        return longchat_lines.examples(base.tokenizer, lengths, count, self.seed, style)

    def _pairs(self, preset: Preset, root: Path) -> list[Example]:
        """Objects of UUIDs, or of short words by length, as notebook 04 asks them."""
        base, asked = evaluation_models.base_of(preset.train.base, root), preset.evaluation
        style = self.style or prompts.default_style(preset.name, base.window)
        count = self.pairs or asked.pairs_samples
        if style == "miniature":
            lengths = self._prompts(asked.pairs_lengths, base, preset)
            return kv_retrieval.examples(base.tokenizer, lengths, count, self.seed)
        return kv_retrieval.generate(
            self.pair_keys, count, self.seed, base.tokenizer, style=style
        )

    def _texts(self, preset: Preset, root: Path) -> list[Example]:
        base, asked = evaluation_models.base_of(preset.train.base, root), preset.evaluation
        usual = asked.perplexity_lengths
        lengths = evaluation_models.token_lengths(self.lengths or usual, base.window)
        bos = base.tokenizer.bos_token_id if adds_bos(base.tokenizer) else None
        corpus = open_corpus(root / preset.train.corpus, base.tokenizer)
        documents = perplexity_texts.from_corpus(corpus, bos, self.split)
        count = self.documents or asked.perplexity_documents
        return perplexity.examples(documents, lengths, count, bos_token_id=bos)


def per_length(counts: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Return one count a length: one stands for all; ValueError for any other number of them."""
    if len(counts) not in (1, len(lengths)):
        raise ValueError(f"{len(counts)} counts for {len(lengths)} lengths: give 1, or one each")
    if min(counts) < 1:
        raise ValueError(f"count {min(counts)} must be at least 1")
    return list(counts) * (len(lengths) if len(counts) == 1 else 1)


def kept(path: Path, build: Callable[[], list[Example]]) -> list[Example]:
    """Return what `build` gave the first process that came; the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            atomic_write(path, json.dumps([dataclasses.asdict(one) for one in build()]))
    return [_example(one) for one in json.loads(path.read_text())]


def _example(fields: dict[str, object]) -> Example:
    """Return an example as it was before it was written; JSON has no tuples."""
    for name in ("tokens", "context"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    return Example(**fields)
