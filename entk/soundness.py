"""Whether a model has per-sample Jacobians that can be asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from entk.capture import forward
from entk.errors import UnsupportedModelError


def check_independence(model, state, x: Tensor, y: Tensor, first: Tensor) -> None:
    """Each sample's outputs must be what they are when it is alone; `first`: the first one's."""
    with torch.no_grad():
        alone = torch.cat([first, *(forward(model, state, sample[None]) for sample in x[1:])])
    scale = alone.norm(dim=1, keepdim=True) + y.norm(dim=1, keepdim=True)
    far = (y - alone).norm(dim=1, keepdim=True) > torch.finfo(y.dtype).eps ** 0.5 * scale
    if far.any():
        raise UnsupportedModelError(
            "a sample's outputs depend on what else is in its batch: the model mixes the samples "
            "(a statistic over axis 0, say), or two forward passes differ, so no per-sample "
            "Jacobian exists"
        )


def check_checkpoints(y: Tensor) -> None:
    """Reentrant checkpoints hide their parameters from autograd.grad."""
    todo, seen = [y.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
        if "CheckpointFunctionBackward" in node.name():
            raise UnsupportedModelError(
                "the model uses a reentrant checkpoint, inside which no gradient can be asked for; "
                "pass use_reentrant=False to torch.utils.checkpoint"
            )
