"""Hidden units of one network renamed so that its weights lie closest to those of another.

A barrier between networks can be that of the order of their units alone. Source: Ainsworth et al.
2022 (Git Re-Basin, arXiv 2209.04836), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from twophase.errors import UserError
from twophase.models import MLP, VGG, Padded, ResNet
from twophase.predictions import outputs

Members = list[tuple[str, int]]  # (name in the state dict, axis that runs over the units)


def groups(model: nn.Module) -> list[Members]:
    """Units that are renamed together: one entry a permutation.

    Raises UserError: the network is not one of ours, or its shortcuts tie units to places.
    """
    if isinstance(model, ResNet):
        return _residual(model)
    if isinstance(model, MLP | VGG):
        return _chain(model)
    raise UserError(
        f"chaos.align needs to know which units may be renamed, and does not for "
        f"{type(model).__name__}; use chaos.align=none"
    )


def _chain(model: nn.Module) -> list[Members]:
    """Layers one after the other: the units of each are the inputs of the next."""
    found: list[Members] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if found:
                found[-1].append((f"{name}.weight", 1))
            found.append([(f"{name}.weight", 0)])
            found[-1] += [(f"{name}.bias", 0)] if module.bias is not None else []
        elif isinstance(module, nn.BatchNorm2d):
            found[-1] += _norm(name)
    return found[:-1]  # the outputs have names that mean something


def _norm(name: str) -> Members:
    return [(f"{name}.{k}", 0) for k in ("weight", "bias", "running_mean", "running_var")]


def _residual(model: ResNet) -> list[Members]:
    """One group for the sums of each stage, one for the inside of each block."""
    sums: Members = [("conv.weight", 0), *_norm("bn")]
    found = [sums]
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}"
        sums.append((f"{name}.conv1.weight", 1))
        inside = [(f"{name}.conv1.weight", 0), *_norm(f"{name}.bn1"), (f"{name}.conv2.weight", 1)]
        found.append(inside)
        if isinstance(block.shortcut, Padded):
            raise UserError(
                "chaos.align: shortcuts that pad channels tie units to their places; use "
                "model.shortcut=projection, or chaos.align=none"
            )
        if len(block.shortcut):
            sums.append((f"{name}.shortcut.0.weight", 1))
            sums = [(f"{name}.shortcut.0.weight", 0), *_norm(f"{name}.shortcut.1")]
            found.append(sums)
        sums += [(f"{name}.conv2.weight", 0), *_norm(f"{name}.bn2")]
    sums.append(("fc.weight", 1))
    return found


def match_weights(
    model: nn.Module, one: dict[str, Tensor], two: dict[str, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], float]:
    """(two with its units renamed, share of units that have another name) for state dicts.

    Each group in turn is given the permutation that has the largest inner product of the weights
    with those of `one`, the others held, until none changes: a local optimum, which depends on the
    order of turns. The network `two` computes is not changed.
    """
    parts = groups(model)
    orders = [torch.arange(two[part[0][0]].shape[part[0][1]]) for part in parts]
    trained = {name for name, _ in model.named_parameters()}
    axes = _axes(parts)
    changed = True
    while changed:
        changed = False
        for g in torch.randperm(len(parts), generator=generator).tolist():
            likeness = 0.0
            for name, axis in (m for m in parts[g] if m[0] in trained):
                others = {a: k for a, k in axes[name].items() if a != axis}
                pair = one[name], _renamed(two[name], others, orders)
                u, v = (w.double().movedim(axis, 0).reshape(len(orders[g]), -1) for w in pair)
                likeness = likeness + u @ v.mT
            found = _assigned(likeness)
            before, after = (likeness.gather(1, o[:, None]).sum() for o in (orders[g], found))
            if after - before > 1e-9 * before.abs():  # more than rounding
                orders[g], changed = found, True
    return _all_renamed(two, axes, orders)


def match_activations(
    one: nn.Module, two: nn.Module, state: dict[str, Tensor], x: Tensor
) -> tuple[dict[str, Tensor], float]:
    """(state with its units renamed, share of units that have another name), state that of `two`.

    Each group is given the permutation with the largest sum of correlations between the units'
    outputs on x, before the nonlinearity and after the norm layer; over samples and places, and
    over all layers that write to the group. Source: Li et al. 2015 (arXiv 1511.07543).
    """
    parts = groups(one)
    first, second = (outputs(model, x, _writers(parts)) for model in (one, two))
    orders = []
    for names in map(_writers, ([part] for part in parts)):
        orders.append(_assigned(sum(_standard(first[n]) @ _standard(second[n]).mT for n in names)))
    return _all_renamed(state, _axes(parts), orders)


def _writers(parts: list[Members]) -> list[str]:
    """Names of the modules whose outputs are the units of these groups; norm layers, if any."""
    found = []
    for part in parts:
        own = [name.rpartition(".") for name, axis in part if axis == 0]
        norms = [module for module, _, kind in own if kind == "running_mean"]
        found += norms or [module for module, _, kind in own if kind == "weight"]
    return found


def _standard(out: Tensor) -> Tensor:
    """Outputs [N, C, ...] as rows of units [C, N...], mean 0 and length 1; 0 for a constant one."""
    rows = out.double().movedim(1, 0).flatten(1)
    return nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)


def _axes(parts: list[Members]) -> dict[str, dict[int, int]]:
    """{name: {axis: index of its group}}."""
    axes: dict[str, dict[int, int]] = {}
    for g, part in enumerate(parts):
        for name, axis in part:
            axes.setdefault(name, {})[axis] = g
    return axes


def _assigned(likeness: Tensor) -> Tensor:
    return torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])


def _all_renamed(
    state: dict[str, Tensor], axes: dict[str, dict[int, int]], orders: list[Tensor]
) -> tuple[dict[str, Tensor], float]:
    names = {name: _renamed(v, axes.get(name, {}), orders) for name, v in state.items()}
    moved = sum((order != torch.arange(len(order))).sum().item() for order in orders)
    return names, moved / sum(map(len, orders))


def _renamed(value: Tensor, axes: dict[int, int], orders: list[Tensor]) -> Tensor:
    for axis, g in axes.items():
        value = value.index_select(axis, orders[g])
    return value
