"""The loss of a large model alone: ours beside a well-kept library's and the plain one.

    python -m cream.performance loss --shape llama2-7b --windows 2

times the head and the cross-entropy of a micro-batch, forward and backward, as `training.loss`
does it, as Liger-Kernel's fused kernel does it (where `liger-kernel` is installed) and as
transformers does it with all logits in float32; and says how far each gradient is from that of
float32. With `--rows FILE`, rows of the task speed_loss are appended.

What belongs here: this one comparison. Which loss a run takes is decided in `trainer`.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy

from cream.performance import harness, random_models
from cream.training.loss import summed_loss
from cream.utils.provenance import hash_of

__all__ = ["main"]

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the losses of a shape's head on this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance loss", description=main.__doc__
    )
    parser.add_argument("--shape", choices=random_models.SHAPES, default="llama2-7b")
    parser.add_argument("--windows", type=int, default=2, help="windows in a micro-batch")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    given = parser.parse_args(arguments)
    said = harness.typed_command("loss", arguments)
    shape = random_models.shape(given.shape)
    hidden, weight, labels = _made(shape, given.windows)
    precise = _gradients(_plain, hidden.detach().float(), weight.detach().float(), labels)
    for name, loss in _losses(hidden.device).items():
        try:
            found = _measured(loss, hidden, weight, labels, given.repeats)
        except torch.OutOfMemoryError as error:
            print(f"{name}: {str(error).splitlines()[0]}", flush=True)
            continue
        found["error"] = _apart(_gradients(loss, hidden, weight, labels), precise)
        _say(name, found)
        _write(given, shape, name, found, said)


def _made(shape: object, windows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last hidden states, the head and labels of a micro-batch, bfloat16, of usual sizes."""
    torch.manual_seed(0)
    tokens, device = windows * shape.max_position_embeddings, harness.place()
    hidden = torch.randn(tokens, shape.hidden_size, device=device).bfloat16()
    weight = (0.02 * torch.randn(shape.vocab_size, shape.hidden_size, device=device)).bfloat16()
    labels = torch.randint(0, shape.vocab_size, (tokens,), device=device)
    labels[:: shape.max_position_embeddings] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def _losses(device: torch.device) -> dict[str, Loss]:
    cuda = device.type == "cuda"
    found: dict[str, Loss] = {
        "ours": lambda hidden, weight, labels: (
            summed_loss(hidden, weight, labels, compiled=cuda) / (labels != -100).sum()
        )
    }
    if cuda and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        exact = LigerFusedLinearCrossEntropyLoss(accum_dtype=torch.float32)
        quick = LigerFusedLinearCrossEntropyLoss()
        found["Liger, head's gradient in float32"] = lambda h, w, y: exact(w, h, y)
        found["Liger, head's gradient in bfloat16"] = lambda h, w, y: quick(w, h, y)
    else:
        print("Liger-Kernel: not run (needs a card and the package liger-kernel)")
    found["all logits in float32"] = _plain
    return found


def _plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy((hidden @ weight.T).float(), labels)


def _gradients(
    loss: Loss, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, weight = (one.detach().requires_grad_() for one in (hidden, weight))
    loss(hidden, weight, labels).backward()
    return hidden.grad, weight.grad


def _apart(found: tuple[torch.Tensor, ...], precise: tuple[torch.Tensor, ...]) -> float:
    """The head's gradient's distance from float32's, as a share of its length."""
    return ((found[1].float() - precise[1]).norm() / precise[1].norm()).item()


def _measured(
    loss: Loss, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, repeats: int
) -> dict[str, float | None]:
    """Median seconds of a forward and backward pass, and GiB above what its inputs take."""
    cuda, taken = hidden.device.type == "cuda", []
    for _ in range(repeats + 3):
        hidden.grad = weight.grad = None
        if cuda:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        seconds, value = harness.timed(lambda: _pass(loss, hidden, weight, labels))
        taken.append(seconds)
    peak = (torch.cuda.max_memory_allocated() - before) / harness.GIB if cuda else None
    return {"seconds": statistics.median(taken[3:]), "peak": peak, "loss": value.item()}


def _pass(
    loss: Loss, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    value = loss(hidden, weight, labels)
    value.backward()
    return value


def _say(name: str, found: dict) -> None:
    peak = "" if found["peak"] is None else f", {found['peak']:.2f} GiB"
    print(f"{name}: {1000 * found['seconds']:.1f} ms{peak}, loss {found['loss']:.4f}, head's "
          f"gradient {found['error']:.1e} from float32's", flush=True)  # fmt: skip


def _write(given: argparse.Namespace, shape: object, name: str, found: dict, said: str) -> None:
    about = {"shape": given.shape, "command": said}
    header = harness.shape_header(
        given.shape, shape, f"loss of {given.shape}", harness.card_name(), about
    )
    tokens = given.windows * shape.max_position_embeddings
    how = {**about, "way": name, "score": "milliseconds", "head_gradient_error": found["error"]}
    harness.append(given.rows, header, {
        "task": "speed_loss", "prompt_hash": hash_of("random", name),
        "token_length": shape.max_position_embeddings, "num_tokens": tokens,
        "settings": how, "score": 1000 * found["seconds"], "peak_gib": found["peak"],
        "tokens_per_second": tokens / found["seconds"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
