"""F.linear with any leading dimensions: y[..., c] = sum_k w[c,k] x[..., k] + b[c]."""

from __future__ import annotations

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


register(
    Rule("linear", ("input", "weight", "bias"), factors={"weight": weight}, rows={"bias": bias}),
    F.linear,
)
