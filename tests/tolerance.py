"""Tolerances that are derived: from plain PyTorch's own error at the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT64 = 1e-10


def error(found: Tensor, truth: Tensor) -> float:
    """Relative Frobenius error against the float64 truth; absolute where the truth is zero."""
    scale = truth.norm().item()
    return (found.double() - truth).norm().item() / (scale if scale > 0 else 1.0)


def limit(plain: Tensor, truth: Tensor) -> float:
    """Twice the error of the plain loop at its dtype.

    The floor is four units in the last place: on tiny cases the plain loop can hit the truth
    exactly by luck, while any other order of the same few sums is off by one rounding each.
    """
    return 2 * error(plain, truth) + 4 * torch.finfo(plain.dtype).eps
