"""The path for parameters that no rule covers: exact per-sample Jacobians from torch.func."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from entk.capture import forward
from entk.errors import UnsupportedModelError
from entk.samples import Samples, map_tensors


def choose_method(
    model: nn.Module, state: dict[str, Tensor], names: Iterable[str], x: Tensor | Samples
) -> str:
    """ "vmap" if torch.func batches this model and gets it right on a few samples, else "loop".

    Being accepted is not enough: the batching rule of `prelu`'s backward pass in torch 2.13
    returns wrong numbers without an error, so vmap is held against the loop before it is used.
    """
    few = x[:3]
    if len(few) < 3:
        few = map_tensors(x, _spread)
    try:
        found = generic_jacobian(model, state, names, few, False, "vmap")
    except (RuntimeError, ValueError):  # no batching rule, data-dependent control flow, in-place
        return "loop"
    exact = generic_jacobian(model, state, names, few, False, "loop")
    tolerance = torch.finfo(next(iter(exact.values())).dtype).eps ** 0.5
    right = all((found[n] - j).norm() <= tolerance * j.norm() for n, j in exact.items())
    return "vmap" if right else "loop"


def _spread(t: Tensor) -> Tensor:
    """Three samples made of the first one."""
    if not t.is_floating_point():
        return t[[0, 0, 0]]
    return torch.cat([t[:1], t[:1] / 2, -t[:1]])


def generic_jacobian(
    model: nn.Module,
    state: dict[str, Tensor],
    names: Iterable[str],
    x: Tensor | Samples,
    total: bool,
    method: str,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """{name: J [N, O, P]}, by vmap(jacrev) over `chunk` samples at once or one sample at a time."""
    chosen = {name: state[name].detach() for name in names}
    rest = {name: t.detach() for name, t in state.items() if name not in chosen}
    if method == "loop":
        rows = [_one_sample(model, rest, chosen, x[i : i + 1], total) for i in range(len(x))]
        return {name: torch.stack([r[name] for r in rows]) for name in chosen}

    def outputs(parameters: dict[str, Tensor], sample: Tensor | Samples) -> Tensor:
        return forward(model, {**rest, **parameters}, sample[None], total)[0]

    with warnings.catch_warnings():
        # an operation without a batching rule runs in a loop inside vmap: exact, and in the plan
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = vmap(jacrev(outputs), in_dims=(None, 0), chunk_size=chunk)(chosen, x)
    return {name: j.flatten(2) if j.dim() > 2 else j[..., None] for name, j in found.items()}


def _one_sample(model, rest, chosen, sample: Tensor | Samples, total: bool) -> dict[str, Tensor]:
    """One backward pass per output: {name: [O, P]}."""
    leaves = {name: t.detach().requires_grad_() for name, t in chosen.items()}
    with torch.enable_grad():
        y = forward(model, {**rest, **leaves}, sample, total)[0]
        if not y.requires_grad:
            raise UnsupportedModelError(
                f"no gradient reaches {', '.join(chosen)}: the model cuts the graph; pass params= "
                "without them"
            )
        found = []
        for o in range(len(y)):
            grads = torch.autograd.grad(y[o], list(leaves.values()), None, True, allow_unused=True)
            pairs = zip(leaves.values(), grads, strict=True)
            found.append([torch.zeros_like(p) if g is None else g for p, g in pairs])
    return {name: torch.stack([row[i].flatten() for row in found]) for i, name in enumerate(leaves)}
