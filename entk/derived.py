"""Weights that a model computes from its parameters: weight norm, slices, masks, low-rank updates.

A layer called with such a tensor W = h(w) has rows with respect to W like any other; those with
respect to w are J_w = J_W (dW / dw), one backward pass through h for each sample and output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


def leaves_of(t: Tensor, names: Mapping[int, str], noted: Collection) -> tuple[str, ...] | None:
    """The named leaves that t is computed from, in a fixed order; None if from anything else.

    What depends on data is told by the nodes of noted calls on its way. Without one it is data
    times parameters that no call has noted: of several samples, it has their axis, or mixes them.
    """
    if t.grad_fn is None:
        return None
    todo, seen, found = [t.grad_fn], set(), []
    while todo:
        node = todo.pop()
        if node in noted:
            return None
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            name = names.get(id(node.variable))
            if name is None:
                return None
            found.append(name)
        todo += [following for following, _ in node.next_functions]
    return tuple(sorted(found)) or None


def through(origin: Tensor, leaves: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    """Rows [N, O, P] of each leaf from those of `origin`, which was computed from them."""
    n, o, _ = rows.shape
    outer = rows.reshape(n * o, *origin.shape)
    options = {"retain_graph": True, "allow_unused": True}
    try:
        found = torch.autograd.grad(origin, leaves, outer, is_grads_batched=True, **options)
    except RuntimeError:  # no batching rule for some operation
        each = [torch.autograd.grad(origin, leaves, g, **options) for g in outer]
        found = [None if c[0] is None else torch.stack(c) for c in zip(*each, strict=True)]
    return [
        rows.new_zeros(n, o, leaf.numel()) if g is None else g.reshape(n, o, -1)
        for leaf, g in zip(leaves, found, strict=True)
    ]
