"""x + p and x * p with broadcasting, and p repeated for each sample.

Positions, class tokens, offsets, learned scales: what a model combines with its data by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entk.rules.base import Arguments, Rows, Rule, register


def _broadcast(arguments: Arguments, x: Tensor) -> list[int]:
    """Axes of g [N, O, ...] along which p was broadcast, in the shape of x."""
    shape = arguments["other"].shape
    padded = (1,) * (x.dim() - len(shape)) + tuple(shape)  # p as the input's axes have it
    return [1 + i for i in range(1, x.dim()) if padded[i] == 1 and x.shape[i] != 1]


def added(arguments: Arguments, x: Tensor) -> Rows:
    axes, size = _broadcast(arguments, x), arguments["other"].numel()
    return lambda g: (g.sum(axes) if axes else g).reshape(*g.shape[:2], size)


def multiplied(arguments: Arguments, x: Tensor) -> Rows:
    axes, size = _broadcast(arguments, x), arguments["other"].numel()
    factor = x[:, None]
    return lambda g: ((g * factor).sum(axes) if axes else g * factor).reshape(*g.shape[:2], size)


def fits(arguments: Arguments) -> bool:
    """Data of at least p's axes, none of p's own along the samples."""
    x, p = arguments.get("input"), arguments.get("other")
    if not (isinstance(x, Tensor) and isinstance(p, Tensor)) or arguments.get("alpha", 1) != 1:
        return False
    short = p.dim() < x.dim() or (p.dim() == x.dim() and x.dim() > 0 and p.shape[0] == 1)
    return short and x.dtype == p.dtype and torch.broadcast_shapes(x.shape, p.shape) == x.shape


def repeats(arguments: Arguments) -> bool:
    """p [1, ...] to [N, ...], all its axes kept."""
    p, size = arguments.get("other"), arguments["size"]
    return (
        isinstance(p, Tensor)
        and len(size) == p.dim() > 0
        and p.shape[0] == 1
        and all(new in (-1, old) for new, old in zip(size[1:], p.shape[1:], strict=True))
    )


class _Expansion(Rule):
    def bind(self, args: tuple, kwargs: dict) -> Arguments:
        p, *size = args
        size = kwargs.get("size", size[0] if len(size) == 1 else size)
        return {"other": p, "size": (size,) if isinstance(size, int) else tuple(size)}


def _expand(other: Tensor, size: tuple[int, ...]) -> Tensor:
    return other.expand(size)


def fits_in_place(arguments: Arguments) -> bool:
    """A view is left alone: what is noted would be a copy, and what it views go without."""
    return fits(arguments) and not arguments["input"]._is_view()


def _add_in_place(input: Tensor, other: Tensor) -> Tensor:
    return input.add_(other)


_OPERANDS = {"commutes": True, "batch_first": True, "serves": fits}
register(
    Rule("add", ("input", "other"), rows={"other": added}, function=torch.add, **_OPERANDS),
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
)
register(
    Rule(
        "add",
        ("input", "other"),
        rows={"other": added},
        serves=fits_in_place,
        batch_first=True,
        function=_add_in_place,
    ),
    *(Tensor.add_, Tensor.__iadd__),
)
register(
    Rule(
        "mul",
        ("input", "other"),
        rows={"other": multiplied},
        function=torch.mul,
        needs_input=("other",),
        **_OPERANDS,
    ),
    *(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
)
register(
    _Expansion(
        "expand",
        ("other", "size"),
        rows={"other": added},
        serves=repeats,
        batch_first=True,
        function=_expand,
    ),
    Tensor.expand,
)
