"""x + p with broadcasting: positions, biases and offsets that a model adds by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from entk.rules.base import Arguments, Rule, register


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


def other(arguments: Arguments, x: Tensor, g: Tensor) -> Tensor:
    """Sum g [N, O, ...] over the axes along which p was broadcast."""
    shape = arguments["other"].shape
    missing = g.dim() - 1 - len(shape)  # axes of one sample that p does not have, and its own
    padded = (1,) * missing + tuple(shape)
    axes = [2 + i for i, size in enumerate(padded[1:]) if size == 1 and g.shape[2 + i] > 1]
    return (g.sum(axes) if axes else g).flatten(2)


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
