"""Finished kernels on disk: plain HDF5 with everything needed to know what they are."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from entk.errors import InputError, KernelFileError
from entk.factors import NTK
from entk.fields import loads
from entk.hdf5 import LIBRARY, attribute, check_seal, datasets, reading
from entk.inputs import as_path
from entk.lock import sync_folder
from entk.plan import Plan

FORMAT = "entk-kernel-2"  # 1: without a seal
BAND = 1 << 22  # entries that are read at once, about


def open_kernel(path: str | PathLike) -> KernelFile:
    """Open a kernel that `write_ntk` finished; nothing is read yet but its shape.

    Raises:
        KernelFileError: there is no file, it is not a kernel of entk's, or it is not finished.

    >>> import tempfile, torch, entk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     entk.write_ntk(f"{folder}/k.h5", torch.nn.Linear(3, 2), torch.randn(4, 3)).close()
    ...     entk.open_kernel(f"{folder}/k.h5")[:2].shape
    torch.Size([2, 8])
    """
    return KernelFile(path)


class KernelFile:
    """A kernel on disk, read in parts; also a context manager.

    Dataset `kernel`: [N*O, M*O] for outputs "all", [O, N, M] for "diagonal", else [N, M]; with
    by_layer also `layers/<name>` of the same shape. The HDF5 attributes are the provenance.
    `path`, `shape` and `dtype` are those of the file; `file[i0:i1, j0:j1]` reads that part as a
    tensor. A file that turns out to be damaged raises KernelFileError.
    """

    def __init__(self, path: str | PathLike):
        self.path = as_path(path)
        if self.path.is_dir():
            raise KernelFileError(f"no kernel at {self.path}, which is a folder; check the path")
        if not self.path.is_file():
            unfinished = parts_folder(self.path).is_dir()
            hint = "call write_ntk again to finish it" if unfinished else "check the path"
            raise KernelFileError(f"no kernel at {self.path}; {hint}")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise KernelFileError(
                f"{self.path} is not readable HDF5 ({error!s:.200}); write it again"
            ) from error
        try:
            with reading(self.path):
                self._check()
        except BaseException:
            self._file.close()
            raise
        self.shape: tuple[int, ...] = self._file["kernel"].shape
        self.dtype: torch.dtype = getattr(torch, str(self._file["kernel"].dtype))

    def _check(self) -> None:
        """Everything in the file but the numbers: it is as it was written, and of our making."""
        found = attribute(self._file, "format")
        if found != FORMAT:
            raise KernelFileError(
                f"{self.path} has format {found!r:.40}, expected {FORMAT!r}: not a kernel of "
                "entk's, or of another version; write it again"
            )
        self._plan = Plan.from_json(attribute(self._file, "plan"))
        self._provenance = loads(attribute(self._file, "provenance"))
        form = (flat_shape(self._plan), self._plan.dtype)
        wanted = dict.fromkeys(("kernel", *(f"layers/{name}" for name in self.layers)), form)
        inside = datasets(self._file, wanted.get)
        if inside.keys() != wanted.keys():
            raise ValueError(f"no dataset {min(wanted.keys() - inside.keys())!r:.80}")
        check_seal(self._file, inside)

    @property
    def plan(self) -> Plan:
        """The plan by which it was computed."""
        return self._plan

    @property
    def provenance(self) -> dict:
        """Shapes, outputs, parameters, hashes and versions, as they were when it was written."""
        return self._provenance

    @property
    def sketch_error(self) -> float | None:
        """Of a kernel written with sketch=, the relative error that is expected of it, as
        `entk.sketch_error` has it; None: the kernel is exact."""
        return attribute(self._opened, "sketch_error")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the per-layer kernels, if it was written with by_layer=True."""
        return tuple(self.provenance["layers"])

    def layer(self, name: str) -> NTK:
        """The whole kernel of one layer, in the shape of the file's."""
        if name not in self.layers:
            raise KernelFileError(f"{self.path} has no layer {name!r}, only {self.layers}")
        return self.part(f"layers/{name}", ())

    def __getitem__(self, index) -> Float[Tensor, "..."]:
        """A part of the kernel, by slices or numbers as HDF5 takes them, on the CPU."""
        return self.part("kernel", index)

    def part(self, dataset: str, index) -> Float[Tensor, "..."]:
        """The same of any dataset: "kernel", or "layers/<name>"."""
        opened = self._opened
        try:
            return torch.from_numpy(np.asarray(opened[dataset][index]))
        except (OSError, RuntimeError) as error:
            raise KernelFileError(
                f"{self.path} is damaged ({error!s:.200}); delete it and write it again"
            ) from error
        except (ValueError, TypeError) as error:
            raise InputError(
                f"index {index!r:.80} does not fit the kernel's shape {self.shape} ({error!s:.100})"
            ) from error

    def blocks(self) -> Iterator[tuple[tuple[slice, ...], Float[Tensor, "..."]]]:
        """(index, part) over the whole kernel, each part of the file read once."""
        for index in block_indices(self.shape, self.chunks, BAND):
            yield index, self[index]

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what lies together in the file; less than a chunk cannot be read."""
        return self._opened["kernel"].chunks or (1,) * (len(self.shape) - 1) + self.shape[-1:]

    @property
    def _opened(self) -> h5py.File:
        if not self._file:
            raise InputError(f"{self.path} has been closed; open it again with open_kernel")
        return self._file

    def close(self) -> None:
        """Let go of the file; `with` does it too."""
        with suppress(RuntimeError):  # the disk's refusal; of a file that was read nothing is lost
            self._file.close()

    def __enter__(self) -> KernelFile:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"KernelFile({str(self.path)!r}, shape={self.shape}, dtype={self.dtype})"


def block_indices(
    shape: tuple[int, ...], chunks: tuple[int, ...], entries: int
) -> Iterator[tuple[slice, ...]]:
    """Blocks of whole chunks that cover the shape: one at least, else about `entries`."""
    *lead, height, width = shape
    high, wide = chunks[-2:]
    wide = min(width, max(1, entries // (high * wide)) * wide)
    high = min(height, max(1, entries // (high * wide)) * high)
    for o in range(lead[0] if lead else 1):
        for i in range(0, height, high):
            for j in range(0, width, wide):
                index = (slice(i, min(i + high, height)), slice(j, min(j + wide, width)))
                yield (slice(o, o + 1), *index) if lead else index


def flat_shape(plan: Plan) -> tuple[int, ...]:
    """Of the datasets: [N*O, M*O] for "all"."""
    if plan.outputs != "all":
        return plan.shape
    n, o, m, q = plan.shape
    return (n * o, m * q)


def parts_folder(path: Path) -> Path:
    """Where the shards of an unfinished kernel lie."""
    return path.with_name(path.name + ".parts")


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file. What the disk refuses is raised at the end, as the OSError that it was.

    HDF5 itself is not told: when a write fails as it closes a file, it ends the process with a
    segmentation fault or keeps the file open (HDF5 2.0, found by tests/torture).
    """
    with path.open("w+b", buffering=0) as raw:
        disk = _Disk(raw)
        try:
            with h5py.File(disk, "w", libver=LIBRARY) as file:
                yield file
        except OSError as error:
            raise disk.error or error from None
        if disk.error is not None:
            raise disk.error


class _Disk(io.RawIOBase):
    """A file for HDF5 on which every write succeeds; `error` is the first that did not."""

    def __init__(self, raw: io.FileIO):
        self.raw = raw
        self.error: OSError | None = None

    def write(self, data) -> int:
        left = memoryview(data).cast("B")
        while left and self.error is None:
            left = left[self._tried(self.raw.write, left) or len(left) :]
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        return self._tried(self.raw.truncate, size) or 0

    def _tried(self, call: Callable, argument: Any) -> int | None:
        try:
            return call(argument)
        except OSError as error:
            self.error = self.error or error
            return None

    def readinto(self, buffer) -> int:
        return self.raw.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()


def publish(temporary: Path, final: Path) -> None:
    """Make a closed file appear under its name, whole or not at all, and survive a crash."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(final)
    sync_folder(final.parent)
