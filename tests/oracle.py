"""The truth: one `torch.autograd.grad` per sample and output; imports nothing of entk."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def jacobian(model: nn.Module, x: Tensor, params=None, dtype=torch.float64) -> dict[str, Tensor]:
    """{name: [N, O, *shape]} by the plainest program there is, on a copy in `dtype`."""
    model = copy.deepcopy(model).to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    known = dict(model.named_parameters())
    chosen = {
        n: p for n, p in known.items() if (p.requires_grad if params is None else n in params)
    }
    for p in chosen.values():
        p.requires_grad_()
    rows = []
    for n in range(len(x)):
        y = model(x[n : n + 1].clone()).reshape(-1)  # a model may write into its input
        outputs = []
        for o in range(len(y)):
            if y.requires_grad:
                grads = torch.autograd.grad(
                    y[o], list(chosen.values()), retain_graph=True, allow_unused=True
                )
            else:
                grads = [None] * len(chosen)
            zeros = [torch.zeros_like(p) for p in chosen.values()]
            outputs.append([z if g is None else g for g, z in zip(grads, zeros, strict=True)])
        rows.append([torch.stack(column) for column in zip(*outputs, strict=True)])
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    return dict(zip(chosen, stacked, strict=True))


def mode(full: Tensor, outputs: str) -> Tensor:
    """An output mode from the full kernel [N, O, M, O], by definition."""
    if outputs == "all":
        return full
    if outputs == "diagonal":
        return torch.einsum("nomo->onm", full)
    if outputs == "trace":
        return torch.einsum("nomo->nm", full)
    return full.sum((1, 3))


def kernels_by_parameter(
    model: nn.Module, x: Tensor, z: Tensor | None = None, params=None, dtype=torch.float64
) -> dict[str, Tensor]:
    """Each parameter's share of the full kernel."""
    one = jacobian(model, x, params, dtype)
    two = one if z is None else jacobian(model, z, params, dtype)
    return {
        name: torch.einsum("nop,mqp->nomq", one[name].flatten(2), two[name].flatten(2))
        if one[name].dim() > 2
        else torch.einsum("no,mq->nomq", one[name], two[name])
        for name in one
    }


def ntk(model, x, z=None, outputs="all", params=None, dtype=torch.float64) -> Tensor:
    return mode(sum(kernels_by_parameter(model, x, z, params, dtype).values()), outputs)


def ntk_by_layer(
    model, x, z=None, outputs="all", params=None, dtype=torch.float64
) -> dict[str, Tensor]:
    """{module path, or the name of a parameter of the model itself: kernel}."""
    layers: dict[str, Tensor] = {}
    for name, kernel in kernels_by_parameter(model, x, z, params, dtype).items():
        layer = name.rpartition(".")[0] or name
        layers[layer] = layers.get(layer, 0) + mode(kernel, outputs)
    return layers
