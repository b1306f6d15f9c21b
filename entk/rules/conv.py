"""Convolutions and transposed ones in 1, 2 and 3 dimensions, with all options PyTorch has.

`padding_mode` other than zeros needs nothing here: nn.ConvNd pads with F.pad and then calls the
function without padding, so the padded tensor is the input that a rule sees.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from entk.factors import Factors
from entk.rules.base import (
    Arguments,
    Empty,
    Rows,
    Rule,
    over_positions,
    plain_empty,
    register,
)


def _tuple(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    value = (value,) if isinstance(value, int) else tuple(value)
    return value * dims if len(value) == 1 else value


def _padding(arguments: Arguments, kernel: torch.Size, dilation: tuple[int, ...]) -> list[int]:
    """Zeros before and after each axis, last axis first, as F.pad takes them."""
    padding = arguments.get("padding", 0)
    if padding == "valid":
        padding = 0
    pads: list[int] = []
    for axis in reversed(range(len(kernel))):
        if padding == "same":  # PyTorch puts the odd one at the end
            total = dilation[axis] * (kernel[axis] - 1)
            pads += [total // 2, total - total // 2]
        else:
            pads += [_tuple(padding, len(kernel))[axis]] * 2
    return pads


def patches(arguments: Arguments, x: Tensor, empty: Empty) -> Tensor:
    """a [N, G, K, T] with K = C_in/G * kernel size, in the order of the weight's own entries."""
    kernel = arguments["weight"].shape[2:]
    groups = arguments.get("groups", 1)
    stride = _tuple(arguments.get("stride", 1), len(kernel))
    dilation = _tuple(arguments.get("dilation", 1), len(kernel))
    pads = _padding(arguments, kernel, dilation)
    x = F.pad(x, pads) if any(pads) else x
    for axis, size in enumerate(kernel):
        x = x.unfold(2 + axis, dilation[axis] * (size - 1) + 1, stride[axis])
        x = x[..., :: dilation[axis]]
    n, channels, dims = x.shape[0], x.shape[1], len(kernel)
    window = range(2 + dims, 2 + 2 * dims)
    positions = range(2, 2 + dims)
    x = x.permute(0, 1, *window, *positions)
    if kernel.numel() > 1:
        x = empty(x.shape, x).copy_(x)
    return x.reshape(n, groups, channels // groups * kernel.numel(), -1)


def weight(arguments: Arguments, x: Tensor, g: Tensor, empty: Empty) -> Factors:
    groups = arguments.get("groups", 1)
    return Factors(patches(arguments, x, empty), g.flatten(3).unflatten(2, (groups, -1)))


def bias(arguments: Arguments, x: Tensor) -> Rows:
    return over_positions


def transposed_weight(arguments: Arguments, x: Tensor) -> Rows:
    """J[n,o,i,c,k] = sum_t x[n,i,t] g[n,o,c, where tap k of input position t lands]."""
    w, groups = arguments["weight"], arguments.get("groups", 1)
    kernel = w.shape[2:]
    step, pad, dilation = (
        _tuple(arguments.get(key, default), len(kernel))
        for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    reading = {"weight": w, "stride": step, "dilation": dilation, "groups": groups}
    left = x.reshape(len(x), groups, x.shape[1] // groups, -1)

    def rows(g: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in reversed(range(len(kernel))):
            reach = (x.shape[2 + axis] - 1) * step[axis] + dilation[axis] * (kernel[axis] - 1) + 1
            pads += [pad[axis], reach - pad[axis] - g.shape[3 + axis]]
        right = patches(reading, F.pad(g.flatten(0, 1), pads), plain_empty)
        right = right.unflatten(0, g.shape[:2])  # [N, O, G, C/G * kernel, T]
        return torch.einsum("ngit,nogkt->nogik", left, right).flatten(2)

    return rows


register(
    Rule(
        "conv_transpose",
        (
            *("input", "weight", "bias", "stride", "padding"),
            *("output_padding", "groups", "dilation"),
        ),
        rows={"weight": transposed_weight, "bias": bias},
        serves=lambda arguments: arguments["input"].dim() == arguments["weight"].dim(),
        batch_first=True,
    ),
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)
register(
    Rule(
        "conv",
        ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
        factors={"weight": weight},
        rows={"bias": bias},
        serves=lambda arguments: arguments["input"].dim() == arguments["weight"].dim(),
        batch_first=True,
    ),
    F.conv1d,
    F.conv2d,
    F.conv3d,
)
