"""What is known of the grid's data before a model sees it: distances, queries, leakage.

    python -m cream.study.data_report --out data/results/grid_data.json

Methods are compared on data that may favour one by its layout alone; so, for each condition and
variant: how many queries a window can answer, at which assigned distances, how much of the corpus a
run reads, and the histogram of assigned distances between tokens. And for each condition: which
13-grams of the evaluation's text stand in its training text, and that no word or value is asked for
that training has. No model is needed. All draws are of seed 0: where examples share a coin ("mode
by batch") queries are of its first epoch, which is all continuity.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cream import models
from cream.data import mixture
from cream.data.corpus import Corpus, open_corpus
from cream.data.dataset import ExampleDataset
from cream.data.retrieval import vocabulary
from cream.data.retrieval.documents import Document
from cream.positions import coverage, sampler
from cream.study.conditions import CONDITIONS, DENSE
from cream.study.design import ABLATIONS, AT_64, LONG_SCALE, SCALE, TUNED
from cream.study.scoring import SETS, Questions, build
from cream.utils.files import atomic_write
from cream.utils.provenance import commit

__all__ = [
    "Spans",
    "check_words",
    "describe",
    "main",
    "overlap",
    "queries",
    "spans_of",
    "text_read",
]

GRAM = 13
BINS = 64
WINDOWS = 1_500  # that are drawn for each variant
DRAWS = 600  # for a histogram of assigned distances between tokens
READ = {
    SCALE: 9_600,
    LONG_SCALE: 32_000,
}  # windows of a run by YaRN: 300 steps of 32, at scale 64 1,000
TOLERANCE = 0.2


class Spans(NamedTuple):
    """Where a document's queries (start, answer, end) and their records (start, end) stand."""

    questions: np.ndarray
    records: np.ndarray


# ------------------------------------------------------------------------------- queries


def spans_of(document: Document, tokenizer: PreTrainedTokenizerBase, stored: np.ndarray) -> Spans:
    """Turn a document's characters into token places; ValueError if `stored` is not its tokens."""
    cut = tokenizer(document.text, add_special_tokens=False, split_special_tokens=True,
                    return_offsets_mapping=True)  # fmt: skip
    shift = len(stored) - len(cut["input_ids"])
    if not np.array_equal(stored[shift:], cut["input_ids"]):
        raise ValueError("a document made again has other tokens than the corpus: build it again")
    starts = np.array([start for start, _ in cut["offset_mapping"]])
    ends = np.array([end for _, end in cut["offset_mapping"]])

    def token(character: int) -> int:
        return shift + int(np.searchsorted(ends, character, side="right"))

    def after(character: int) -> int:
        return shift + int(np.searchsorted(starts, character, side="left"))

    asked = [(token(q.start), token(q.answer_start), after(q.end)) for q in document.queries]
    of = [document.records[q.record] for q in document.queries]
    return Spans(np.array(asked), np.array([(token(r.start), after(r.end)) for r in of]))


def queries(
    corpus: Corpus, spans: Mapping[str, Spans], method: str, scale: int, options: dict, window: int
) -> dict[str, object]:
    """Count the queries that windows of a variant can answer, and bin their assigned distances.

    Per window of N tokens: a full-length example counts for as many as it holds.
    """
    draw = sampler(method, window, scale, **options)
    dataset = ExampleDataset(corpus.path, draw, seed=0, num_examples=WINDOWS)
    names = dataset.documents.column("name")
    told = []
    for item in range(WINDOWS):
        epoch, document = dataset.document(item)
        if (found := spans.get(names[document])) is None:
            continue
        size = int(dataset.documents.num_tokens[document])
        told.append(coverage.answerable(draw.draw(size, 0, epoch, document), *found, size))
    distances = np.concatenate(told) if told else np.zeros(0, dtype=np.int64)
    length = draw.target_length
    windows = WINDOWS * draw.example_length // window
    counted, _ = np.histogram(distances, bins=BINS, range=(0, length))
    return {
        "queries_a_window": round(len(distances) / windows, 4),
        "far_queries_a_window": round(float((distances >= window).sum()) / windows, 4),
        "told_distances_of_queries": counted.tolist(),
    }


def text_read(
    corpus: Corpus, method: str, scale: int, options: dict, window: int, windows: int
) -> float:
    """Return the share of the training tokens that a run of so many windows (of N tokens) reads.

    What is read again counts once. A full-length example is as many windows as it holds.
    """
    draw = sampler(method, window, scale, **options)
    examples = windows * window // draw.example_length
    dataset = ExampleDataset(corpus.path, draw, seed=0, num_examples=examples)
    sizes = np.asarray(dataset.documents.num_tokens)
    first = np.cumsum(sizes) - sizes
    read = np.zeros(sizes.sum(), dtype=bool)
    for item in range(examples):
        epoch, document = dataset.document(item)
        drawn = draw.draw(int(sizes[document]), dataset.seed, epoch, document)
        read[first[document] + drawn.tokens] = True
    return round(float(read.mean()), 4)


def _pair_histogram(method: str, scale: int, options: dict, window: int) -> list[float]:
    """Share of token pairs at each of 64 equal ranges of assigned distance up to L."""
    draw = sampler(method, window, scale, **options)
    few = 1 if method in ("full", "plain") else DRAWS
    mass = coverage.pair_mass(draw, window * scale, few, BINS)
    return [round(float(each), 6) for each in mass]


# ------------------------------------------------------------------------------- leakage


def _grams(texts: Iterable[str], n: int, numbers: dict[str, int], grow: bool) -> np.ndarray:
    """Hashes of all runs of n words, uint64; with `grow` words not seen before get a number."""
    parts = []
    factors = (np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, n + 1, dtype=np.uint64)) | np.uint64(1)
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        if grow:
            ids = [numbers.setdefault(word, len(numbers) + 1) for word in words]
        else:
            ids = [numbers.get(word, 0) for word in words]
        if len(ids) >= n:
            runs = np.lib.stride_tricks.sliding_window_view(np.array(ids, dtype=np.uint64), n)
            mixed = (runs + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
            hashed = ((mixed ^ (mixed >> np.uint64(32))) * factors).sum(axis=1, dtype=np.uint64)
            parts.append(hashed if grow else hashed[(runs > 0).all(axis=1)])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def overlap(
    training: Iterable[str], evaluation: Iterable[str], n: int = GRAM
) -> dict[str, int | float]:
    """Count the different n-grams of words of the evaluation's texts that training has, too.

    Words are runs of letters and digits, in lower case. Returns `shared`, `of` and `share`.
    """
    numbers: dict[str, int] = {}
    known = np.unique(_grams(training, n, numbers, grow=True))
    asked = list(evaluation)
    total = len(np.unique(_grams(asked, n, dict(numbers), grow=True)))
    shared = len(np.intersect1d(known, _grams(asked, n, numbers, grow=False)))
    return {"shared": shared, "of": total, "share": round(shared / max(1, total), 6)}


def _texts(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, split: str) -> Iterator[str]:
    documents = corpus.split(split)
    for index in range(len(documents)):
        yield tokenizer.decode(documents.tokens(index), skip_special_tokens=True)


def check_words(documents: Iterable[Document], questions: Iterable[Questions]) -> dict[str, int]:
    """Count the words and values of training and of evaluation; ValueError if any is in both."""
    said = {part for d in documents for r in d.records for part in _parts(f"{r.key} {r.value}")}
    asked = {
        part for each in questions for item in each.items for part in _parts(item.example.target)
    }
    if common := sorted(said & asked):
        raise ValueError(f"training and evaluation share {len(common)} words, {common[:3]}")
    if odd := sorted(part for part in said if _of_evaluation(part)):
        raise ValueError(f"training has {len(odd)} words of the evaluation's split, {odd[:3]}")
    return {"training": len(said), "evaluation": len(asked), "shared": 0}


def _parts(text: str) -> list[str]:
    """Words and numbers that may be asked for; those that join them are left out."""
    return [part for part in re.findall(r"[a-z]{4,}|\d+", text.lower())]


def _of_evaluation(part: str) -> bool:
    if part.isdigit():
        return vocabulary.is_evaluation_value(part)
    return vocabulary.is_evaluation_word(part)


# ------------------------------------------------------------------------------- all of it


def _variants(condition: str) -> dict[str, tuple[str, int, dict]]:
    """Every variant that is trained on these data: sampler, scale and options."""
    found = {name: (name, SCALE, {}) for name in TUNED}
    if condition in DENSE:
        return found
    found |= {name: (made[0], SCALE, made[1]) for name, made in ABLATIONS.items()}
    return found | {
        f"{name}, scale 64": (made[0], LONG_SCALE, made[1]) for name, made in AT_64.items()
    }


def describe(folder: Path, base: str, cache: str) -> dict[str, object]:
    """Return all of it for the corpora in `folder`, as JSON can write it.

    Of `claims.DENSE` those that are there: they are of one plan alone.
    """
    tokenizer, window = models.load_tokenizer(base), 512
    asked = [build(name, tokenizer, window, folder / "text") for name in SETS if name != "tiny"]
    found: dict[str, object] = {"window": window, "bins": BINS, "commit": commit()}
    histograms = {name: _pair_histogram(m, s, o, window) for name, (m, s, o) in
                  tqdm(_variants("text").items(), "distances of tokens")}  # fmt: skip
    found["told_distances_of_tokens"] = histograms
    there = [name for name in DENSE if (folder / name).is_dir()]
    for condition in (*CONDITIONS, *there):
        variants = _variants(condition).items()
        corpus = open_corpus(folder / condition, tokenizer)
        documents = _again(corpus, tokenizer, condition, cache)
        stored = corpus.split("train")
        places = {name: k for k, name in enumerate(stored.column("name"))}
        spans = {name: spans_of(each, tokenizer, stored.tokens(places[name]))
                 for name, each in tqdm(documents.items(), "places of queries")}  # fmt: skip
        table = {name: queries(corpus, spans, m, s, o, window) for name, (m, s, o) in
                 tqdm(variants, f"queries of {condition}")}  # fmt: skip
        for name, (m, s, o) in tqdm(variants if condition in CONDITIONS else (),
                                    f"what is read of {condition}"):  # fmt: skip
            table[name]["text_read"] = text_read(corpus, m, s, o, window, READ[s])
        training = list(_texts(corpus, tokenizer, "train"))
        found[condition] = {
            "corpus": corpus.manifest["recipe_hash"],
            "variants": table,
            "flagged": flagged(table),
            "overlap_of_text": overlap(training, _texts(corpus, tokenizer, "test")),
            "overlap_of_questions": overlap(
                training, (i.example.prompt for q in asked for i in q.items
                           if i.example.task != "needle")
            ),
            "words": check_words(documents.values(), asked),
        }  # fmt: skip
    return found


def _again(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, condition: str, cache: str
) -> dict[str, Document]:
    """The corpus's generated documents with their spans; none in a corpus of text."""
    recipe, documents = mixture.RECIPES[f"grid-{condition}"], corpus.split("train")
    sources = zip(documents.column("name"), documents.column("source"), strict=True)
    names = [name for name, source in sources if source == "generated"]
    return mixture.spans(recipe, tokenizer, names, cache) if names else {}


def flagged(table: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the variants whose queries a window differ from CREAM's by more than 20 %."""
    found = []
    for name, row in table.items():
        one = table["cream, scale 64" if name.endswith("64") else "cream"]["queries_a_window"]
        if one and abs(row["queries_a_window"] / one - 1) > TOLERANCE:
            found.append(name)
    return found


def _missing(folder: Path) -> list[Path]:
    """The corpora of `CONDITIONS` that are not in a folder."""
    places = [folder / name for name in CONDITIONS]
    return [place for place in places if not (place / "manifest.json").is_file()]


def main() -> None:
    """Describe the corpora that `python -m cream.study prepare` made."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.study.data_report", description=main.__doc__
    )
    parser.add_argument("--corpora", default="runs/grid/corpora", type=Path)
    parser.add_argument("--base", default="data/miniature")
    parser.add_argument("--cache", default="runs/sources")
    parser.add_argument("--out", default="data/results/grid_data.json", type=Path)
    given = parser.parse_args()
    if missing := _missing(given.corpora):
        parser.error(
            f"there is no corpus at {', '.join(map(str, missing))}: `python -m cream.study "
            "prepare` makes them, --corpora names their folder"
        )
    text = json.dumps(describe(given.corpora, given.base, given.cache), indent=1) + "\n"
    atomic_write(given.out, text)
    print(given.out)


if __name__ == "__main__":
    main()
