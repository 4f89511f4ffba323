"""What a fine-tuning corpus is mixed of: text from anywhere, and generated retrieval documents.

What belongs here: the recipe of each preset's corpus and the one call that makes it.

    prepare(RECIPES["miniature"], tokenizer, "runs/corpora/miniature")
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cream.data import distributions, long_documents, manuals, readers
from cream.data.chat import ChatTemplate
from cream.data.columns import unpadded
from cream.data.corpus import TEXT_KINDS, Corpus, build
from cream.data.retrieval import documents as retrieval_documents
from cream.data.retrieval import records as retrieval_records
from cream.data.tokenization import adds_bos, count_tokens
from cream.utils import forks
from cream.utils.provenance import hash_of
from cream.utils.text_files import printable

__all__ = ["RECIPES", "Recipe", "generate", "get", "prepare", "spans", "training_texts"]

LONG_TEXT = "long-text"
NAMED = (*distributions.TIERS, "standard-library", LONG_TEXT)
PARALLEL_TOKENS = 2_000_000  # below this, starting processes takes longer than generating


class Generated(NamedTuple):
    """A generated document, its tokens, and the only characters in the loss (none: all)."""

    text: str
    length: int
    answers: list[tuple[int, int]]


class _Text(NamedTuple):
    """A recipe's documents, what the manifest says of their sources, and notes beside that."""

    documents: Iterator[dict[str, Any]]
    facts: list[dict[str, Any]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a corpus but the tokenizer."""

    source: str = "reproduce"  # a tier of sources, or another of NAMED, a path or a hub id
    window: int = 512  # N: shorter documents are dropped
    piece_tokens: int | None = 4096  # training texts are cut into pieces of at least this many
    share: float = 0.5  # of the training tokens that is generated retrieval documents
    generated_tokens: int = 4096  # at least this many a generated document
    families: tuple[str, ...] = retrieval_records.FAMILIES
    query_placement: str = "interleaved"  # or "end": see findings on data that decides who wins
    evaluation_form: float = 0.2  # share of generated documents that begin like an evaluation
    fill: tuple[float, float] = (0.2, 0.95)  # share of a document that such a beginning takes
    uniform: float = 0.0  # share of queries at a uniform, not a log-uniform, distance
    most_queries: int = 2  # asked after a run of records
    far: float = 0.0  # share of needle documents that ask for an early sentence at the window's end
    wording: str = "evaluation"  # of generated documents; "other" has no words of the evaluations
    answers_only: float = 0.0  # share of generated documents with only the answers in the loss
    seed: int = 0  # of the generated documents
    text_tokens: int | None = None  # at most about this many tokens of training text
    split: str = "train"  # where documents of one's own go that are not split yet
    field: str | None = None  # of a JSON record or dataset row; None: text, ids or conversations
    revision: str | None = None  # of a hub data set
    held_out: float = 0.0  # share of one's own documents for validation, and again for test
    chat_template: str = "auto"
    bos: bool | None = None  # before each document; None: as the tokenizer itself does

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}: it must lie in [0, 1)")
        if self.share and self.generated_tokens < self.window:
            raise ValueError(
                f"generated_tokens {self.generated_tokens} is below the window {self.window}"
            )
        if unknown := set(self.families) - set(retrieval_records.FAMILIES):
            raise ValueError(
                f"unknown families {sorted(unknown)}: choose from {retrieval_records.FAMILIES}"
            )
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Refuse what is said of documents of one's own where the source is one of ours."""
        if self.source not in NAMED:
            return
        for name in ("split", "held_out", "field", "revision"):
            if (value := getattr(self, name)) != getattr(Recipe, name):
                raise ValueError(
                    f"{name} is {value!r}, but it is of documents of your own, and the source is "
                    f"{self.source!r}, whose splits are fixed: leave it out, or name another source"
                )


_DENSE: dict[str, Any] = {
    "source": "pretrain",
    "text_tokens": 1_920_000,
    "share": 0.92,
    "evaluation_form": 0.0,
    "uniform": 0.5,
    "most_queries": 5,
    "answers_only": 0.95,
}
RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(source="standard-library", text_tokens=60_000),
    "miniature": Recipe(),
    "miniature-base": Recipe(
        source="pretrain",
        piece_tokens=512,
        share=0.92,
        generated_tokens=512,
        evaluation_form=0.5,
        uniform=0.5,
        most_queries=5,
        far=0.5,
        answers_only=0.95,
    ),
    # The two conditions of the grid: text only as in the paper, and text with retrieval documents.
    "grid-text": Recipe(source="pretrain", share=0.0, text_tokens=8_000_000),
    "grid-mixed": Recipe(
        source="pretrain",
        text_tokens=4_000_000,
        evaluation_form=0.0,
        uniform=0.5,
        most_queries=5,
        wording="other",
    ),
    # For linear, which neither brings back: retrieval above all, and of most documents the answers
    # alone are in the loss; in other words than the evaluations', and in theirs.
    "grid-dense": Recipe(**_DENSE, wording="other"),
    "grid-dense-same": Recipe(**_DENSE),
    # Real files of packages, joined: documents of 66K tokens and more, some of 263K.
    "smollm2-135m": Recipe(source=LONG_TEXT, window=8192, piece_tokens=None, share=0.0),
    "long-text": Recipe(source=LONG_TEXT, window=8192, piece_tokens=None, share=0.0),
    "long-text-retrieval": Recipe(
        source=LONG_TEXT,
        window=8192,
        piece_tokens=None,
        share=0.25,
        generated_tokens=long_documents.LONG,
        evaluation_form=0.0,
        uniform=0.5,
        most_queries=5,
        wording="other",
    ),
    # The paper's sets, at their newest: no commit of them was seen here. The manifest records which
    # was read; `revision` asks for it again.
    "llama2-7b": Recipe(
        source="victor-wu/pile_4k_train", window=4096, piece_tokens=None, share=0.0
    ),
    "llama2-7b-chat": Recipe(
        source="victor-wu/ShareGPT_4k_train", window=4096, piece_tokens=None, share=0.0
    ),
}


def get(preset: str, root: str | Path = ".", **overrides: object) -> Recipe:
    """Return a preset's recipe, its fields replaced by every override that is not None.

    A source that exists below ``root`` is read there; ``piece_tokens=0`` leaves texts whole.
    Lengths that are not overridden are at least the window. ValueError for an unknown preset.
    """
    if preset not in RECIPES:
        raise ValueError(f"there is no recipe for preset {preset!r}: choose from {list(RECIPES)}")
    changed: dict[str, Any] = {key: value for key, value in overrides.items() if value is not None}
    if changed.get("piece_tokens") == 0:
        changed["piece_tokens"] = None
    here = Path(root) / Path(str(changed.get("source", ""))).expanduser()
    if "source" in changed and changed["source"] not in NAMED and here.exists():
        changed["source"] = str(here)
    return dataclasses.replace(RECIPES[preset], **(_at_least_the_window(preset, changed) | changed))


def _at_least_the_window(preset: str, changed: Mapping[str, Any]) -> dict[str, int]:
    """The preset's lengths, raised to a window that was given."""
    usual, window = RECIPES[preset], changed.get("window")
    if not isinstance(window, int):
        return {}
    lengths = {name: getattr(usual, name) for name in ("piece_tokens", "generated_tokens")}
    return {name: max(own, window) for name, own in lengths.items() if own is not None}


def prepare(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    cache: str | Path = "runs/sources",
    overwrite: bool = False,
    progress: bool = True,
) -> Corpus:
    """Make the corpus of a recipe, or open it when it is there already.

    Args:
        cache: where downloaded archives are kept.

    Raises:
        ValueError, FileNotFoundError, ConnectionError, OSError: see ``readers.open_source``,
            ``downloads.fetch_file`` and ``corpus.build``; nothing is left half-written.
    """
    if recipe.bos and tokenizer.bos_token_id is None:
        raise ValueError(
            "bos is true and the tokenizer has no BOS token: leave bos out, or give it one"
        )
    if recipe.bos is None:
        recipe = dataclasses.replace(recipe, bos=adds_bos(tokenizer))
    chat = ChatTemplate.choose(recipe.chat_template, tokenizer)
    text, facts, notes = _text(recipe, chat, Path(cache), progress, tokenizer)
    described = {**dataclasses.asdict(recipe), "families": list(recipe.families)}
    described["field"] = recipe.field or "text"  # as it stood before there was None
    if recipe.wording == "evaluation":  # corpora made before there was another keep their identity
        del described["wording"]
    if recipe.held_out:  # before, copies of one text could be in training and held out
        described["copies"] = "in one split"
    local = printable(Path(recipe.source).name)
    described["source"] = local if _is_local(recipe) else recipe.source
    described |= {"sources": facts, "chat": chat.facts(), "extraction": _extraction(recipe)}
    described["generators"] = _generator_hash(recipe) if recipe.share else None
    # One bar at a time: pinned text and generated documents show their own.
    own_bars = recipe.source in (*distributions.TIERS, LONG_TEXT)
    stream = _mixed(unpadded(text, tokenizer), recipe, tokenizer, progress and own_bars)
    return build(
        out, stream, tokenizer, recipe.window, described, facts, bool(recipe.bos),
        recipe.piece_tokens, overwrite, progress and not own_bars, notes,
        overlap=recipe.source == LONG_TEXT,
    )  # fmt: skip


def training_texts(recipe: Recipe, cache: str | Path = "runs/sources") -> Iterator[str]:
    """Yield the training texts of a recipe, such as a tokenizer is trained on."""
    for document in _text(recipe, None, Path(cache), progress=True).documents:
        if document["split"] == "train" and "text" in document:
            yield document["text"]


def _extraction(recipe: Recipe) -> Any:
    """What changes when the same archives give other text."""
    if recipe.source != LONG_TEXT:
        return manuals.VERSION
    kept = ("VERSION", "LONG", "LONGER", "EVERY")
    return {name.lower(): getattr(long_documents, name) for name in kept}


def _text(
    recipe: Recipe,
    chat: ChatTemplate | None,
    cache: Path,
    progress: bool,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> _Text:
    if recipe.source == LONG_TEXT:
        if tokenizer is None:
            raise ValueError(f"{LONG_TEXT} is joined by tokens: it cannot train a tokenizer")
        stream = long_documents.documents(cache, tokenizer, bool(recipe.bos), progress=progress)
        return _Text(stream, long_documents.facts())
    if recipe.source in distributions.TIERS:
        pinned = distributions.distributions(recipe.source)
        facts = [
            {key: getattr(each, key) for key in ("name", "version", "sha256", "licence", "split")}
            for each in pinned
        ]
        return _Text(distributions.documents(cache, recipe.source, progress=progress), facts)
    if recipe.source == "standard-library":
        opened = readers.standard_library()
    else:
        opened = readers.open_source(
            recipe.source, recipe.field, chat, recipe.split, recipe.held_out, recipe.revision
        )
    return _Text(opened.documents, [opened.facts], opened.notes)


def _is_local(recipe: Recipe) -> bool:
    return recipe.source not in NAMED and Path(recipe.source).expanduser().exists()


def _mixed(
    text: Iterator[dict[str, Any]],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the text's documents, then generated ones in proportion to the training text."""
    training: list[str] = []
    tokens = 0.0
    for document in text:
        if document["split"] == "train" and document["kind"] in TEXT_KINDS:
            ids = document.get("input_ids")
            length = _estimate(tokenizer, document["text"]) if ids is None else len(ids)
            if recipe.text_tokens is not None and tokens + length > recipe.text_tokens:
                continue
            tokens += length
            if recipe.share:
                training.append(document["text"] if ids is None else tokenizer.decode(ids))
        yield document
    if not recipe.share:
        return
    if not training:
        raise ValueError("there is no training text to mix retrieval documents with: set share 0")
    yield from _generated(recipe, tokens, training, tokenizer, progress)


def _estimate(tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """Estimate a text's tokens from 3,000 characters in its middle."""
    begin = max(0, len(text) // 2 - 1500)
    part = text[begin : begin + 3000]
    return len(text) / len(part) * count_tokens(tokenizer, part) if part else 0.0


def _generated(
    recipe: Recipe,
    text_tokens: float,
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """Yield generated documents, the families in turn, until they have their share."""
    wanted = round(text_tokens * recipe.share / (1 - recipe.share))
    made, quiet = 0, not progress
    with tqdm(None, "generated", wanted, unit=" tokens", mininterval=1, disable=quiet) as bar:
        for index, new in enumerate(_in_order(recipe, wanted, texts, tokenizer)):
            family, length = _family(recipe, index), new.length
            yield {"split": "train", "source": "generated", "name": f"{family} {index}",
                   "kind": family, "text": new.text, "answers": new.answers}  # fmt: skip
            made += length
            bar.update(min(length, wanted - bar.n))
            if made >= wanted:
                return


def _family(recipe: Recipe, index: int) -> str:
    return recipe.families[index % len(recipe.families)]


def _in_order(
    recipe: Recipe, wanted: int, texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Generated]:
    """Yield generated documents without end, in order; many of them from as many processes."""
    make = functools.partial(_generate_one, recipe, texts, tokenizer)
    if wanted < PARALLEL_TOKENS:
        yield from map(make, itertools.count())
        return
    step = 64 * forks.cores()
    for start in itertools.count(step=step):
        yield from forks.mapped(make, range(start, start + step))


def _generate_one(
    recipe: Recipe, texts: list[str], tokenizer: PreTrainedTokenizerBase, index: int
) -> Generated:
    return generate(recipe, _family(recipe, index), index, texts, tokenizer)


def generate(
    recipe: Recipe,
    family: str,
    index: int,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> Generated:
    """Return one generated document, decided by the recipe's seed and ``index``."""
    made, length, only = _made(recipe, family, index, texts, tokenizer)
    learnt = [(each.answer_start, each.end) for each in made.queries]
    return Generated(made.text, length, learnt if only else [])


def _made(
    recipe: Recipe,
    family: str,
    index: int,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[retrieval_documents.Document, int, bool]:
    """A document with its spans, its tokens, and whether only its answers are in the loss."""
    rng = np.random.default_rng([recipe.seed, index])
    haystack = texts[int(rng.integers(len(texts)))] if family == "needle" else None
    counted = [0]

    def count(words: str) -> int:
        counted[0] = count_tokens(tokenizer, words)
        return counted[0]

    made = retrieval_documents.training_document(
        family, rng, recipe.generated_tokens, count, haystack, recipe.query_placement,
        recipe.evaluation_form, recipe.fill, recipe.uniform, recipe.most_queries, far=recipe.far,
        wording=recipe.wording,
    )  # fmt: skip
    return made, counted[0], bool(rng.random() < recipe.answers_only)


def spans(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], cache: str | Path
) -> dict[str, retrieval_documents.Document]:
    """Make generated documents of a corpus again, by their names, for where their queries stand."""
    texts = [
        each["text"] if "text" in each else tokenizer.decode(each["input_ids"])
        for each in _mixed(
            _text(recipe, None, Path(cache), False, tokenizer).documents,
            dataclasses.replace(recipe, share=0.0), tokenizer, False,
        )
        if each["split"] == "train" and each["kind"] in TEXT_KINDS
    ]  # fmt: skip
    found = {}
    for name in names:
        family, _, number = name.rpartition(" ")
        found[name] = _made(recipe, family, int(number), texts, tokenizer)[0]
    return found


def _generator_hash(recipe: Recipe) -> str:
    """Return what changes when the generators do, so that a corpus of old ones is not reused."""
    texts = []
    for family in retrieval_records.FAMILIES:
        rng = np.random.default_rng(recipe.seed)
        texts.append(retrieval_documents.training_document(
            family, rng, 500, text="Some text. " * 50, query_placement=recipe.query_placement,
            far=recipe.far, wording=recipe.wording,
        ).text)  # fmt: skip
    return hash_of(texts)
