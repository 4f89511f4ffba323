"""AdamW on float32 weights of which a model holds the bfloat16 half: 16 bytes a parameter.

A float32 weight is kept as two 16-bit numbers: its bfloat16 rounding, which is the model's own
parameter and what it computes with, and the rest of its bits. Nothing is lost and nothing is cast
in a forward pass. Gradients of micro-batches are added in float32, AdamW runs in float32.

    weight  2 (bfloat16) + 2 (its other bits)      4
    gradient, summed over the micro-batches        4
    AdamW's two moments, on the card or in RAM     8

What belongs here: the optimizer and the two halves of a weight. What fits is in `memory`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.optim.adamw import adamw

__all__ = ["MasterAdamW", "join", "split"]

MOMENTS = ("exp_avg", "exp_avg_sq")
TOGETHER = 2**25  # numbers of the parameters that are updated at once, whose float32 weights exist


def split(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bfloat16 rounding of a float32 tensor and its low 16 bits as int16.

    Ties are rounded away from zero, where `Tensor.bfloat16` rounds them to even: the low bits
    alone then say which way it went.
    """
    bits = weight.view(torch.int32)
    rounded = ((bits + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16)
    # CUDA's own NaN has all bits set and would round to -0.
    return torch.where(weight.isnan(), torch.nan, rounded), bits.to(torch.int16)


def join(rounded: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Return the float32 tensor that `split` was given, bit for bit (but for a NaN's payload)."""
    return ((rounded.view(torch.int16).to(torch.int32) << 16) + low).view(torch.float32)


class MasterAdamW(torch.optim.Optimizer):
    """AdamW for float32 parameters that it turns into bfloat16 ones, keeping the rest itself.

    A backward pass leaves no `.grad`: each is added to a float32 sum and freed. `step` clips the
    sums to `max_norm` (0: not at all; `norm` is what it was before), those of `kept` first by
    themselves to `kept_norm` (0: not so), updates by torch's fused AdamW and rounds. With `offload`
    the moments live in RAM and pass through the card in a step, but for the first `resident` bytes
    of them, which stay on it.
    `state_dict` holds weights and moments: resuming is exact. `restore` gives the model its
    float32 weights back. Parameters in `kept` stay float32 in the model, too: few and small ones
    that it does not compute with in bfloat16.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float = 0.0,
        offload: bool = False,
        compiled: bool = False,
        kept: Iterable[torch.Tensor] = (),
        resident: int = 0,
        kept_norm: float = 0.0,
    ):
        self._kept, self.kept_norm = set(kept), kept_norm
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.max_norm, self.offload, self._free = max_norm, offload, resident
        self.norm = torch.zeros(())
        # In torch's own kernels each takes several passes over memory, or a slow one.
        whole = functools.partial(torch.compile, dynamic=True) if compiled else _as_it_is
        self._add, self._join, self._store = whole(_add), whole(join), whole(_store)
        self._sums: dict[torch.Tensor, torch.Tensor] = {}
        self._hooks = [self._adopt(parameter) for parameter in self._parameters()]
        self._fresh = set(self._sums)  # whose sum still holds what it held a step ago

    def _parameters(self) -> Iterator[torch.Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _adopt(self, parameter: torch.Tensor) -> torch.utils.hooks.RemovableHandle:
        if parameter.dtype != torch.float32:
            raise ValueError(f"a parameter is {parameter.dtype}; MasterAdamW is given float32 ones")
        self.state[parameter] = {"step": torch.zeros((), device=parameter.device)}
        if parameter in self._kept:
            self._sums[parameter] = torch.zeros_like(parameter.data)
        else:
            self._sums[parameter] = parameter.data.contiguous()  # its memory serves as the sum's
            parameter.data, self.state[parameter]["low"] = split(self._sums[parameter])
        parameter.grad = None
        if not self.offload:  # else later: accelerate moves what it finds to the card
            self._begin(parameter)
        # Held by the parameter out of the collector's sight, so it must not hold the optimizer.
        take = weakref.WeakMethod(self._take)
        return parameter.register_post_accumulate_grad_hook(lambda one: take()(one))

    def _begin(self, parameter: torch.Tensor) -> None:
        """Make a parameter's moments, 0."""
        size = 8 * parameter.numel()
        away = self.offload and size > self._free
        self._free -= 0 if away else size
        place = torch.device("cpu") if away else parameter.device
        pinned = away and parameter.is_cuda
        for name in MOMENTS:
            made = torch.empty(parameter.shape, device=place).zero_()
            self.state[parameter][name] = _page_locked(made) if pinned else made

    @torch.no_grad()
    def _take(self, parameter: torch.Tensor) -> None:
        """Add a parameter's gradient to its sum, and free it."""
        gradient, parameter.grad = parameter.grad, None
        if parameter in self._fresh:
            self._sums[parameter].copy_(gradient)
            self._fresh.discard(parameter)
        else:
            self._add(self._sums[parameter].view(-1), gradient.reshape(-1))

    def gradient(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the float32 sum of a parameter's gradients since the last step."""
        if parameter in self._fresh:
            self._sums[parameter].zero_()
            self._fresh.discard(parameter)
        return self._sums[parameter]

    def master(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return a parameter's float32 weights."""
        if parameter in self._kept:
            return parameter.data
        low = self.state[parameter]["low"].view(-1)
        return self._join(parameter.data.view(-1), low).view(parameter.shape)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients since the last step; the sums keep their memory."""
        self._fresh = set(self._sums)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip the summed gradients, update the float32 weights and round them for the model."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sums = [self.gradient(parameter) for parameter in self._parameters()]
        if self.kept_norm and self._kept:
            _clip([self._sums[one] for one in self._parameters() if one in self._kept],
                  self.kept_norm)  # fmt: skip
        self.norm = _clip(sums, self.max_norm)
        for group, parameters, moments in self._gathered():
            self._update(group, parameters, moments)
        self.zero_grad()
        return loss

    def _update(
        self, group: dict, parameters: list[torch.Tensor], moments: list[list[torch.Tensor]]
    ) -> None:
        """Update some parameters of one group by one kernel; `moments` are two for each."""
        weights = [self.master(one) for one in parameters]
        states = [self.state[one] for one in parameters]
        adamw(
            weights, [self._sums[one] for one in parameters], [each[0] for each in moments],
            [each[1] for each in moments], [], [state["step"] for state in states],
            fused=True, amsgrad=False, maximize=False, lr=group["lr"], eps=group["eps"],
            beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
        )  # fmt: skip
        each = zip(weights, parameters, states, moments, strict=True)
        for weight, parameter, state, held in each:
            if parameter not in self._kept:
                self._store(weight.view(-1), parameter.data.view(-1), state["low"].view(-1))
            for name, moment in zip(MOMENTS, held, strict=True):
                if moment is not state[name]:
                    state[name].copy_(moment, non_blocking=True)

    def _gathered(self) -> Iterator[tuple[dict, list[torch.Tensor], list[list[torch.Tensor]]]]:
        """Give the small parameters of a group together: a kernel each would wait for Python."""
        some: list[torch.Tensor] = []
        moments: list[list[torch.Tensor]] = []
        last: dict | None = None
        for group, parameter, held in self._with_moments():
            if self.offload:  # each while the next one's moments are on their way
                yield group, [parameter], [held]
                continue
            full = sum(one.numel() for one in some) + parameter.numel() > TOGETHER
            if some and (group is not last or full):
                yield last, some, moments
                some, moments = [], []
            some, moments, last = [*some, parameter], [*moments, held], group
        if some:
            yield last, some, moments

    def _with_moments(self) -> Iterator[tuple[dict, torch.Tensor, list[torch.Tensor]]]:
        """Give each parameter with its moments on its device, the next one's on their way."""
        work = [(group, one) for group in self.param_groups for one in group["params"]]
        for _, parameter in work:
            if MOMENTS[0] not in self.state[parameter]:
                self._begin(parameter)
        if not (self.offload and work[0][1].is_cuda):
            for group, one in work:
                yield group, one, [self.state[one][name] for name in MOMENTS]
            return
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        coming = self._fetch(work[0][1], side)
        for place, (group, one) in enumerate(work):
            moments, arrived = coming
            side.wait_stream(current)  # at most two parameters' moments are on the card
            if place + 1 < len(work):
                coming = self._fetch(work[place + 1][1], side)
            current.wait_event(arrived)
            for moment in moments:
                moment.record_stream(current)
            yield group, one, moments
        current.synchronize()  # RAM holds them now: it may be read, as by a checkpoint

    def _fetch(
        self, parameter: torch.Tensor, stream: torch.cuda.Stream
    ) -> tuple[list[torch.Tensor], torch.cuda.Event]:
        with torch.cuda.stream(stream):
            held = [self.state[parameter][name] for name in MOMENTS]
            moments = [one.to(parameter.device, non_blocking=True) for one in held]
            return moments, stream.record_event()

    def state_dict(self) -> dict:
        """Return all that resuming needs: the weights' two halves, the moments, the groups."""
        packed = super().state_dict()
        halves = {"high": [parameter.data for parameter in self._parameters()]}
        return {**packed, **halves}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Take what `state_dict` gave, in place; torch's own would cast it to the model's dtype."""
        parameters = list(self._parameters())
        if len(state_dict.get("high", [])) != len(parameters):
            raise ValueError(
                "this optimizer state is not of MasterAdamW and this model: precision 'master' "
                "resumes only runs of precision 'master'"
            )
        for index, parameter in enumerate(parameters):
            parameter.data.copy_(state_dict["high"][index])
            held = state_dict["state"][index]
            if MOMENTS[0] in held and MOMENTS[0] not in self.state[parameter]:
                self._begin(parameter)
            for name, value in held.items():
                self.state[parameter][name].copy_(value)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})

    @torch.no_grad()
    def restore(self, dtype: torch.dtype = torch.float32) -> None:
        """Give the model its float32 weights, cast to `dtype`, and end: no step follows."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for parameter in self._parameters():
            self._sums.pop(parameter)
            if parameter not in self._kept:
                parameter.data = self.master(parameter).to(dtype)
            self.state.pop(parameter)


def _page_locked(held: torch.Tensor) -> torch.Tensor:
    """Lock a tensor in RAM, so that the card copies it by itself; return it.

    torch's own pinned memory comes in powers of two: a third more for the moments of a 7B.
    """
    runtime, address = torch.cuda.cudart(), held.data_ptr()
    torch.cuda.check_error(runtime.cudaHostRegister(address, held.nbytes, 0))
    weakref.finalize(held, runtime.cudaHostUnregister, address).atexit = False
    return held


def _add(total: torch.Tensor, part: torch.Tensor) -> None:
    total.add_(part)


def _store(weight: torch.Tensor, rounded: torch.Tensor, low: torch.Tensor) -> None:
    halves = split(weight)
    rounded.copy_(halves[0])
    low.copy_(halves[1])


def _clip(sums: list[torch.Tensor], most: float) -> torch.Tensor:
    """Scale gradients so that their norm is at most `most` (0: any); return what it was."""
    norm = torch.nn.utils.get_total_norm(sums)
    if most:
        torch._foreach_mul_(sums, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _as_it_is(function: Callable) -> Callable:
    return function
