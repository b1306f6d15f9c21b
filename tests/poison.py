"""Views whose surroundings are NaN: what is read there spoils the result, what is written shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def poisoned(t: Tensor, axes: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
    """(a view equal to t, the buffer it lies in), padded along `axes`; integers get -1."""
    axes = tuple(range(t.dim())) if axes is None else axes
    shape = [size + 3 * (axis in axes) for axis, size in enumerate(t.shape)]
    buffer = torch.full(shape, math.nan if t.is_floating_point() else -1, dtype=t.dtype)
    buffer = buffer.to(t.device)
    view = buffer[tuple(slice(a in axes, size + (a in axes)) for a, size in enumerate(t.shape))]
    view.copy_(t)
    return view, buffer


def untouched(view: Tensor, buffer: Tensor) -> bool:
    """Whether all of the buffer but the view is still NaN."""
    view.zero_()
    return int(buffer.isnan().sum()) == buffer.numel() - view.numel()


def reversed_axes(t: Tensor) -> Tensor:
    """The same tensor with its last axis slowest in memory."""
    return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))
