"""Rows as a grid writes them, made up: known effects of methods, bases and seeds, no model."""

from __future__ import annotations

import numpy as np
import pandas as pd

WINDOW = 512
LEVELS = {"original": 0.0, "scaled": 0.3, "plain": 0.5, "randpos": 0.0, "pose": 0.6, "cream": 0.6,
          "full": 0.7}  # fmt: skip
LINES = (0.6, 1.0, 2.0, 4.0, 6.0, 7.8)


def answers(
    levels: dict[str, float] = LEVELS,
    bases: int = 3,
    seeds: int = 2,
    samples: int = 20,
    plan: str = "primary",
    conditions: tuple[str, ...] = ("text", "mixed"),
    scalings: tuple[str, ...] = ("linear", "ntk", "yarn"),
    seed: int = 0,
) -> pd.DataFrame:
    """A row an answer, of every variant, condition, scaling, base and seed."""
    rng = np.random.default_rng(seed)
    runs, scores = [], []
    for variant, level in levels.items():
        untuned = variant in ("original", "scaled")
        for condition in ("none",) if untuned else conditions:
            for scaling in ("none",) if variant == "original" else scalings:
                for base in range(bases):
                    for number in range(1 if untuned else seeds):
                        runs.append({"plan": plan, "condition": condition, "variant": variant,
                               "method": variant, "scaling": scaling, "base": f"base{base}",
                               "scale": 1 if variant == "original" else 8, "options": "{}",
                               "seed": number, "steps": 100, "learning_rate": 3e-4,
                               "window": WINDOW, "batch": 32})  # fmt: skip
                        scores.append(_scores(rng, level, samples))
    asked = _asked(samples)
    rows = pd.concat([asked] * len(runs), ignore_index=True).assign(score=np.concatenate(scores))
    of_run = np.repeat(np.arange(len(runs)), len(asked))
    return pd.concat([rows, pd.DataFrame(runs).take(of_run).reset_index(drop=True)], axis=1)


def _asked(samples: int) -> pd.DataFrame:
    """What every run is asked; only scores differ."""
    texts = [
        pd.DataFrame({"task": "perplexity", "token_length": WINDOW * n, "sample": range(3),
                      "nll": 2.0 * WINDOW * n, "scored_tokens": WINDOW * n})
        for n in (1, 8)
    ]  # fmt: skip
    lines = [_cell("longchat_lines", n, samples) for n in LINES]
    pairs = [_cell("kv_retrieval", 2.4, samples, 20.0 * gold) for gold in range(5)]
    return pd.concat([*lines, *pairs, _cell("needle", 4.0, samples), *texts], ignore_index=True)


def _cell(task: str, multiple: float, samples: int, gold: float | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {"task": task, "token_length": round(WINDOW * multiple), "sample": range(samples),
         "gold_index": gold, "score": 0.0}
    )  # fmt: skip


def _scores(rng: np.random.Generator, level: float, samples: int) -> np.ndarray:
    """Right or wrong at the level of each cell of `_asked`; documents have no score."""
    lines = [level if n > 1 else 1.0 for n in LINES]
    pairs = [max(0, level - 0.3 * (gold == 2)) for gold in range(5)]
    right = [rng.random(samples) < chance for chance in (*lines, *pairs, level)]
    return np.concatenate([*right, np.full(6, np.nan)]).astype(float)


def runs(
    effects: dict[str, float],
    bases: int = 3,
    seeds: int = 8,
    of_base: float = 0.0,
    of_run: float = 1.0,
    seed: int = 0,
    endpoint: str = "lines",
    plan: str = "primary",
) -> pd.DataFrame:
    """A row a run as `claims.units` gives them: text and yarn, one endpoint, normal noise.

    `of_base` is the spread of a variant's effect over bases, `of_run` that of its runs, in points.
    """
    rng = np.random.default_rng(seed)
    rows = [
        {"plan": plan, "condition": "text", "variant": variant, "scaling": "yarn", "scale": 8,
         "base": f"base{base}", "seed": number,
         endpoint: effect + shift + of_run * rng.standard_normal()}
        for variant, effect in effects.items()
        for base in range(bases)
        for shift in [of_base * rng.standard_normal()]
        for number in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)
