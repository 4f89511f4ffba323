"""What several GPUs of one host make of the same work: speed, resuming, equal losses, equal rows.

    python -m cream.performance multi-gpu --gpus 2 --parts speed,resume,evaluate --rows two.jsonl
    python -m cream.performance multi-gpu --gpus 1 --parts small,offload

speed      tokens a second of the paper's recipe on one GPU and on all, for each stage of ZeRO
resume     a checkpoint by all, the end of their processes, the same losses again; the saved model
           read by stock transformers on one GPU
evaluate   the rows of one process and of all, and how much sooner they are there
miniature  its losses by one process and by all, without DeepSpeed
small      on one GPU: a small model's losses at every stage beside plain training's
offload    the same with optimizer and weights in RAM (DeepSpeed compiles its own AdamW for that)

Every setting runs in processes of its own with a limit of `--limit` seconds, and a part that fails
leaves the others alone. Weights are random, made in bfloat16 on the GPU where DeepSpeed trains.

What belongs here: the parts, the comparison of speeds and that of evaluations. The trainings are in
`multi_gpu_training`, one GPU's own measurements in `training` and `resume`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
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
from cream.performance import harness, multi_gpu_training, random_models, training
from cream.performance.harness import scratch
from cream.performance.multi_gpu_training import append, checked, child

__all__ = ["PARTS", "main"]

RUNS = {"base": 1000, "chat": 100}  # steps of the paper's two runs (protocols 4.1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare several GPUs' training and evaluation with one GPU's."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance multi-gpu", description=main.__doc__
    )
    parser.add_argument(
        "--parts", default="speed,resume,evaluate,miniature", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--gpus", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--shape", choices=random_models.SHAPES, default="llama2-7b")
    parser.add_argument("--layers", type=int, help="of speed; fewer than the shape's: not its own")
    parser.add_argument("--zero", default="1,2,3", help="stages of speed and, the first, of resume")
    parser.add_argument("--micro-batch", default="1", help="of speed, such as 1,2")
    parser.add_argument("--recompute", default="auto", help="of speed")
    parser.add_argument("--steps", type=int, default=3, help="of speed; the first is left out")
    parser.add_argument("--batch-size", type=int, default=32, help="windows a step, of speed")
    parser.add_argument("--compile", choices=("auto", "none", "layers"), default="auto")
    parser.add_argument("--no-baseline", action="store_true", help="speed: not one GPU alone")
    parser.add_argument("--resume-layers", type=int, default=8)
    parser.add_argument("--small-layers", type=int, default=2)
    parser.add_argument("--evaluate-layers", type=int, default=8, help="of the perplexity's model")
    parser.add_argument("--lengths", default="1,4", help="of the perplexity, in windows")
    parser.add_argument("--documents", type=int, default=32, help="of the perplexity")
    parser.add_argument("--samples", type=int, default=100, help="of LongChat-Lines, a length")
    parser.add_argument("--lines-lengths", default="1,2,4,7.8", help="of LongChat-Lines")
    parser.add_argument("--folder", help="where checkpoints and models are written, and removed")
    harness.add_common(parser, 150)
    given = parser.parse_args(arguments)
    if given.one:
        job = json.loads(given.one)
        harness.tell(INSIDE[job.pop("what")](**job), together=True)
        return
    parts = [part.strip() for part in given.parts.split(",")]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; there is no {', '.join(sorted(unknown))}")
    if parts != ["miniature"]:
        random_models.refuse_without_card(parser, given.shape, given.layers)
    given.command = harness.typed_command("multi-gpu", arguments)
    if failed := [part for part in parts if not _done(part, given)]:
        raise SystemExit(f"not as it should be: {', '.join(failed)}")


def _done(part: str, given: argparse.Namespace) -> bool:
    """Do a part, say how long it took, and whether all was as it should be."""
    start = time.perf_counter()
    print(f"--- {part}", flush=True)
    try:
        good = PARTS[part](given)
    except (Exception, SystemExit):
        traceback.print_exc()
        good = False
    print(f"--- {part}: {time.perf_counter() - start:.0f} s", flush=True)
    return good


def _speed(given: argparse.Namespace) -> bool:
    """Train by one GPU and by all, through `training`, and compare their rows."""
    with scratch(None) as folder:
        rows = Path(given.rows) if given.rows else folder / "rows.jsonl"
        before = set(results.read(rows)["key"]) if rows.exists() else set()
        common = ["--shape", given.shape, "--steps", str(given.steps), "--rows", str(rows),
                  "--batch-size", str(given.batch_size), "--compile", given.compile,
                  "--recompute", given.recompute, "--micro-batch", given.micro_batch,
                  "--limit", str(given.limit)]  # fmt: skip
        common += ["--layers", str(given.layers)] if given.layers else []
        if not given.no_baseline:
            training.main(common)
        training.main([*common, "--processes", str(given.gpus), "--zero", given.zero])
        found = results.read(rows) if rows.exists() else pd.DataFrame({"key": []})
        found = found[~found["key"].isin(before)]
    if found.empty:
        raise SystemExit("no setting ran")
    _scaling(found)
    return True


def _scaling(found: pd.DataFrame) -> None:
    """Print speeds in all and a GPU, MFU, memory, efficiency, and the hours of the paper's runs."""
    settings = found["settings"].map(json.loads)
    count = settings.map(lambda one: one.get("processes", 1))
    alone = max(found["tokens_per_second"][count == 1], default=None)
    for (_, row), how, many in zip(found.iterrows(), settings, count, strict=True):
        speed = row["tokens_per_second"]
        said = f"{many} x {row['card']}, zero {how['zero']}, micro-batch {how['micro_batch']}"
        said += f", recompute {how['recompute']}, offload {how['offload']}: {speed:,.0f} tokens/s"
        said += f", {speed / many:,.0f} a GPU"
        if how.get("mfu") is not None:
            said += f", MFU {how['mfu']:.1%}, peak {row['peak_gib']:.1f} GiB"
        if many > 1 and alone:
            said += f", {speed / alone / many:.1%} of {many} times one GPU"
        size = row["num_tokens"]
        hours = [f"{name} {steps * size / speed / 3600:.2f}" for name, steps in RUNS.items()]
        print(f"{said}; hours of a run: {', '.join(hours)}", flush=True)


# ---------------------------------------------------------------------------------- evaluations


def evaluate(given: argparse.Namespace) -> bool:
    """Ask LongChat-Lines of the miniature and perplexity of a large model, by one and by all."""
    shape = random_models.shape(given.shape, given.evaluate_layers)
    with scratch(given.folder) as root:
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
        return all([_compare_evaluation(given, root, name, *more) for name, more in wanted.items()])


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


def _compare_evaluation(
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
    append(given, "speed_evaluation", one["card"], shape, score=1000 * all_["asked"],
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
    return {"asked": slowest, "card": harness.card_name()}


# What processes of their own do: `--one` names it.
INSIDE = {
    "train": multi_gpu_training.train, "read": multi_gpu_training.read,
    "write": write, "ask": ask,
}  # fmt: skip
PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "speed": _speed,
    "resume": multi_gpu_training.resume,
    "evaluate": evaluate,
    "miniature": multi_gpu_training.miniature,
    "small": multi_gpu_training.small,
    "offload": multi_gpu_training.offload,
}


if __name__ == "__main__":
    main()
