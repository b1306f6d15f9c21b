"""Normalisation layers: y = w * xhat + b, where xhat needs no batch statistics.

xhat comes from the same torch function called without its affine part, so that eps, groups and
running statistics mean here exactly what they mean there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from entk.rules.base import Arguments, Rows, Rule, over_positions, register


def _normalised(function, drop: tuple[str, ...]):
    def xhat(arguments: Arguments, x: Tensor) -> Tensor:
        plain = {key: value for key, value in arguments.items() if key not in drop}
        return function(**{**plain, "input": x})

    return xhat


def _by_channel(xhat):
    """Weight and bias rows of a function whose parameters belong to axis 1 of its input."""

    def weight(arguments: Arguments, x: Tensor) -> Rows:
        factor = xhat(arguments, x)[:, None]
        return lambda g: over_positions(g * factor)

    def bias(arguments: Arguments, x: Tensor) -> Rows:
        return over_positions

    return {"weight": weight, "bias": bias}


def _over_leading(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum g [N, O, ..., *shape] to [N, O, prod(shape)]."""
    size = 1
    for length in shape:
        size *= length
    return g.reshape(*g.shape[:2], -1, size).sum(2)


def _by_trailing_shape(xhat):
    """Weight and bias rows of a function whose parameters have the input's trailing shape."""

    def weight(arguments: Arguments, x: Tensor) -> Rows:
        factor, shape = xhat(arguments, x)[:, None], arguments["normalized_shape"]
        return lambda g: _over_leading(g * factor, shape)

    def bias(arguments: Arguments, x: Tensor) -> Rows:
        return lambda g: _over_leading(g, arguments["normalized_shape"])

    return {"weight": weight, "bias": bias}


def eval_batch_norm(
    input: Tensor, running_mean: Tensor, running_var: Tensor, weight=None, bias=None, **options
) -> Tensor:
    """F.batch_norm without training, as x * scale + shift: its backward pass is one product."""
    given = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    if len(given) < 2 or any(t.dtype != input.dtype for t in given):
        return F.batch_norm(input, running_mean, running_var, weight, bias, **options)
    scale = (running_var + options.get("eps", 1e-5)).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    shape = (-1, *(1,) * (input.dim() - 2))
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


_BATCH_NORM = (
    *("input", "running_mean", "running_var", "weight", "bias"),
    *("training", "momentum", "eps"),
)
_AFFINE = ("weight", "bias")

register(
    Rule(
        "batch_norm",
        _BATCH_NORM,
        rows=_by_channel(_normalised(F.batch_norm, _AFFINE)),
        batch_first=True,
        function=eval_batch_norm,
    ),
    F.batch_norm,
)
register(
    Rule(
        "group_norm",
        ("input", "num_groups", "weight", "bias", "eps"),
        rows=_by_channel(_normalised(F.group_norm, _AFFINE)),
        batch_first=True,
    ),
    F.group_norm,
)
register(
    Rule(
        "instance_norm",
        (
            *("input", "running_mean", "running_var", "weight", "bias"),
            *("use_input_stats", "momentum", "eps"),
        ),
        rows=_by_channel(_normalised(F.instance_norm, _AFFINE)),
        batch_first=True,
    ),
    F.instance_norm,
)
register(
    Rule(
        "layer_norm",
        ("input", "normalized_shape", "weight", "bias", "eps"),
        rows=_by_trailing_shape(_normalised(F.layer_norm, _AFFINE)),
    ),
    F.layer_norm,
)
register(
    Rule(
        "rms_norm",
        ("input", "normalized_shape", "weight", "eps"),
        rows={"weight": _by_trailing_shape(_normalised(F.rms_norm, _AFFINE))["weight"]},
    ),
    F.rms_norm,
)
