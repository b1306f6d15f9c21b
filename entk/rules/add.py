"""x + p with broadcasting: positions, biases and offsets that a model adds by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from entk.rules.base import Arguments, Rows, Rule, register


class _Addition(Rule):
    """The sum commutes: whichever operand is data is called the input."""

    def bind(self, args: tuple, kwargs: dict) -> Arguments:
        bound = super().bind(args, kwargs)
        one, two = bound.get("input"), bound.get("other")
        if (
            isinstance(one, Tensor)
            and isinstance(two, Tensor)
            and one.is_leaf
            and one.requires_grad
        ):
            bound |= {"input": two, "other": one}
        return bound


def other(arguments: Arguments, x: Tensor) -> Rows:
    """Sum g [N, O, ...] over the axes along which p was broadcast."""
    shape = arguments["other"].shape
    padded = (1,) * (x.dim() - len(shape)) + tuple(shape)  # p as the input's axes have it
    axes = [1 + i for i in range(1, x.dim()) if padded[i] == 1 and x.shape[i] != 1]
    return lambda g: (g.sum(axes) if axes else g).reshape(*g.shape[:2], shape.numel())


def serves(arguments: Arguments) -> bool:
    """Data of at least p's axes, none of p's own along the samples."""
    x, p = arguments.get("input"), arguments.get("other")
    if not (isinstance(x, Tensor) and isinstance(p, Tensor)) or arguments.get("alpha", 1) != 1:
        return False
    short = p.dim() < x.dim() or (p.dim() == x.dim() and x.dim() > 0 and p.shape[0] == 1)
    return short and x.dtype == p.dtype and torch.broadcast_shapes(x.shape, p.shape) == x.shape


register(
    _Addition(
        "add",
        ("input", "other"),
        rows={"other": other},
        serves=serves,
        batch_first=True,
        function=torch.add,
    ),
    torch.add,
    Tensor.add,
    Tensor.__add__,
    Tensor.__radd__,
)
