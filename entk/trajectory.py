"""Distances between the kernels of one model in many states, no kernel ever whole in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import IO

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor, nn

from entk.assemble import WHOLE, Engine
from entk.distance import PIECE, distances_of
from entk.distribute import assign
from entk.errors import InputError, KernelFileError
from entk.identity import identity, machine, sha256, state_of
from entk.inputs import as_path
from entk.models import Functional, Params, as_module, copied
from entk.peers import Alone, peers_of
from entk.plan import Plan
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
    group: dist.ProcessGroup | str | None = None,
) -> Float64[Tensor, "S S"]:
    """S[s,t] = kernel_distance of the kernels in states s and t, [S, S] float64, on the CPU.

    `states` are state dicts of `model` (of a function: dicts like `params`), which itself is left
    alone; each is asked for once, so a sequence may load them on demand. The kernels are computed
    tile by tile, each state's passes through the model done once, and go to a temporary file in the
    folder `scratch` (the system's, if None), about S (N O)^2 / 2 numbers for kernels of x; it is
    read in bands. Other arguments as for `ntk`.

    With a `group` of torch.distributed ("world": all processes) each rank makes the same call and
    does its part of the tiles of every state; all get the same bits as one process would.

    To keep the kernels, use `write_ntk` and `kernel_distance_matrix`: the same distances.

    Raises:
        InputError: a state does not fit the model. UndefinedDistanceError: a kernel is zero or not
            finite. KernelFileError: `scratch` is full. DistributedError: a rank failed, died or
            fell silent. And what `ntk` raises.

    Source: that of `kernel_distance`.

    >>> import torch, entk
    >>> model = torch.nn.Linear(3, 2)
    >>> states = [{k: c * v for k, v in model.state_dict().items()} for c in (1, 2, 3)]
    >>> entk.trajectory_distances(model, states, torch.randn(4, 3)).abs().max().item()
    0.0
    """
    with peers_of(group) as peers:
        listed = hasattr(states, "__len__") and hasattr(
            states, "__getitem__"
        )  # may load when asked
        if not listed or isinstance(states, (Mapping, str)):
            raise InputError(f"states is {type(states).__name__}, expected a list of state dicts")
        if len(states) == 0:
            raise InputError("states is empty, expected at least one state dict")
        if scratch is not None and not as_path(scratch).is_dir():
            raise InputError(f"the folder scratch={str(scratch)!r} does not exist; create it first")
        if not isinstance(model, nn.Module):
            model, params = as_module(model, params, None)
        model = copied(model, {})
        _load(model, states[0], 0)
        target = prepare(model, x, z, outputs, params, select, strict)
        like, projections = target.like, check_sketch(sketch, seed)
        if peers.size > 1:
            request = identity(target, select, False, str(precision), projections)
            asked = {"memory": memory, "block": block, "backend": backend, "rates": rates}
            peers.agree(request | machine(like) | asked | {"number of states": len(states)})
        memory = peers.memory(like.device) if memory is None else memory
        options = {"memory": memory, "block": block, "backend": backend, "precision": precision}
        options |= {"rates": rates, "streamed": True, "sketch": projections}
        plan = peers.broadcast(make_plan(target, **options) if peers.rank == 0 else None)
        engine = Engine(target, replace(plan, device=str(like.device)), tick=peers.check)
        with (
            tempfile.TemporaryFile(dir=scratch) as file,
            Progress(progress, len(states), "states") as bar,
        ):
            try:
                parts = _compute(engine, states, file, peers, bar)
            except OSError as error:
                raise KernelFileError(
                    f"kernels of {len(states)} states, which are kept until they are compared, "
                    f"could not be written ({error}); name a folder with room in scratch="
                ) from error
            kernels = _mapped(file, plan.dtype, len(states))
            labels = [f"state {s}'s" for s in range(len(states))]
            return distances_of(lambda: _bands(kernels, plan, parts), labels, peers)


def _compute(
    engine: Engine, states: Sequence, file: IO[bytes], peers: Alone, bar: Progress
) -> dict[tuple[int, int], slice]:
    """This process's tiles of all states into the file; where in each state's part they lie."""
    plan, digests = engine.plan, {}
    mine = assign(plan, peers.size)[peers.rank]
    for s in range(len(states)):
        if s > 0:
            _load(engine.target.model, states[s], s)
        if peers.size > 1:
            digests[f"state {s}"] = sha256(state_of(engine.target.model))
        parts, end = {}, 0
        for i, j, tile in engine.tiles(mine):
            tile[WHOLE].cpu().numpy().tofile(file)
            start, end = end, end + tile[WHOLE].numel()
            parts[i, j] = slice(start, end)
            peers.check()
        bar.advance()
    file.flush()
    peers.agree(digests)
    return parts


def _mapped(file: IO[bytes], dtype: str, states: int) -> np.ndarray:
    """[states, entries]; none where there are more processes than tiles."""
    if file.tell() == 0:
        return np.empty((states, 0), dtype)
    return np.memmap(file, dtype, "r").reshape(states, -1)


def _load(model: nn.Module, state: Mapping[str, Tensor], s: int) -> None:
    try:
        model.load_state_dict(model.flat(state) if isinstance(model, Functional) else state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"state {s} does not fit the model: {reason:.300}") from error


def _bands(
    kernels: np.ndarray, plan: Plan, parts: dict[tuple[int, int], slice]
) -> Iterator[tuple[int, int, Iterator[Tensor]]]:
    """(number, weight, the same entries of all kernels [S, entries] in float64) of each tile."""
    step = max(1, PIECE // len(kernels))
    for number, (i, j) in enumerate(plan.tiles()):
        if (i, j) in parts:
            whole = kernels[:, parts[i, j]]
            pieces = (whole[:, at : at + step] for at in range(0, whole.shape[1], step))
            bands = (torch.from_numpy(piece.astype(np.float64)) for piece in pieces)
            yield number, plan.weight(i, j), bands
