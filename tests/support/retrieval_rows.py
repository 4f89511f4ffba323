"""Lines, pairs and perplexity of SmolLM2-135M's runs, made up as a campaign asks them."""

from __future__ import annotations

import itertools
import json

import pandas as pd
from variant_rows import asked

from cream.reproduction.smollm2.variants import VARIANTS, run_name
from cream.results import COLUMNS
from cream.utils.provenance import hash_of

LINES = (2048, 4096, 8192, 16384, 32768, 65536)
KEYS = (75, 140, 800)
HOW = {
    "longchat_lines": {"style": "chat", "chat_template": "872be49dbb638044"},
    "kv_retrieval": {"style": "chat", "chat_template": "872be49dbb638044"},
    "perplexity": {"mode": "truncate", "bos": "none"},
}
QUESTION = ("task", "token_length", "num_keys", "gold_index", "sample")
BASE = {
    "schema": "cream-rows-1", "base": "smollm2-135m", "preset": "smollm2-135m", "scaling": "yarn",
    "scale": 8, "window": 8192, "commit": "0123abc", "date": "2026-11-30T20:00:00Z",
}  # fmt: skip
SCALED = {"run": "scaled:yarn:8", "model_hash": "untuned", "method": "scaled"}


def trained(variant: str, seed: int, **about: object) -> dict[str, object]:
    """The columns that say which run it is."""
    name = f"runs/retrieval/{run_name(variant, seed)}"
    usual = {"run": name, "model_hash": name, "method": VARIANTS[variant].method, "seed": seed}
    return {**usual, "tokens_trained": 150 * 16 * 8192, **about}


def sentences(variant: str, seed: int, found: float, **about: object) -> pd.DataFrame:
    """Hidden sentences of a run with retrieval documents, of which it finds a share."""
    who = trained(variant, seed, **about)
    return asked(variant, seed, found, **{name: who[name] for name in ("run", "model_hash")})


def lines(who: dict[str, object], found: dict[int, int] | int, samples: int = 16) -> pd.DataFrame:
    """So many lines of a length (of each, or by length), of which the first `found` are right."""
    right = found if isinstance(found, dict) else dict.fromkeys(LINES, found)
    made = [
        {"token_length": length, "sample": sample, "score": float(sample < right[length])}
        for length, sample in itertools.product(right, range(samples))
    ]
    return _rows("longchat_lines", who, made)


def pairs(who: dict[str, object], found: dict[int, int], objects: int = 6) -> pd.DataFrame:
    """Objects of so many pairs, asked at five places, of which the first `found` are right."""
    made = [
        {"token_length": 72 * keys + place + sample, "num_keys": keys, "gold_index": 10 * place,
         "sample": sample, "score": float(place < right)}
        for keys, right in found.items()
        for place, sample in itertools.product(range(5), range(objects))
    ]  # fmt: skip
    return _rows("kv_retrieval", who, made)


def texts(who: dict[str, object], nll: dict[int, float], documents: int = 16) -> pd.DataFrame:
    """Documents of a length, whose tokens lose so many nats each; the first is twice as long."""
    made = [
        {"token_length": length, "sample": number, "document": f"d{number}",
         "scored_tokens": tokens, "nll": each * tokens + (10 if number == 1 else 0)}
        for length, each in nll.items()
        for number, tokens in enumerate([200, *[100] * (documents - 1)])
    ]  # fmt: skip
    return _rows("perplexity", who, made)


def _rows(task: str, who: dict[str, object], made: list[dict[str, object]]) -> pd.DataFrame:
    how = {"dtype": "bfloat16", **HOW[task]}
    rows = []
    for one in [{"task": task, **each} for each in made]:
        question = " ".join(str(one.get(name)) for name in QUESTION)
        about = {"prompt_hash": question, "settings": json.dumps(how)}
        rows.append({**BASE, **who, **about, **one, "key": hash_of(who["model_hash"], question)})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(COLUMNS)
