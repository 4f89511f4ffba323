"""Rows as an evaluation would leave them, made from seeded coins, for tests of what reads rows."""

from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from cream.results import Rows, read
from cream.utils.provenance import hash_of

WINDOW, SCALE = 512, 8
LENGTHS = (0.6, 1, 2, 4, 6, 7.8)
KEYS = {23: 1.2, 47: 2.4}
SKILL = {"original": 0.0, "scaled": 0.25, "pose": 0.75, "cream": 0.8}


def header(method: str, seed: int = 0) -> dict:
    tuned = method in ("pose", "cream")
    return {
        "run": f"{method}-s8-{seed}" if tuned else method,
        "model_hash": hash_of(method, seed if tuned else 0),
        "base": "miniature",
        "preset": "miniature",
        "method": method,
        "scaling": "none" if method == "original" else "yarn",
        "scale": 1 if method == "original" else SCALE,
        "window": WINDOW,
        "seed": seed,
        "settings": {"style": "miniature"},
        "tokens_trained": 409_600 if tuned else 0,
        "commit": "0123abc",
        "date": "2026-01-01T00:00:00Z",
    }


def skill(method: str, multiple: float) -> float:
    """How often a made model is right: falling with length, never beyond N unscaled."""
    if multiple <= 1:
        return 0.97
    return SKILL[method] * float(np.exp(-0.09 * (multiple - 1)))


def write(folder: Path, methods: tuple[str, ...] = tuple(SKILL), seeds: tuple[int, ...] = (0,)):
    """Write one JSONL file a method and seed; what varies is fixed by a seed of its own."""
    for method in methods:
        for seed in seeds if method in ("pose", "cream") else (0,):
            rng = np.random.default_rng([len(method), seed])
            path = folder / f"{method}-{seed}.jsonl"
            # Nothing kills this writer, and a disk takes milliseconds for each row.
            with mock.patch("os.fsync"), Rows(path, header(method, seed)) as rows:
                made = [*_lines(method, rng), *_pairs(method, rng), *_nll(method, rng)]
                for row in [*made, *_hidden(method, rng)]:
                    rows.append(row)


def _coin(rng: np.random.Generator, share: float) -> dict:
    right = float(rng.random() < share)
    return {"score": right, "contained": right}


def _lines(method: str, rng: np.random.Generator, samples: int = 50) -> list[dict]:
    return [
        {"task": "longchat_lines", "sample": i, "token_length": round(m * WINDOW),
         "document": f"{m}-{i // 5}", "prompt_hash": hash_of("lines", m, i),
         **_coin(rng, skill(method, m))}
        for m in LENGTHS for i in range(samples)
    ]  # fmt: skip


def _pairs(method: str, rng: np.random.Generator, samples: int = 20) -> list[dict]:
    return [
        {"task": "kv_retrieval", "sample": i, "num_keys": n, "gold_index": round(g * (n - 1)),
         "token_length": round(m * WINDOW), "prompt_hash": hash_of("pairs", n, g, i),
         **_coin(rng, skill(method, m) * (1.0 if g == 0 else 0.6 + 0.3 * g))}
        for n, m in KEYS.items() for g in (0, 0.25, 0.5, 0.75, 1) for i in range(samples)
    ]  # fmt: skip


def _nll(method: str, rng: np.random.Generator, documents: int = 10) -> list[dict]:
    worse = {"original": 0.6, "scaled": 0.15, "pose": 0.02, "cream": 0.0}[method]
    made = []
    for multiple in (1, 2, 4, 8):
        tokens = multiple * WINDOW - 1
        base = np.random.default_rng(9).normal(2.6, 0.15, documents)
        for i in range(documents):
            nll = base[i] - 0.05 * np.log2(multiple) + worse * np.log2(multiple)
            made.append(
                {"task": "perplexity", "sample": i, "document": f"d{i}", "scored_tokens": tokens,
                 "token_length": multiple * WINDOW, "prompt_hash": hash_of("ppl", multiple, i),
                 "nll": float((nll + 0.005 * rng.normal()) * tokens)}
            )  # fmt: skip
    return made


def _hidden(method: str, rng: np.random.Generator) -> list[dict]:
    places = [("needle", depth) for depth in (0, 20, 40, 60, 80, 100)]
    return [
        {"task": task, "sample": 0, "token_length": round(m * WINDOW), "depth_percent": depth,
         "prompt_hash": hash_of(task, m, depth), **_coin(rng, skill(method, m))}
        for m in LENGTHS for task, depth in [*places, ("passkey", 35)]
    ]  # fmt: skip


def frame(folder: Path, **options: object) -> pd.DataFrame:
    write(folder, **options)
    return read(folder)


def metrics(method: str) -> list[dict]:
    """metrics.jsonl of a made run: loss every five steps, a probe every fifty."""
    rng = np.random.default_rng(len(method))
    made = [{"step": 0, "probe_lines": 0.0 if method == "pose" else 0.1, "probe_n": 50}]
    for step in range(5, 105, 5):
        made.append({"step": step, "loss": 2 + np.exp(-step / 20) + 0.03 * rng.normal()})
        if step % 50 == 0:
            made.append({"step": step, "probe_lines": 0.9 + step / 2000, "probe_n": 50})
    return made
