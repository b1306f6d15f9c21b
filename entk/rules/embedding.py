"""F.embedding: y[..., c] = w[token, c]; the input stays a list of tokens, never one-hot."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from entk.factors import Factors
from entk.rules.base import Arguments, Empty, Rule, register


def weight(arguments: Arguments, x: Tensor, g: Tensor, empty: Empty) -> Factors:
    n, o, c = g.shape[0], g.shape[1], g.shape[-1]
    tokens = x.reshape(n, -1).long()
    padding = arguments.get("padding_idx")
    if padding is not None:  # autograd gives this row no gradient
        tokens = tokens.masked_fill(tokens == padding % len(arguments["weight"]), -1)
    return Factors(tokens, g.reshape(n, o, -1, c).mT[:, :, None])


def serves(arguments: Arguments) -> bool:
    """max_norm changes the weight and scale_grad_by_freq is no derivative: not for a rule."""
    return arguments.get("max_norm") is None and not arguments.get("scale_grad_by_freq", False)


register(
    Rule(
        "embedding",
        ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
        factors={"weight": weight},
        serves=serves,
    ),
    F.embedding,
)
