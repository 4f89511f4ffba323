"""CLEX's frequency ODE (arXiv 2310.16450): its solution in float64, and its exact gradient.

With y = ln inv_freq and u = y - ln g, where g is NTK scaling by 2t - 1, the ODE of the paper is
du/dt = act((2 ln g(t) + u + c) W_up) W_down from u(1) = 0, and u = 0 while W_down is 0 (c is 0, or
what another theta inside ln g adds). It is solved in NumPy's float64 over x = ln(2t - 1) by
steps of at most 0.05 of the 3/8 rule, backwards by the exact adjoint of those steps: the work grows
with ln t, and a GPU, for which it is thousands of tiny kernels, is not asked. A training forward
reads the matrices from the device once (32 KiB at d = 128), a backward pass writes their gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from torch.autograd.function import once_differentiable

from cream.rope import scalings

__all__ = ["Ode", "Solved"]

# The 3/8 rule: stage j stands at NODES[j] of a step and looks at the stages before it.
NODES = (0.0, 1 / 3, 2 / 3, 1.0)
STAGES = ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
WEIGHTS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
Tape = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _tanh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value = np.tanh(z)
    return value, 1 - value * value


def _silu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    share = expit(z)
    return z * share, share * (1 + z * (1 - share))


ACTS = {"tanh": _tanh, "silu": _silu}


@dataclass(frozen=True)
class Ode:
    """du/dx = (e^x / 2) act((level - 2 x slope + u) W_up) W_down, u(0) = 0, over x = ln(2t - 1).

    `level` and `slope` are (d/2,); x is (rows,) and u (rows, d/2), float64. Every row has the same
    number of steps, each of at most `step` for the longest row.
    """

    level: np.ndarray
    slope: np.ndarray
    act: str
    step: float

    @classmethod
    def of(cls, kind: scalings.Clex, start: scalings.Theta, dim: int) -> Ode:
        """Return the ODE from theta, or from the frequencies (dim/2,) that a base turns by."""
        pairs, plain = np.arange(0, dim, 2, dtype=np.float64), scalings.scaling("none")
        inside = start if kind.log_g_theta is None else kind.log_g_theta
        level = np.log(plain.inv_freq(start, dim, 0)) + np.log(plain.inv_freq(inside, dim, 0))
        return cls(level, pairs / (dim - 2), kind.act, kind.step)

    def _steps(self, x: np.ndarray) -> tuple[int, np.ndarray]:
        count = max(1, math.ceil(float(x.max()) / self.step - 1e-9))
        return count, (x / count)[:, None]

    def solve(self, up: np.ndarray, down: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, Tape]:
        """Return u(x), and each evaluation's input, activation and its slope for `adjoint`."""
        act, (count, h) = ACTS[self.act], self._steps(x)
        u, tape = np.zeros((len(x), len(self.level))), []
        for number in range(count):
            slopes: list[np.ndarray] = []
            for node, before in zip(NODES, STAGES, strict=True):
                now = h * (number + node)
                at = self.level - 2 * now * self.slope + u
                for share, slope in zip(before, slopes, strict=True):
                    at = at + (h * share) * slope
                value, derivative = act(at @ up)
                slopes.append(0.5 * np.exp(now) * (value @ down))
                tape.append((at, value, derivative))
            u = u + h * sum(w * slope for w, slope in zip(WEIGHTS, slopes, strict=True))
        return u, tape

    def adjoint(
        self, up: np.ndarray, down: np.ndarray, x: np.ndarray, tape: Tape, grad: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of W_up and W_down for that of u(x): the solver's own, exactly."""
        count, h = self._steps(x)
        to_hidden, to_slope = [], []  # of each evaluation, the last first
        for number in reversed(range(count)):
            inputs: dict[int, np.ndarray] = {}
            for stage in reversed(range(4)):
                back = WEIGHTS[stage] * grad
                for later, given in inputs.items():
                    back = back + STAGES[later][stage] * given
                back = h * back * 0.5 * np.exp(h * (number + NODES[stage]))
                hidden = (back @ down.T) * tape[4 * number + stage][2]
                inputs[stage] = hidden @ up.T
                to_hidden.append(hidden)
                to_slope.append(back)
            grad = grad + sum(inputs.values())
        states, values = (np.concatenate([row[i] for row in reversed(tape)]) for i in (0, 1))
        return states.T @ np.concatenate(to_hidden), values.T @ np.concatenate(to_slope)


class Solved(torch.autograd.Function):
    """u(x) as torch sees it: from the two matrices, wherever they are, to float64 on the CPU."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        up: torch.Tensor,
        down: torch.Tensor,
        ode: Ode,
        x: np.ndarray,
    ) -> torch.Tensor:
        """Solve the ODE from the matrices as they are; the steps are kept for `backward`."""
        ctx.like, ctx.ode, ctx.x = (up.dtype, up.device), ode, x
        ctx.matrices = [one.detach().double().cpu().numpy() for one in (up, down)]
        u, ctx.tape = ode.solve(*ctx.matrices, x)
        return torch.from_numpy(u)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of both matrices, by the exact adjoint of the steps."""
        found = ctx.ode.adjoint(*ctx.matrices, ctx.x, ctx.tape, grad.numpy())
        dtype, device = ctx.like
        return *(torch.from_numpy(one).to(device, dtype) for one in found), None, None
