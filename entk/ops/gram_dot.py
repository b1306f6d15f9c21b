"""`gram_dot`: the three inner products of two kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def gram_dot(a: Tensor, b: Tensor, backend: str = "auto") -> Tensor:
    """[<a,b>, <a,a>, <b,b>] in float64, on the CPU or on the device of a and b."""
    a, b = a.double(), b.double()
    return torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()])
