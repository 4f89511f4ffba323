"""Evaluations whose rows must be the same by one process and by several.

What belongs here: the part evaluate of `multi_gpu`, and what its processes do.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, LlamaConfig

from cream import models, notebook, results, rope
from cream.data import corpus
from cream.evaluation import __main__ as evaluation
from cream.evaluation import distributed
from cream.evaluation import models as evaluation_models
from cream.performance import random_models
from cream.performance.comparing import checked, child, place, row

__all__ = ["ask", "evaluate", "write"]


def evaluate(given: argparse.Namespace) -> bool:
    """Ask LongChat-Lines of the miniature and perplexity of a large model, by one and by all."""
    shape = random_models.shape(given.shape, given.evaluate_layers)
    with place(given) as root:
        random_models.lay_out(root, shape)
        checked("random weights", child(given, "write", 1, folder=str(root)))
        base = str(root / "large")
        lengths = [float(one) for one in given.lengths.split(",")]
        _documents(root, shape, given.documents, max(lengths))
        lines = {"models": "scaled:yarn:8", "samples": given.samples,
                 "lengths": given.lines_lengths}  # fmt: skip
        text = {"preset": "llama2-7b", "models": "original", "base": base, "historical": 0,
                "corpus": str(root / "texts"), "lengths": given.lengths,
                "documents": given.documents}  # fmt: skip
        wanted = {"03_longchat_lines": (lines, None), "07_perplexity": (text, shape)}
        return all([_asked(given, root, name, *more) for name, more in wanted.items()])


def write(folder: str) -> dict:
    """Write a shape with random bfloat16 weights beside its empty base."""
    base, large = Path(folder) / "base", Path(folder) / "large"
    model = random_models.random_weights(str(base), rope.scaling("none"), dtype=torch.bfloat16)
    models.save(model, AutoTokenizer.from_pretrained(base), large)
    return {"folder": str(large)}


def _documents(root: Path, shape: LlamaConfig, count: int, windows: float) -> None:
    """Write a corpus of test documents of random tokens."""
    rng, size = np.random.default_rng(0), int(windows * shape.max_position_embeddings) + 8

    def documents() -> Iterator[dict[str, object]]:
        for split, many in (("train", 1), ("test", count)):
            for number in range(many):
                ids = rng.integers(2, shape.vocab_size, size)
                yield {"split": split, "source": f"random {split}", "name": f"{split}{number}",
                       "kind": "text", "input_ids": ids.tolist()}  # fmt: skip

    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    corpus.build(root / "texts", documents(), tokenizer, shape.max_position_embeddings,
                 {"of": "several"}, progress=False)  # fmt: skip


def _asked(
    given: argparse.Namespace, root: Path, name: str, parameters: dict, shape: LlamaConfig | None
) -> bool:
    """Ask one evaluation's questions by one process and by all; compare rows and times.

    They are asked of a model of random weights, or, without a `shape`, of the miniature.
    """
    found = {}
    for count in (1, given.gpus):
        rows = root / f"{name}-{count}.jsonl"
        said = child(given, "ask", count, name=name, parameters={**parameters, "rows": str(rows)})
        said = checked(f"{name}, {count} processes", said)
        found[count] = {**said, "rows": results.read(rows).set_index("key").sort_index()}
    one, all_ = found[1], found[given.gpus]
    same, off, other = _same(one["rows"], all_["rows"])
    faster = {"asking": one["asked"] / all_["asked"], "in all": one["wall"] / all_["wall"]}
    print(f"{name}: {len(one['rows'])} rows, equal: {same} ({other} answers differ, losses a "
          f"token by {off:.1e}); asking took "
          f"{one['asked']:.1f} and {all_['asked']:.1f} s ({faster['asking']:.2f} times), the "
          f"command {one['wall']:.0f} and {all_['wall']:.0f} s", flush=True)  # fmt: skip
    longest = int(one["rows"]["token_length"].max())
    about = {"shape": given.shape, "layers": shape.num_hidden_layers} if shape else {}
    row(given, "speed_evaluation", one["card"], shape, score=1000 * all_["asked"],
         token_length=longest,
         settings={"evaluation": name, "rows": len(one["rows"]), "equal": same, "faster": faster,
                   "answers_differ": other, "largest_difference": off,
                   "asked_seconds": [one["asked"], all_["asked"]],
                   "wall_seconds": [one["wall"], all_["wall"]], **about,
                   "score": "milliseconds to ask by all"})  # fmt: skip
    return same


def _same(one: pd.DataFrame, other: pd.DataFrame) -> tuple[bool, float, int]:
    """Whether two tables are equal but for rounding, how far apart losses a token are, and answers.

    Batches are made of other prompts where processes share them: losses may be rounded another way,
    no answer may differ.
    """
    if list(one.index) != list(other.index):
        raise SystemExit(f"{len(one)} and {len(other)} rows, and not the same questions")
    asked = ["sample", "prompt_hash", "target", "num_tokens"]
    answers = (one["prediction"].fillna("") != other["prediction"].fillna("")).sum()
    apart = ((one["nll"] - other["nll"]).abs() / one["scored_tokens"]).max()
    apart = 0.0 if pd.isna(apart) else float(apart)
    same = one[asked].equals(other[asked]) and not answers and apart < 1e-3
    return same, apart, int(answers)


def ask(name: str, parameters: dict) -> dict:
    """Run an evaluation's cells, as `cream.evaluation` does, and time the asking alone."""
    asked, untimed = [], evaluation_models.evaluate

    def timed(*args: object, **options: object) -> object:
        start = time.perf_counter()
        try:
            return untimed(*args, **options)
        finally:
            asked.append(time.perf_counter() - start)

    evaluation_models.evaluate = timed
    with contextlib.redirect_stdout(sys.stderr):
        evaluation.run(name, parameters, notebook.find_root())
    slowest = max(distributed.current().gather(sum(asked)))
    return {"asked": slowest, "card": evaluation_models.card(random_models.place())}
