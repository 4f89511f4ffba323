"""Made rows of RULER: scores by a rule of method, task, length and sample."""

import json
from collections.abc import Callable, Sequence

import pandas as pd

from cream.results import COLUMNS
from cream.tasks.ruler import TASKS

Skill = Callable[[str, str, int, int], float]


def ruler_rows(
    skill: Skill,
    methods: Sequence[str] = ("original", "cream"),
    lengths: Sequence[int] = (512, 1024, 4096),
    samples: int = 4,
    models: Sequence[str] = ("one",),
    tasks: Sequence[str] = TASKS,
    style: str = "official",
) -> pd.DataFrame:
    """Return a row a method, model, task, length and sample, of N = 512."""
    made = []
    for method in methods:
        for model in models if method == "cream" else models[:1]:
            for task in tasks:
                for length in lengths:
                    for sample in range(samples):
                        score = skill(method, task, length, sample)
                        made.append(
                            {"run": f"{method}-{model}", "model_hash": f"{method}-{model}",
                             "base": "miniature", "method": method, "window": 512,
                             "scaling": "none" if method == "original" else "yarn",
                             "scale": 1 if method == "original" else 8, "seed": 0,
                             "task": f"ruler-{task}", "token_length": length, "sample": sample,
                             "score": score, "contained": float(score == 1),
                             "prompt_hash": f"{task} {length} {sample}",
                             "settings": json.dumps({"style": style}), "commit": "0123abc",
                             "date": "2026-01-01T00:00:00Z", "tokens_trained": 0,
                             "key": f"{style} {method} {model} {task} {length} {sample}"}
                        )  # fmt: skip
    return pd.DataFrame(made).reindex(columns=list(COLUMNS)).astype(COLUMNS)
