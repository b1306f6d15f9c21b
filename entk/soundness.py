"""Whether a model has per-sample Jacobians that can be asked for."""

from __future__ import annotations

import warnings
from contextlib import suppress

import torch
from torch import Tensor
from torch.func import vmap

from entk.capture import forward, rounding
from entk.errors import UnsupportedModelError
from entk.samples import Samples

SEVERAL = 8  # samples, spread over the data, on which layouts and independence are tested


def several_of(x: Tensor | Samples) -> Tensor | Samples:
    """A few samples of x, two at least."""
    count, last = min(len(x), SEVERAL), len(x) - 1
    several = x[[i * last // max(count - 1, 1) for i in range(count)]]
    return several if len(several) > 1 else x[[0, 0]]


def check_independence(model, state, x: Tensor | Samples, y: Tensor, first: Tensor) -> None:
    """Each sample's outputs must be what they are when it is alone; `first`: the first one's.

    vmap shows that at once where it can; what it cannot, or where it differs, is done plainly.
    """
    _check_draws(model, state, x[:1], y.device)
    for alone in (_by_vmap, _one_by_one):
        with torch.no_grad():
            rest = alone(model, state, x[1:])
        if rest is not None and _agree(y, torch.cat([first, rest])):
            return
    raise UnsupportedModelError(
        "a sample's outputs depend on what else is in its batch: the model mixes the samples (a "
        "statistic over axis 0, say), or two forward passes differ, so no per-sample Jacobian "
        "exists"
    )


def _check_draws(model, state, x: Tensor | Samples, device: torch.device) -> None:
    """Random numbers may be the same by chance in all passes that are looked at, and then not."""
    for _ in range(2):  # a model that seeds itself ends each pass but the first as it began it
        before = _random_state(device)
        with torch.no_grad():
            forward(model, state, x)
        if _random_state(device) == before:
            return
    raise UnsupportedModelError(
        "the model draws random numbers in its forward pass (dropped paths, noise), so two forward "
        "passes differ; call model.eval(), or take them out"
    )


def _random_state(device: torch.device) -> list[bytes]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [s.numpy().tobytes() for s in states]


def _by_vmap(model, state, x: Tensor | Samples) -> Tensor | None:
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an operation is slow under vmap
        return vmap(lambda sample: forward(model, state, sample[None])[0])(x)
    return None


def _one_by_one(model, state, x: Tensor | Samples) -> Tensor:
    return torch.cat([forward(model, state, x[i : i + 1]) for i in range(len(x))])


def _agree(y: Tensor, alone: Tensor) -> bool:
    scale = alone.norm(dim=1) + y.norm(dim=1)
    return bool(((y - alone).norm(dim=1) <= rounding(y.dtype) * scale).all())


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
