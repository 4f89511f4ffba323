"""What CLEX's ODE adds to a training step: its solve and gradient, by the factor t.

    python -m cream.performance clex-step --factors 2,4,16,64 --dims 64,128

A training forward reads the two matrices from the card, solves on the CPU in float64 and sends the
frequencies back; the backward pass does the same with their gradient. This times both, from
matrices on the card to gradients there, with nothing else to do: what a step waits for at most,
whatever the size of the model. With `--rows FILE`, rows of the task speed_clex are appended.

What belongs here: this one time. A whole step of a run is measured by `small-training`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch

from cream.performance import harness
from cream.rope import clex, scalings
from cream.utils.provenance import hash_of

__all__ = ["main", "measured"]

WINDOW, THETA, WARM_UP = 4096, 1e4, 3
AIM = 50  # milliseconds a step, on an H100, whatever the factor


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what CLEX's ODE adds to a training step on this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.performance clex-step", description=main.__doc__
    )
    parser.add_argument("--factors", type=harness.numbers, default=[2, 4, 16, 64], help="t")
    parser.add_argument("--dims", type=harness.numbers, default=[64, 128], help="of a head")
    parser.add_argument("--param-factor", type=int, default=1)
    parser.add_argument("--act", choices=scalings.CLEX_ACTS, default="tanh")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
    given = parser.parse_args(arguments)
    said = harness.typed_command("clex-step", arguments)
    try:
        layers = {dim: _layer(dim, given) for dim in given.dims}
        for layer in layers.values():
            _check(layer, given)
    except ValueError as error:
        parser.error(str(error))
    print(harness.describe_machine(harness.card_name()), flush=True)
    most = 0.0
    for dim, layer in layers.items():
        for t in given.factors:
            found = measured(layer, t, given.repeats)
            most = max(most, found["both"])
            parts = ", ".join(f"{name} {found[name]:.2f}" for name in ("solve", "gradient"))
            print(f"d {dim}, t {t}: {found['both']:.2f} ms ({parts}; longest "
                  f"{found['longest']:.2f})", flush=True)  # fmt: skip
            _write(given, dim, t, found, said)
    print(f"at most {most:.1f} ms a step; the aim is {AIM} ms on an H100", flush=True)


def _layer(dim: int, given: argparse.Namespace) -> clex.ClexLayer:
    """A module whose matrices are on the card and not 0."""
    kind = scalings.scaling(
        "clex", max(2, *given.factors), param_factor=given.param_factor, act=given.act
    )
    made = clex.ClexLayer(kind, THETA, dim, WINDOW)
    made.initialise(0)
    torch.manual_seed(0)
    torch.nn.init.normal_(made.proj_func.ode_down_proj, std=0.01)
    return made.to(harness.place()).train()


def _check(layer: clex.ClexLayer, given: argparse.Namespace) -> None:
    """Refuse (ValueError) what could not be measured, before anything is."""
    if given.repeats < 1:
        raise ValueError(f"repeats is {given.repeats}; it must be at least 1")
    for t in given.factors:
        layer.draw((t,))


def measured(layer: clex.ClexLayer, t: float, repeats: int) -> dict[str, float]:
    """Return median milliseconds of the solve, of its gradient and of both, and the longest both.

    `layer` is in training and lies where the model would; a few passes before are not counted.
    """
    device = layer.proj_func.ode_up_proj.device
    taken = []
    for _ in range(repeats + WARM_UP):
        layer.zero_grad(set_to_none=True)
        layer.draw((t,))
        solve, found = harness.timed(lambda: layer.frequencies(device))
        gradient, _ = harness.timed(lambda found=found: found.sum().backward())
        taken.append((1000 * solve, 1000 * gradient))
    taken = taken[WARM_UP:]
    solves, gradients = zip(*taken, strict=True)
    return {
        "solve": statistics.median(solves), "gradient": statistics.median(gradients),
        "both": statistics.median(map(sum, taken)), "longest": max(map(sum, taken)),
    }  # fmt: skip


def _write(
    given: argparse.Namespace, dim: int, t: float, found: dict[str, float], said: str
) -> None:
    about = {"dim": dim, "param_factor": given.param_factor, "act": given.act}
    how = {
        **about, "t": t, "command": said, "score": "milliseconds", "repeats": given.repeats,
        "solve_ms": found["solve"], "gradient_ms": found["gradient"],
        "longest_ms": found["longest"], **harness.machine_state(),
    }  # fmt: skip
    header = {
        "run": f"clex at d = {dim}", "base": "random weights", "model_hash": hash_of(about),
        "method": "clex", "scaling": "clex", "scale": max(2, *given.factors), "window": WINDOW,
        "card": harness.card_name(), "seed": 0, "settings": how,
    }  # fmt: skip
    harness.append(given.rows, header, {
        "task": "speed_clex", "prompt_hash": hash_of("t", t), "token_length": t * WINDOW,
        "settings": how, "score": found["both"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
