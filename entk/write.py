"""`write_ntk`: a kernel streamed to disk in immutable shards, resumable after any interruption."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from os import PathLike

import torch
from torch import Tensor, nn

from entk.assemble import Engine
from entk.errors import InputError, ResumeError
from entk.inputs import as_path, check_flags
from entk.kernel import copies
from entk.models import Params, describe, inner
from entk.ops import choose_backend
from entk.plan import Plan
from entk.precision import check_precision
from entk.progress import Progress
from entk.rates import Rates
from entk.request import Target, check_plan, make_plan, prepare
from entk.samples import Input, Select, named_tensors
from entk.shards import Shards
from entk.sketch import Sketch, check_sketch
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
) -> KernelFile:
    """Compute the kernel of `ntk` into the HDF5 file `path` and open it.

    Tiles go to shards in `<path>.parts/`, each complete or absent. Called again after a kill,
    it computes only what is missing, by the plan it started with, and the file comes out bit for
    bit as if nothing had happened (same machine, same number of threads). The file appears under
    its name only when whole; if it is there already, it is opened and nothing is computed.
    `memory` need not hold the kernel. Other arguments as for `ntk`; layout as in `KernelFile`,
    whose `sketch_error` is the measured error of a sketch.

    Raises:
        ResumeError: `path` holds or began another request (other model, data or options).
            `resume=False` starts over and replaces it.
        KernelFileError: the disk refused; finished shards are kept. And what `ntk` raises.

    >>> import tempfile, torch, entk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with entk.write_ntk(f"{folder}/k.h5", torch.nn.Linear(3, 2), torch.ones(4, 3)) as file:
    ...         file.shape
    (8, 8)
    """
    path = as_path(path)
    check_flags(by_layer=by_layer, resume=resume)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise InputError(f"path={str(path)!r} is a folder; name a file in it")
    target = prepare(model, x, z, outputs, params, select, strict)
    projections = check_sketch(sketch, seed)
    if plan is not None:
        check_plan(plan, target, precision, backend, memory, projections)
        precision, projections = plan.precision, plan.sketch
    else:
        like = target.like
        precision = check_precision(
            precision, choose_backend(backend, like.device, like.dtype), like.dtype
        )
    request = _request(target, select, by_layer, precision, projections)
    store = Shards(path, request)
    if not resume:
        shutil.rmtree(store.folder, ignore_errors=True)
    elif store.finished():
        return KernelFile(path)
    if plan is None:
        options = {"memory": memory, "backend": backend, "precision": precision, "rates": rates}
        options |= {"copies": copies(target, by_layer), "streamed": True, "sketch": projections}
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
    engine = Engine(target, plan, by_layer)
    missing = [tile for tile in plan.tiles() if tile not in store.done]
    with store, Progress(progress, len(list(plan.tiles())), "write_ntk") as bar:
        bar.advance(len(store.done))
        for i, j, tile in engine.tiles(missing, pause=store.flush):
            store.add(i, j, tile)
            bar.advance()
    store.finish(plan, engine.groups)
    return KernelFile(path)


def _check_begun(plan: Plan, target: Target, store: Shards) -> None:
    """Whoever wrote that plan."""
    try:
        check_plan(plan, target)
    except InputError as error:
        raise ResumeError(
            f"{store.folder} began with a plan that does not fit ({error}); pass resume=False to "
            "start over"
        ) from error


def _request(
    target: Target,
    select: Select | None,
    by_layer: bool,
    precision: str,
    sketch: Sketch | None,
) -> dict:
    """What identifies a kernel: the same request gives the same numbers."""
    model, x, z = target.model, target.x, target.z
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    request = {
        "model": _name(inner(model)),
        "state_sha256": _sha256(state),
        "x_sha256": _sha256(named_tensors(x, "x")),
        "z_sha256": None if z is None else _sha256(named_tensors(z, "z")),
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
        request["arguments"] = repr(others)
    return request


def _name(model: nn.Module | Callable) -> str:
    return (type(model) if isinstance(model, nn.Module) else model).__qualname__


def _sha256(tensors: dict[str, Tensor]) -> str:
    """Over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
