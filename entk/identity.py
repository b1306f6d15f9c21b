"""What identifies a kernel: the same request gives the same numbers."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from entk.capture import forward, leaf_state, rounding
from entk.models import describe, inner
from entk.plan import Plan
from entk.precision import computing
from entk.request import Target
from entk.samples import Samples, Select, named_tensors
from entk.sketch import Sketch
from entk.soundness import several_of

BEHAVIOUR = "outputs and gradients"  # of a few samples
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in a repr: another one in each process


def identity(
    target: Target,
    select: Select | None,
    by_layer: bool,
    precision: str,
    sketch: Sketch | None,
) -> dict:
    """As it is compared with what is begun, is finished, or asked for by others."""
    model, x, z = target.model, target.x, target.z
    request = {
        BEHAVIOUR: behaviour(target),
        "model": _name(inner(model)),
        "state_sha256": sha256(state_of(model)),
        "x_sha256": sha256(named_tensors(x, "x")),
        "z_sha256": None if z is None else sha256(named_tensors(z, "z")),
        "parameters": list(target.names),
        "outputs": target.outputs,
        "by_layer": by_layer,
        "precision": precision,
        "sketch": None if sketch is None else sketch.size,
        "seed": None if sketch is None else sketch.seed,
    }
    if select is not None:
        request["select"] = describe(select)
    others = [() if t is None or isinstance(t, Tensor) else t.others for t in (x, z)]
    if any(others):
        request["arguments"] = _text(others)
    return request


def behaviour(target: Target) -> list[list[float]]:
    """What tells a model from another with the same tensors, such as another activation or select.

    Of a few samples, each by itself, that a large one does not hide the others: the norm of its
    outputs, their sum weighted by fixed numbers, and that sum's gradient's norm for each parameter.
    """
    model, x = target.model, several_of(target.x)
    return [_behaviour(model, target.names, x[i : i + 1]) for i in range(len(x))]


def _behaviour(model: nn.Module, names: tuple[str, ...], x: Tensor | Samples) -> list[float]:
    with computing():
        leaves, state = leaf_state(model, names, copy=True)
        y = forward(model, state, x)
        weights = torch.arange(1.0, y.numel() + 1, device=y.device, dtype=y.dtype).cos()
        weighted = weights.view_as(y) * y
        found = [None] * len(leaves)
        if y.requires_grad:
            found = torch.autograd.grad(weighted.sum(), list(leaves.values()), allow_unused=True)
    parts = [weighted.detach().sum(), y.detach(), *found]
    return [0.0 if p is None else p.double().norm().nan_to_num().item() for p in parts]


def differing(request: dict, other: dict) -> list[str]:
    """Keys in which two requests are not the same; outputs and gradients if nothing else tells."""
    exact = [k for k in request if k != BEHAVIOUR and other.get(k) != request[k]]
    return exact or ([] if _near(request, other) else [BEHAVIOUR])


def _near(request: dict, other: dict) -> bool:
    """Whether they are as far apart as other threads or machines make them."""
    one, two = (np.array(r.get(BEHAVIOUR, ())) for r in (request, other))
    noise = rounding(torch.float32) * np.abs(one).max(axis=-1, keepdims=True, initial=0)
    return one.shape == two.shape and bool((np.abs(one - two) <= noise).all())


def _text(value: object) -> str:
    """The same for equal arguments, however long they are."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return ADDRESS.sub("", repr(value))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that a state dict leaves out."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def machine(like: Tensor) -> dict:
    """What bits depend on beside the request; the same on all ranks of a group."""
    threads = torch.get_num_threads() if like.device.type == "cpu" else None
    return {"number of threads": threads, "version of torch": torch.__version__}


def provenance(request: dict, plan: Plan, layers: list[str]) -> dict:
    """What a file says of its kernel."""
    return {
        "request": request,
        "layers": layers,
        "shape": plan.shape,
        "outputs": plan.outputs,
        "dtype": plan.dtype,
        "device": plan.device,
        "backend": plan.backend,
        "precision": plan.precision,
        "threads": torch.get_num_threads(),
        "versions": {
            "entk": _version("entk"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "python": platform.python_version(),
        },
    }


def _name(model: nn.Module | Callable) -> str:
    own = None if isinstance(model, nn.Module) else getattr(model, "__qualname__", None)
    return own or type(model).__qualname__  # a partial function has none


def sha256(tensors: dict[str, Tensor]) -> str:
    """Over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        plain = t.detach().cpu().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
