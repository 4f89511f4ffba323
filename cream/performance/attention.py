"""Causal attention alone: what each kernel that a run can choose computes in a second.

    python -m cream.performance attention --heads 9/3x64,32x128 --lengths 4096,262144

times the forward and the backward pass of one layer's attention, in bfloat16, by every kernel of
`models.attention` and by torch's own choice ("sdpa"), as models call them: `9/3x64` is nine query
heads, three key heads, of size 64. TFLOP/s count half of the square, as the causal mask leaves it,
and 2.5 forward passes a backward one; keys that a kernel needs repeated are repeated within its
time. With `--rows FILE`, rows of the task speed_attention are appended.

What belongs here: this one comparison. The kernels and their names are in `models.attention`, and
what they do to a step of training is measured by `training --attention`.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from transformers import AttentionInterface

from cream.models import attention
from cream.performance import harness
from cream.utils.provenance import hash_of

__all__ = ["Heads", "flops", "main", "read_heads"]

SDPA = "sdpa"  # torch chooses
LONG_ENOUGH = 0.3  # seconds of repeats of one measurement
PASSES = ("forward", "backward")


class Heads(NamedTuple):
    """How many heads of queries and of keys a layer has, and their size."""

    queries: int
    keys: int
    size: int

    def __str__(self) -> str:
        keys = "" if self.keys == self.queries else f"/{self.keys}"
        return f"{self.queries}{keys}x{self.size}"


def read_heads(text: str) -> Heads:
    """Read `9/3x64` or `32x128`; ValueError for anything else."""
    found = re.fullmatch(r"(\d+)(?:/(\d+))?x(\d+)", text.strip())
    if not found:
        raise ValueError(f"{text!r} names no heads: write QUERIESxSIZE or QUERIES/KEYSxSIZE")
    heads = Heads(int(found[1]), int(found[2] or found[1]), int(found[3]))
    if not min(heads) or heads.queries % heads.keys:
        raise ValueError(f"{text!r}: {heads.queries} queries cannot share {heads.keys} keys")
    return heads


def flops(heads: Heads, windows: int, tokens: int, name: str) -> float:
    """Return the operations of causal attention over windows of so many tokens, one pass."""
    forward = 2.0 * windows * heads.queries * heads.size * tokens**2
    return forward * (1.0 if name == "forward" else 2.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the attention kernels that this machine has."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance attention", description=main.__doc__
    )
    add = parser.add_argument
    add("--heads", type=harness.listed_of(read_heads), default="9/3x64,32x128")
    add("--lengths", type=harness.numbers, default="4096,65536", help="tokens of a window")
    add("--tokens", type=int, default=32_768, help="of all windows together, at least one window")
    add("--kernels", type=harness.listed, default=",".join([SDPA, *attention.KERNELS]))
    add("--repeats", type=int, default=20, help=f"at most; fewer after {LONG_ENOUGH:g} s of them")
    add("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    given = parser.parse_args(arguments)
    if unknown := [one for one in given.kernels if one not in (SDPA, *attention.KERNELS)]:
        parser.error(f"there is no kernel {unknown[0]!r}: {SDPA}, {', '.join(attention.KERNELS)}")
    if min([*given.lengths, given.repeats]) < 1:
        parser.error("lengths and repeats must be at least 1")
    said = harness.typed_command("attention", arguments)
    for heads in given.heads:
        for tokens in given.lengths:
            _compare(given, heads, tokens, said)


def _compare(given: argparse.Namespace, heads: Heads, tokens: int, said: str) -> None:
    """Measure every kernel on the same queries, keys and values, a line each."""
    windows = max(1, given.tokens // tokens)
    inputs, reference = _made(heads, windows, tokens), None
    for kernel in given.kernels:
        about = f"{heads}, {windows} of {tokens:,} tokens, {kernel}"
        try:
            attention.check_kernel(kernel)
            out, seconds = _measured(_function(kernel, heads), inputs, given.repeats)
        except (RuntimeError, ImportError) as error:  # no such kernel here, or no room
            harness.fresh()
            print(f"{about}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue
        reference = out if reference is None else reference
        apart = ((out.float() - reference.float()).norm() / reference.float().norm()).item()
        print(f"{about}: {_line(heads, windows, tokens, seconds)}, {apart:.0e} from the first's")
        for name, took in seconds.items():
            _write(given, heads, (windows, tokens), (kernel, name, took, apart), said)


def _made(heads: Heads, windows: int, tokens: int) -> list[torch.Tensor]:
    """Queries, keys and values, (windows, heads, n, size), and the gradient of the output.

    In bfloat16, and laid out as a model's projections leave them: (windows, n, heads, size).
    """
    torch.manual_seed(0)
    made = [
        torch.randn(windows, tokens, count, heads.size, device=harness.place()).bfloat16()
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    ]
    return [*(one.transpose(1, 2).requires_grad_() for one in made[:3]), made[3]]


def _function(kernel: str, heads: Heads) -> Callable[..., torch.Tensor]:
    """Return what models call: from queries, keys and values to (windows, n, heads, size)."""
    function = AttentionInterface()[kernel]
    layer = SimpleNamespace(
        is_causal=True, training=True, num_key_value_groups=heads.queries // heads.keys
    )
    scale = heads.size**-0.5
    return lambda query, key, value: function(layer, query, key, value, None, scaling=scale)[0]


def _measured(
    function: Callable[..., torch.Tensor], inputs: list[torch.Tensor], repeats: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """The output, and the median seconds of each pass after a first one that may compile."""
    *given, outer = inputs
    out = function(*given)
    torch.autograd.grad(out, given, outer)
    taken: dict[str, list[float]] = {name: [] for name in PASSES}
    while len(taken["forward"]) < repeats:
        forward, out = harness.timed(lambda: function(*given))
        backward, _ = harness.timed(lambda out=out: torch.autograd.grad(out, given, outer))
        taken["forward"].append(forward)
        taken["backward"].append(backward)
        if sum(map(sum, taken.values())) > LONG_ENOUGH:
            break
    return out.detach(), {name: statistics.median(took) for name, took in taken.items()}


def _line(heads: Heads, windows: int, tokens: int, seconds: dict[str, float]) -> str:
    rates = {name: flops(heads, windows, tokens, name) / took for name, took in seconds.items()}
    parts = [f"{name} {1000 * seconds[name]:.2f} ms, {rates[name] / 1e12:.0f} TFLOP/s"
             for name in PASSES]  # fmt: skip
    return ", ".join(parts)


def _write(
    given: argparse.Namespace,
    heads: Heads,
    size: tuple[int, int],
    found: tuple[str, str, float, float],
    said: str,
) -> None:
    (windows, tokens), (kernel, name, took, apart) = size, found
    header = {"run": f"attention, {heads}", "preset": str(heads), "base": "random weights",
              "model_hash": hash_of(list(heads)), "card": harness.card_name(), "seed": 0,
              "settings": {"command": said}}  # fmt: skip
    how = {"command": said, "kernel": kernel, "pass": name, "heads": heads.queries,
           "key_heads": heads.keys, "head_size": heads.size, "windows": windows,
           "score": "milliseconds", "tflops": flops(heads, windows, tokens, name) / took / 1e12,
           "output_apart": apart, "measured": harness.now()}  # fmt: skip
    harness.append(given.rows, header, {
        "task": "speed_attention", "prompt_hash": hash_of("random", kernel, name),
        "token_length": tokens, "num_tokens": windows * tokens, "settings": how,
        "score": 1000 * took, "tokens_per_second": windows * tokens / took,
    })  # fmt: skip


if __name__ == "__main__":
    main()
