"""Distances between the kernels of one model in many states, no kernel ever whole in memory."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from entk.assemble import WHOLE, Engine
from entk.distance import PIECE, distances_of
from entk.errors import InputError
from entk.inputs import as_path
from entk.models import Functional, Params, as_module
from entk.progress import Progress
from entk.rates import Rates
from entk.request import make_plan, prepare
from entk.samples import Input, Select
from entk.sketch import check_sketch


def trajectory_distances(
    model: nn.Module | Callable,
    states: Sequence[Mapping[str, Tensor]],
    x: Input,
    z: Input | None = None,
    *,
    outputs: str = "all",
    params: Params = None,
    select: Select | None = None,
    strict: bool = False,
    precision: str | None = None,
    memory: int | str | None = None,
    block: int | None = None,
    backend: str = "auto",
    rates: Rates | str | None = None,
    sketch: int | None = None,
    seed: int = 0,
    scratch: str | PathLike | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Float64[Tensor, "S S"]:
    """S[s,t] = kernel_distance of the kernels in states s and t, [S, S] float64, on the CPU.

    `states` are state dicts of `model` (of a function: dicts like `params`), which itself is left
    alone; each is asked for once, so a sequence may load them on demand. The kernels are computed
    tile by tile, each state's passes through the model done once, and go to a temporary file in the
    folder `scratch` (the system's, if None), about S (N O)^2 / 2 numbers for kernels of x; it is
    read in bands. Other arguments as for `ntk`.

    To keep the kernels, use `write_ntk` and `kernel_distance_matrix`: the same distances.

    Raises:
        InputError: a state does not fit the model. UndefinedDistanceError: a kernel is zero or not
            finite. And what `ntk` raises.

    Source: that of `kernel_distance`.

    >>> import torch, entk
    >>> model = torch.nn.Linear(3, 2)
    >>> states = [{k: c * v for k, v in model.state_dict().items()} for c in (1, 2, 3)]
    >>> entk.trajectory_distances(model, states, torch.randn(4, 3)).abs().max().item()
    0.0
    """
    listed = hasattr(states, "__len__") and hasattr(states, "__getitem__")  # may load when asked
    if not listed or isinstance(states, (Mapping, str)):
        raise InputError(f"states is {type(states).__name__}, expected a list of state dicts")
    if len(states) == 0:
        raise InputError("states is empty, expected at least one state dict")
    if scratch is not None and not as_path(scratch).is_dir():
        raise InputError(f"the folder scratch={str(scratch)!r} does not exist; create it first")
    if not isinstance(model, nn.Module):
        model, params = as_module(model, params, None)
    model = copy.deepcopy(model)
    _load(model, states[0], 0)
    target = prepare(model, x, z, outputs, params, select, strict)
    options = {"memory": memory, "block": block, "backend": backend, "precision": precision}
    options |= {"rates": rates, "streamed": True, "sketch": check_sketch(sketch, seed)}
    plan = make_plan(target, **options)
    engine = Engine(target, plan)
    with (
        tempfile.TemporaryFile(dir=scratch) as file,
        Progress(progress, len(states), "states") as bar,
    ):
        for s in range(len(states)):
            if s > 0:
                _load(model, states[s], s)
            parts = []  # (how often a tile counts, its entries), in the order of the file
            for i, j, tile in engine.tiles(plan.tiles()):
                tile[WHOLE].cpu().numpy().tofile(file)
                parts.append((plan.weight(i, j), tile[WHOLE].numel()))
            bar.advance()
        file.flush()
        kernels = np.memmap(file, plan.dtype, "r").reshape(len(states), -1)
        labels = [f"state {s}'s" for s in range(len(states))]
        return distances_of(lambda: _bands(kernels, parts), labels)


def _load(model: nn.Module, state: Mapping[str, Tensor], s: int) -> None:
    try:
        model.load_state_dict(model.flat(state) if isinstance(model, Functional) else state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"state {s} does not fit the model: {reason:.300}") from error


def _bands(kernels: np.ndarray, parts: list[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
    """(weight, the same entries of all kernels [S, entries] in float64)."""
    step, start = max(1, PIECE // len(kernels)), 0
    for weight, size in parts:
        for at in range(start, start + size, step):
            band = kernels[:, at : min(at + step, start + size)]
            yield weight, torch.from_numpy(band.astype(np.float64))
        start += size
