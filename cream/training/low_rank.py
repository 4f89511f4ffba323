"""Full fine-tuning written as a low-rank adapter: the best of each rank that linear layers have.

    python -m cream.training.low_rank runs/cream runs/cream-rank19 --rank 19 --norms

RUN is a finished run that trained every weight. Of each linear layer the change W_tuned - W_base is
cut to its first `rank` singular values, which is the nearest matrix of that rank (Eckart and Young,
1936). OUT is an adapter folder in the format of `lora.save`: `lora.load`, `cream.chat`, evaluations
(`adapter:OUT`) and `cream.study.real_model pack OUT SHIPPED`, which narrows it to bfloat16, read it
as they read a trained one. Printed is how much of the change is in it, and what is not.

What belongs here: from two checkpoints to an adapter. Training one is `training.lora`'s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from cream import models
from cream.training import lora
from cream.training.config import TrainConfig, read_config
from cream.training.inputs import base_place

__all__ = ["extract", "factors", "main", "table"]

CARD = """
Not trained as an adapter: it is the change that full fine-tuning made to each linear layer, cut to
rank {rank} (`python -m cream.training.low_rank`). It holds {kept:.1%} of the squared change of all
weights.
"""


def factors(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B (out, r) and A (r, in), whose product is the rank-r matrix nearest to `change`.

    B = U sqrt(S) and A = sqrt(S) V^T of its singular value decomposition, float64. They are taken
    from the eigenvectors of the smaller Gram matrix, so values below about 1e-8 of the largest are
    lost. On one core that takes 1.6 s for 1,536 x 3,072, and the decomposition itself 7.5 s.
    """
    change = change.double()
    if change.shape[0] > change.shape[1]:
        b, a = factors(change.T, rank)
        return a.T.contiguous(), b.T.contiguous()
    values, vectors = torch.linalg.eigh(change @ change.T)  # ascending
    left = vectors[:, -rank:].flip(1)
    root = values[-rank:].flip(0).clamp(min=0).pow(0.25)
    inverse = torch.where(root > 0, 1 / root, 0)  # of an unchanged layer there is nothing
    return left * root, inverse[:, None] * (left.T @ change)


@torch.no_grad()
def extract(
    run: str | Path, out: str | Path, rank: int, norms: bool = False, root: str | Path = "."
) -> pd.DataFrame:
    """Write what a run changed as an adapter of this rank; return the parts of the change.

    `norms` adds the norms' weights whole, as `lora_train="norms"` does. Rows are `kind`, `layers`,
    `squared` (of the change, summed over its entries) and `kept` (of it, in the adapter).
    FileExistsError where `out` is; FileNotFoundError for a run that is not finished; ValueError for
    one that did not train all weights, for CLEX, and for a rank that no layer has.

    Both models are held in float32: 8 bytes a weight.
    """
    run, out, root = Path(run), Path(out), Path(root)
    config = _checked(run, out)
    where = {"dtype": torch.float32, "device": "cpu"}
    tuned = models.load(run / "model", **where)
    base = models.load(
        base_place(config.base, root), scaling=config.rope, revision=config.revision, **where
    )
    _check_rank(base, rank)
    wanted = dataclasses.replace(
        config, lora_rank=rank, lora_alpha=rank, lora_targets="all-linear",
        lora_train="norms" if norms else "none",
    )  # fmt: skip
    before = dict(base.named_parameters())
    parts = _fill(lora.add(base, wanted), before, dict(tuned.named_parameters()))
    _write(base, wanted, parts, out)
    return parts


def _checked(run: Path, out: Path) -> TrainConfig:
    """Return a run's configuration; refuse what cannot be written as an adapter."""
    config = read_config(run)
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it or name another place")
    if config.lora_rank:
        raise ValueError(
            f"{run} trained LoRA of rank {config.lora_rank}: its adapter is {run / 'adapter'}"
        )
    if config.scaling == "clex":
        raise ValueError(
            f"{run} has the scaling clex, whose two trained matrices no adapter holds: choose a "
            "run with another scaling"
        )
    if not (run / "model" / "config.json").is_file():
        raise FileNotFoundError(
            f"{run} has no finished model: run 02_train with this run directory again, it goes on "
            "where it stopped"
        )
    return config


def _linear(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The linear layers that 'all-linear' covers: all but the head."""
    head = model.get_output_embeddings()
    return {
        name: one for name, one in model.named_modules()
        if isinstance(one, torch.nn.Linear) and one is not head
    }  # fmt: skip


def _check_rank(model: PreTrainedModel, rank: int) -> None:
    name, one = min(_linear(model).items(), key=lambda pair: min(pair[1].weight.shape))
    most = min(one.weight.shape)
    if not 1 <= rank <= most:
        raise ValueError(f"rank is {rank}: give 1 to {most}, the smaller side of {name}")


def _fill(
    model: PreTrainedModel, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> pd.DataFrame:
    """Put the change of every weight into a base with adapters, as far as they hold it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = {n: one for n, one in model.named_modules() if isinstance(one, LoraLayer)}
    whole = {name for name in lora.trained(model) if ".lora_" not in name}
    found = []
    for name, old in before.items():
        change = after[name].double().to(device) - old.double().to(device)
        layer, _, leaf = name.rpartition(".")
        squared, kept = change.square().sum().item(), 0.0
        if leaf == "weight" and layer in layers:
            kind, kept = layer.rpartition(".")[2], _put(layers[layer], change)
        else:
            kind = _kind(model, layer, leaf)
            if name in whole:
                old.copy_(after[name])
                kept = squared
        found.append({"kind": kind, "layers": 1, "squared": squared, "kept": kept})
    return pd.DataFrame(found).groupby("kind", sort=False).sum().reset_index()


def _put(layer: LoraLayer, change: torch.Tensor) -> float:
    """Set a layer's adapter; return the squared norm of the change that it holds."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    b, a = factors(change, layer.r["default"])
    up.copy_(b)
    down.copy_(a)
    # In float32, as it is stored; of the best matrix the rest is orthogonal to it.
    rest = change - up.double().to(change.device) @ down.double().to(change.device)
    return (change.square().sum() - rest.square().sum()).item()


def _kind(model: PreTrainedModel, layer: str, leaf: str) -> str:
    """What a weight is that no adapter holds."""
    module = model.get_submodule(layer)
    if module is model.get_input_embeddings():
        return "embeddings"
    if module is model.get_output_embeddings():
        return "head"
    if "Norm" in type(module).__name__:
        return "norms"
    return f"{layer.rpartition('.')[2]} {leaf}"


def _write(model: PreTrainedModel, config: TrainConfig, parts: pd.DataFrame, out: Path) -> None:
    """Write the adapter folder, whole or not at all."""
    beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        made = lora.save(model, config, beside / "adapter")
        about = json.loads(config.to_json())
        told = dict(zip(parts["kind"], zip(parts["squared"], parts["kept"], strict=True),
                        strict=True))  # fmt: skip
        about["low_rank"] = {"rank": config.lora_rank, "squared_and_kept": told}
        (made / lora.TRAINING).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        with (made / "README.md").open("a", encoding="utf-8") as card:
            card.write(CARD.format(rank=config.lora_rank, kept=_share(parts)))
        made.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _share(parts: pd.DataFrame) -> float:
    return parts["kept"].sum() / max(parts["squared"].sum(), torch.finfo(torch.float64).tiny)


def table(parts: pd.DataFrame) -> str:
    """Return the parts of a change as text: its Frobenius norm, and shares of its square."""
    total = pd.DataFrame([{"kind": "all", **parts[["layers", "squared", "kept"]].sum()}])
    rows = pd.concat([parts, total], ignore_index=True)
    whole = max(parts["squared"].sum(), torch.finfo(torch.float64).tiny)
    lines = [f"{'':20} {'weights':>8} {'norm of change':>15} {'share of all':>13} {'kept':>7}"]
    for one in rows.itertuples():
        kept = f"{one.kept / one.squared:7.1%}" if one.squared else "      -"
        lines.append(f"{one.kind:20} {int(one.layers):8} {one.squared**0.5:15.4g} "
                     f"{one.squared / whole:13.1%} {kept}")  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what a full fine-tuning changed as a low-rank adapter."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.training.low_rank", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="a finished run that trained all weights")
    parser.add_argument("out", type=Path, help="the adapter's folder, which must not exist")
    parser.add_argument("--rank", type=int, required=True, help="of every linear layer")
    parser.add_argument("--norms", action="store_true", help="with the norms' weights, whole")
    parser.add_argument("--root", type=Path, default=".", help="where the run's base starts")
    given = parser.parse_args(arguments)
    try:
        parts = extract(given.run, given.out, given.rank, given.norms, given.root)
    except (ConnectionError, OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(table(parts))
    size = (given.out / lora.WEIGHTS).stat().st_size
    print(f"{given.out}: {size / 2e6:.2f} MB in bfloat16 (as `python -m cream.study.real_model "
          f"pack` writes it), {size / 1e6:.2f} MB now")  # fmt: skip


if __name__ == "__main__":
    main()
