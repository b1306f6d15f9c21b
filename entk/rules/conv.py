"""Convolutions in 1, 2 and 3 dimensions; stride, padding, dilation and groups as PyTorch has them.

`padding_mode` other than zeros needs nothing here: nn.ConvNd pads with F.pad and then calls the
function without padding, so the padded tensor is the input that a rule sees.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from entk.factors import Factors
from entk.rules.base import Arguments, Empty, Rows, Rule, over_positions, register


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
