"""y[..., c] = sum_k w[c,k] x[..., k] + b[c] with any leading dimensions, and products with w."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from entk.factors import Factors
from entk.rules.base import Arguments, Empty, Rows, Rule, register


def weight(arguments: Arguments, x: Tensor, g: Tensor, empty: Empty) -> Factors:
    n, o, c = g.shape[0], g.shape[1], g.shape[-1]
    a = x.reshape(n, -1, x.shape[-1]).mT[:, None]  # [N, 1, K, T]
    return Factors(a, g.reshape(n, o, -1, c).mT[:, :, None])  # [N, O, 1, C, T]


def bias(arguments: Arguments, x: Tensor) -> Rows:
    return lambda g: g.reshape(*g.shape[:2], -1, g.shape[-1]).sum(2)


def is_matrix(arguments: Arguments) -> bool:
    """Data on the left, a matrix [K, C] on the right."""
    x, w = arguments.get("input"), arguments.get("other")
    return isinstance(x, Tensor) and isinstance(w, Tensor) and w.dim() == 2 and x.dim() >= 2


def is_plain_sum(arguments: Arguments) -> bool:
    known = {"bias", "input", "other"}
    return arguments.keys() <= known and arguments["bias"].dim() == 1 and is_matrix(arguments)


def _addmm(bias: Tensor, input: Tensor, other: Tensor) -> Tensor:
    return torch.addmm(bias, input, other)


register(
    Rule("linear", ("input", "weight", "bias"), factors={"weight": weight}, rows={"bias": bias}),
    F.linear,
)
_PRODUCT = {"factors": {"other": weight}, "transposed": True, "needs_input": ("other",)}
register(
    Rule("matmul", ("input", "other"), serves=is_matrix, function=torch.matmul, **_PRODUCT),
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm),
)
register(
    Rule(
        "addmm",
        ("bias", "input", "other"),
        rows={"bias": bias},
        serves=is_plain_sum,
        function=_addmm,
        **_PRODUCT,
    ),
    torch.addmm,
)
