"""`write_ntk`: a kernel streamed to disk in immutable shards, resumable after any interruption."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike

import torch.distributed as dist
from torch import nn

from entk.assemble import Engine, layer_name
from entk.distribute import assign
from entk.errors import InputError, ResumeError
from entk.identity import identity, machine
from entk.inputs import as_path, check_flags
from entk.kernel import copies
from entk.lock import exclusive
from entk.models import Params
from entk.ops import choose_backend
from entk.peers import Alone, peers_of
from entk.plan import Plan
from entk.precision import check_precision
from entk.progress import Progress
from entk.rates import Rates
from entk.request import Target, check_plan, fitted, make_plan, prepare
from entk.samples import Input, Select
from entk.shards import Shards
from entk.sketch import check_sketch
from entk.store import KernelFile


def write_ntk(
    path: str | PathLike,
    model: nn.Module | Callable,
    x: Input,
    z: Input | None = None,
    *,
    outputs: str = "all",
    params: Params = None,
    select: Select | None = None,
    strict: bool = False,
    by_layer: bool = False,
    precision: str | None = None,
    memory: int | str | None = None,
    plan: Plan | None = None,
    backend: str = "auto",
    rates: Rates | str | None = None,
    sketch: int | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = False,
    resume: bool = True,
    group: dist.ProcessGroup | str | None = None,
) -> KernelFile:
    """Compute the kernel of `ntk` into the HDF5 file `path` and open it.

    Tiles go to shards in `<path>.parts/`, each complete or absent. Called again after a kill,
    it computes only what is missing, by the plan it started with, and the file comes out bit for
    bit as if nothing had happened (same machine, same number of threads). The file appears under
    its name only when whole; if it is there already, it is opened and nothing is computed.
    `memory` need not hold the kernel. Other arguments as for `ntk`; layout as in `KernelFile`,
    whose `sketch_error` is the measured error of a sketch.

    With a `group` of torch.distributed ("world": all processes) each of its ranks makes the same
    call, all into one shared folder, computes its part of the tiles (`entk.distribute`) into shards
    of its own, and rank 0 joins them: the same file, bit for bit, for any number of ranks, also if
    an earlier call had another number. `memory` is then that of each process; None shares out what
    a host has free.

    Raises:
        ResumeError: `path` holds or began another request (other data or options, or another
            model: by its tensors, and its outputs and gradients on a few samples). `resume=False`
            starts over and replaces it.
        LockedError: another process is at it.
        KernelFileError: the disk refused; finished shards are kept. And what `ntk` raises.
        DistributedError: a rank failed, died or fell silent; finished shards are kept.

    >>> import tempfile, torch, entk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with entk.write_ntk(f"{folder}/k.h5", torch.nn.Linear(3, 2), torch.ones(4, 3)) as file:
    ...         file.shape
    (8, 8)
    """
    with peers_of(group) as peers, ExitStack() as stack:
        path = as_path(path)
        check_flags(by_layer=by_layer, resume=resume)
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} does not exist; create it first")
        if path.is_dir():
            raise InputError(f"path={str(path)!r} is a folder; name a file in it")
        target = prepare(model, x, z, outputs, params, select, strict)
        like, projections = target.like, check_sketch(sketch, seed)
        if plan is not None:
            check_plan(plan, target, precision, backend, memory, projections)
            precision, projections = plan.precision, plan.sketch
        else:
            chosen = choose_backend(backend, like.device, like.dtype)
            precision = check_precision(precision, chosen, like.dtype)
        if by_layer:
            _check_layers({layer_name(name) for name in target.names})
        request = identity(target, select, by_layer, precision, projections)
        brought = plan and replace(plan.bits, device=like.device.type)
        asked = {"resume": resume, "plan": brought, "memory": memory, "backend": backend}
        peers.agree(request | machine(like) | asked | {"rates": rates})
        if memory is None and plan is None:
            memory = peers.memory(like.device)
        options = {"memory": memory, "backend": backend, "precision": precision, "rates": rates}
        options |= {"copies": copies(target, by_layer), "streamed": True, "sketch": projections}
        store = Shards(path, request)
        if peers.rank == 0 and not (resume and store.finished()):
            stack.enter_context(exclusive(store.folder))
            plan = _begin(store, resume, plan, target, options)
        elif peers.rank == 0:
            plan = None
        plan, done = peers.broadcast((plan, store.done))
        if plan is not None:
            plan = replace(plan, device=str(like.device))
            here = plan if brought else fitted(plan, target, memory, options["copies"])
            engine = Engine(target, here, by_layer, tick=peers.check)
            _work(store, plan, engine, done, peers, progress)
            peers.broadcast("joined")
        return KernelFile(path)


def _check_layers(layers: set[str]) -> None:
    """Each becomes a dataset, and those with a slash in their names lie in groups of HDF5."""
    for layer in sorted(layers):
        parts = layer.split("/")
        above = {"/".join(parts[:i]) for i in range(1, len(parts))}
        if above & layers or {"", "."} & set(parts) or "\0" in layer:
            raise InputError(
                f"layer {layer!r:.80} cannot be a dataset of its own in HDF5, where slashes part "
                "groups; rename it, or leave by_layer out"
            )


def _begin(
    store: Shards, resume: bool, plan: Plan | None, target: Target, options: dict
) -> Plan | None:
    """The plan to go on with, and in `store` what is done by it; None: the file is there."""
    backend = options["backend"]
    if not resume:
        store.clear()
    elif store.finished():
        return None
    if plan is None:
        plan = store.begun()
        if plan is None:
            plan = make_plan(target, **options)
        else:
            _check_begun(plan, target, store)
        if backend not in ("auto", plan.backend):
            raise ResumeError(
                f"{store.folder} began with backend={plan.backend!r}, not {backend!r}; leave "
                "backend= out to go on, or pass resume=False to start over"
            )
    store.begin(plan)
    return plan


def _check_begun(plan: Plan, target: Target, store: Shards) -> None:
    """Whoever wrote that plan."""
    try:
        check_plan(plan, target)
    except InputError as error:
        raise ResumeError(
            f"{store.folder} began with a plan that does not fit ({error}); pass resume=False to "
            "start over"
        ) from error


def _work(
    store: Shards, plan: Plan, engine: Engine, done: dict, peers: Alone, progress: bool | Callable
) -> None:
    """This process's share of the tiles; rank 0 joins them all."""
    if peers.rank != 0:
        store.join(done)
        progress = False if progress is True else progress
    missing = assign(engine.plan, peers.size, done)[peers.rank]
    with store, Progress(progress, len(done) + len(missing), "write_ntk") as bar:
        bar.advance(len(done))
        for i, j, tile in engine.tiles(missing, pause=store.flush):
            store.add(i, j, tile)
            bar.advance()
            peers.check()
    every = peers.gather({tile: store.done[tile].name for tile in missing})
    if every is not None:
        for own in every:
            store.done |= {tile: store.folder / name for tile, name in own.items()}
        with ThreadPoolExecutor(1, "entk-join") as apart:  # where no Ctrl-C comes into HDF5
            apart.submit(int).result()  # an interrupt as a thread begins would leave it behind
            apart.submit(store.finish, plan, engine.groups).result()
