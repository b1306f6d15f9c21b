"""On which axis the samples of each call lie, from passes with one sample and with several."""

from __future__ import annotations

import torch
from torch import Tensor

from entk.capture import Call, Layout, gradients, rounding
from entk.errors import InputError, UnsupportedModelError
from entk.recorder import Look


def find_layouts(single: Look, batch: Look) -> tuple[list[Layout], dict[str, str], dict]:
    """The layout of each call; parameters that have none; places of calls that hold no samples."""
    if [c.signature for c in single.calls] != [c.signature for c in batch.calls]:
        reason = "the calls depend on the number of samples"
        looks = (single, batch)
        return [], {n: reason for each in looks for c in each.calls for n in _leaves(c, each)}, {}
    weights = torch.arange(1, len(batch.y) + 1, dtype=batch.y.dtype, device=batch.y.device)
    layouts, wrong = [], {}
    for call, several, pair in zip(
        single.calls, batch.calls, _weighted_gradients(batch, weights), strict=True
    ):
        layout = _layout(call, several, pair, weights)
        layouts.append(layout)
        if layout is None:
            wrong[call.place] = _leaves(call, single)
    return layouts, {}, wrong


def _leaves(call: Call, look: Look) -> tuple[str, ...]:
    """The parameters of a call, and those that its derived tensors come from."""
    origins = look.recorder.origins
    names = call.parameters.values()
    return tuple(leaf for n in names for leaf in (origins[n][1] if n in origins else (n,)))


def _weighted_gradients(batch: Look, weights: Tensor) -> list[tuple[Tensor | None, ...]]:
    """At each call the gradients of all samples' outputs, and of those times `weights`."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.rand(batch.y.shape[1], generator=generator, dtype=torch.float64, device="cpu") + 0.5
    y = batch.y @ mix.to(batch.y)
    both = torch.stack([y.sum(), y @ weights])[None]
    return list(zip(*gradients(both, batch.calls), strict=True))


def _layout(
    call: Call, several: Call, pair: tuple[Tensor | None, ...], weights: Tensor
) -> Layout | None:
    """Where samples lie: along the axis that grew, and where sample n's gradient grows n-fold."""
    count = len(weights)
    one, many = call.arguments["input"].shape, several.arguments["input"].shape
    axes = [i for i, (a, b) in enumerate(zip(one, many, strict=False)) if a != b]
    if len(one) != len(many) or len(axes) != 1 or many[axes[0]] != count * one[axes[0]]:
        return None
    axis = axes[0]
    if call.rule.batch_first and axis != 0:
        return None
    if several.output_shape[axis] != count * call.output_shape[axis]:
        return None
    repeat = one[axis]
    if pair[0] is None:  # does not reach the output; any layout gives the zeros it contributes
        return Layout(axis)
    if not all(bool(g.isfinite().all()) for g in pair):
        raise InputError(
            f"a derivative of the outputs has NaN or infinity at {call.rule.name} "
            f"({', '.join(call.parameters.values())}), where the outputs are finite: a root or a "
            "logarithm at 0 perhaps; look at jacobian() of each sample"
        )
    for together in (True, False):
        layout = Layout(axis, repeat, together)
        plain, weighted = (layout.samples_first(g).reshape(count, -1) for g in pair)
        expected = plain * weights[:, None]
        if (weighted - expected).norm() <= rounding(plain.dtype) * weighted.norm():
            return layout if repeat == 1 or plain.any() else None
        if repeat == 1:
            raise UnsupportedModelError(
                f"the output of one sample depends on another at {call.rule.name} "
                f"({', '.join(call.parameters.values())}): the model mixes the samples of a "
                "batch, so no per-sample Jacobian exists"
            )
    return None
