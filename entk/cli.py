"""The command line: `entk write`, `plan`, `distance` and `show`; `write` also under torchrun."""

from __future__ import annotations

import csv
import errno
import importlib
import importlib.util
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import Tensor, nn

from entk.distance import kernel_distance_matrix
from entk.errors import EntkError, InputError
from entk.kernel import plan_ntk
from entk.spectrum import spectrum
from entk.store import KernelFile, open_kernel, publish
from entk.write import write_ntk

# no permission, no space, a file where a directory should be: the user's to put right
DISK = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENOENT)
DISK += (errno.EIO, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EPERM)
TABLES = (".csv", ".npy")
OWN = {"path", "group", "resume", "progress"}  # arguments of write_ntk that are set here
HEAD = 5  # eigenvalues that are shown

Function = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py:FUNCTION|MODULE:FUNCTION")
]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.h5")]
Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="A.h5 B.h5")]
Flag = tyro.conf.FlagCreatePairsOff


@dataclass(frozen=True, kw_only=True)
class _Options:
    outputs: str | None = None
    """all, diagonal, trace or sum; if left out that of the function, or all."""
    by_layer: Flag[bool] = False
    """A kernel of each layer beside that of all."""
    memory: str | None = None
    """Budget of each process, as 2GB; half of what is free if left out."""
    precision: str | None = None
    """Of float32 products: ieee, or with --backend triton tf32, bf16x3, tf32x3 or bf16x6."""
    backend: str | None = None
    """auto, torch, native or triton; if left out that of the function, or auto."""
    sketch: int | None = None
    """Random projections of an estimate; exact if left out."""
    seed: int | None = None
    """Of the projections; if left out that of the function, or 0."""
    strict: Flag[bool] = False
    """Refuse parameters that no rule serves."""

    def given(self) -> dict:
        found = {f.name: getattr(self, f.name) for f in fields(_Options)}
        return {
            name: value for name, value in found.items() if value is not None and value is not False
        }


@dataclass(frozen=True)
class Write(_Options):
    """Compute a kernel into a file; what an interrupted call has done is not computed again."""

    out: Out
    """The file."""
    function: Function
    """Without arguments; gives (model, x), (model, x, z) or a dict of arguments of write_ntk."""
    no_resume: Flag[bool] = False
    """Start over, whatever is there."""


@dataclass(frozen=True)
class Plan(_Options):
    """How a kernel would be computed and what that costs."""

    function: Function
    """As for write."""


@dataclass(frozen=True)
class Distance:
    """Distances between kernels in files, as a table."""

    kernels: Files
    """Files of write."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where the distances go with all digits: .csv or .npy."""


@dataclass(frozen=True)
class Show:
    """What a file holds."""

    kernel: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """A file of write."""
    spectrum: Flag[bool] = False
    """Also its largest eigenvalues."""


Command = Write | Plan | Distance | Show


def main(arguments: list[str] | None = None) -> None:
    """Exit status 0: done; 2: the user's to put right, one line on stderr; 130: interrupted."""
    description = "Empirical neural tangent kernels in files."
    work = {Write: _write, Plan: _plan, Distance: _distance, Show: _show}
    try:
        with _printing():
            command = tyro.cli(Command, prog="entk", description=description, args=arguments)
            work[type(command)](command)
    except (EntkError, OSError) as error:
        if not isinstance(error, EntkError) and error.errno not in DISK:
            raise
        print(f"entk: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("entk: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def _printing() -> Iterator[None]:
    """What cannot be printed is an error here, not one that Python only mentions at its end."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it is tried again
            if error.errno == errno.EPIPE:  # who reads it has seen enough
                raise SystemExit(141) from None
            raise OSError(error.errno, error.strerror, "standard output") from None


def _write(command: Write) -> None:
    ranks, local = (_number(name) for name in ("WORLD_SIZE", "LOCAL_RANK"))
    made = _made(command, local)
    group = None
    if ranks > 1:
        cuda = _device(made["model"]).type == "cuda"
        try:
            dist.init_process_group("nccl" if cuda else "gloo")
        except ValueError as error:
            raise InputError(f"WORLD_SIZE is {ranks}, but {error}; start with torchrun") from None
        group = "world"
    try:
        resume = not command.no_resume
        with write_ntk(command.out, **made, group=group, resume=resume, progress=True) as file:
            if not ranks > 1 or dist.get_rank() == 0:
                print(f"{command.out}: {list(file.shape)} {file.dtype}".replace("torch.", ""))
    finally:
        if group is not None:
            dist.destroy_process_group()


def _number(name: str) -> int:
    """Of the environment, as torchrun sets it."""
    text = os.environ.get(name, "0")
    if not text.isdecimal():
        raise InputError(f"the environment has {name}={text!r}, expected a number as of torchrun")
    return int(text)


def _plan(command: Plan) -> None:
    taken = inspect.signature(plan_ntk).parameters
    print(plan_ntk(**{k: v for k, v in _made(command, 0).items() if k in taken}))


def _distance(command: Distance) -> None:
    if command.out is not None and command.out.suffix not in TABLES:
        raise InputError(f"--out {command.out}: expected a name that ends in .csv or .npy")
    found = kernel_distance_matrix(command.kernels)
    width = max(len(str(path)) for path in command.kernels)
    for path, row in zip(command.kernels, found.tolist(), strict=True):
        print(f"{path!s:<{width}}  " + "  ".join(f"{value:9.3e}" for value in row))
    if command.out is None:
        return
    table = io.BytesIO()
    if command.out.suffix == ".npy":
        np.save(table, found.numpy())
    else:
        writer = csv.writer(io.TextIOWrapper(table, write_through=True), lineterminator="\n")
        writer.writerow(["", *command.kernels])
        rows = zip(command.kernels, found.tolist(), strict=True)
        writer.writerows([path, *row] for path, row in rows)
    temporary = command.out.with_name(f".{command.out.name}.tmp")
    try:
        temporary.write_bytes(table.getvalue())
        publish(temporary, command.out)
    finally:
        temporary.unlink(missing_ok=True)


def _show(command: Show) -> None:
    with open_kernel(command.kernel) as file:
        told = file.provenance
        request = told["request"]
        lines = {
            "kernel": f"{list(told['shape'])} {told['dtype']}, outputs={told['outputs']!r}",
            "model": f"{request['model']}, {len(request['parameters'])} parameter tensors",
            "layers": ", ".join(file.layers) or "not apart",
            "made by": f"{told['backend']} ({told['precision']}) on {told['device']}, "
            f"{told['threads']} threads",
            "versions": ", ".join(f"{k} {v}" for k, v in told["versions"].items()),
        }
        if file.sketch_error is not None:
            lines["sketch"] = f"{request['sketch']} projections, error {file.sketch_error:.2g}"
        lines |= {k: request[k] for k in ("state_sha256", "x_sha256", "z_sha256") if request[k]}
        if command.spectrum:
            lines["largest eigenvalues"] = _head(file)
    for name, text in lines.items():
        print(f"{name + ':':<21}{text}")


def _head(file: KernelFile) -> str:
    count = min(HEAD, file.shape[-1])
    values = spectrum(file, k=count)
    rows = values.tolist() if values.dim() > 1 else [values.tolist()]
    return "; ".join(", ".join(f"{value:.4g}" for value in row) for row in rows)


def _made(command: Write | Plan, local: int) -> dict[str, Any]:
    """Arguments from the user's function, and the options over them where they were given."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    made = _function(command.function)()
    if isinstance(made, tuple) and len(made) in (2, 3):
        made = dict(zip(("model", "x", "z"), made, strict=False))
    if not isinstance(made, dict) or not {"model", "x"} <= made.keys():
        raise InputError(
            f"{command.function} gave {type(made).__name__}, expected (model, x), (model, x, z) or "
            "a dict with model and x"
        )
    unknown = made.keys() - (inspect.signature(write_ntk).parameters.keys() - OWN)
    if unknown:
        first = min(unknown, key=str)
        raise InputError(f"{command.function} gave {first!r}, which entk does not take")
    return made | command.given()


def _function(name: str) -> Callable:
    """From a file or an importable module."""
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise InputError(f"{name!r}, expected FILE.py:FUNCTION or MODULE:FUNCTION")
    sys.path.insert(0, str(Path(where).parent if where.endswith(".py") else Path.cwd()))
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise InputError(f"there is no file {where}; check the path")
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    elif where.startswith("."):
        raise InputError(f"{where} is relative to no package; name the module in full")
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise InputError(f"there is no module {where} ({error}); check the name") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"{where} has no function {attribute}; check the name")
    return function


def _device(model: Any) -> torch.device:
    tensors = model.parameters() if isinstance(model, nn.Module) else ()
    first: Tensor | None = next(iter(tensors), None)
    return torch.device("cpu") if first is None else first.device
