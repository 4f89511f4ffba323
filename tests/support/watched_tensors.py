"""A mode that remembers the largest tensor made."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Watches every tensor that any operation returns, inside compiled functions too."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.of = 0, ""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor) and each.numel() > self.elements:
                self.elements, self.of = each.numel(), f"{function} {tuple(each.shape)}"
        return result
