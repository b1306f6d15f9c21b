"""An unfinished kernel on disk: immutable shards of finished tiles, and joining them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np
import torch
from torch import Tensor

from entk.assemble import WHOLE, Tile
from entk.errors import KernelFileError, LockedError, ResumeError
from entk.factors import transposed
from entk.fields import loads
from entk.hdf5 import reading, write_attribute, write_seal
from entk.identity import differing, provenance
from entk.lock import exclusive
from entk.plan import Plan
from entk.shard import BELONGS, readable_tiles
from entk.sketch import ERROR, relative_error
from entk.store import (
    BAND,
    FORMAT,
    KernelFile,
    block_indices,
    created,
    flat_shape,
    parts_folder,
    publish,
)

SHARD_SECONDS = 20.0  # a kill loses at most this much work
SHARD_BYTES = 64 << 20
OPEN = 64  # shards that a join has open at once
CHUNK = 1024  # rows and columns of an HDF5 chunk, at most
WHOLE_NAME = "kernel"  # in a shard, beside the names of layers


@dataclass
class Shards:
    """The unfinished kernel: a request, a plan, and files with the tiles that are done.

    Shards are written by a thread of its own, one at a time, while the next tiles are computed.
    """

    path: Path
    request: dict
    done: dict[tuple[int, int], Path] = field(default_factory=dict)
    waiting: dict[tuple[int, int], Tile] = field(default_factory=dict)
    waiting_bytes: int = 0
    since: float = 0.0
    copied: torch.cuda.Event | None = None  # the waiting tiles have come from the GPU
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "entk-shards"))
    writing: Future | None = None
    belongs: str = ""  # of a shard that may be gone on with
    mark: str = field(default_factory=lambda: uuid4().hex[:8])  # names of shards are this writer's

    @property
    def folder(self) -> Path:
        return parts_folder(self.path)

    def finished(self) -> bool:
        """Whether the file is already there; then what an interruption left behind goes."""
        if not self.path.exists():
            return False
        with KernelFile(self.path) as file:
            self._check(file.provenance["request"], f"{self.path} holds")
        if self.folder.exists():
            with suppress(LockedError, OSError), exclusive(self.folder):
                self.clear()
        return True

    def clear(self) -> None:
        """Remove shards and, last, the request that they belong to; the lock stays."""
        for pattern in ("*.tmp", "shard-*.h5", "request.json"):
            for file in self.folder.glob(pattern):
                file.unlink()

    def begun(self) -> Plan | None:
        """The plan that an earlier call started with."""
        manifest = self.folder / "request.json"
        if not manifest.exists():
            return None
        with reading(manifest, "pass resume=False to start over"):
            begun = loads(manifest.read_text())
            if begun["sha256"] != _digest(begun):
                raise ValueError("its checksum is wrong")
            plan = Plan.from_json(begun["plan"])
        self._check(begun["request"], f"{self.folder} began")
        self.belongs = begun["sha256"]
        return plan

    def begin(self, plan: Plan) -> None:
        """Record the request in the folder, or find the tiles that are done in it."""
        begun = self.begun()
        if begun is not None and not begun.same_bits(plan):
            raise ResumeError(
                f"{self.folder} began with another plan; leave plan= out to go on with that one, "
                "or pass resume=False to start over"
            )
        with _disk(self.folder):
            if begun is None:
                record = {"request": self.request, "plan": plan.to_json()}
                self.belongs = record["sha256"] = _digest(record)
                temporary = self.folder / "request.json.tmp"
                temporary.write_text(json.dumps(record, indent=1))
                publish(temporary, self.folder / "request.json")
            for stale in self.folder.glob("*.tmp"):
                stale.unlink()
            for shard in sorted(self.folder.glob("shard-*.h5")):
                self.done |= dict.fromkeys(readable_tiles(shard, plan, self.belongs), shard)
        self.since = time.monotonic()

    def join(self, done: dict[tuple[int, int], Path]) -> None:
        """Work beside the process that has begun it."""
        if self.begun() is None:
            raise KernelFileError(
                f"{self.folder}, which rank 0 made, is not there on another rank; pass a path that "
                "all ranks share"
            )
        self.done = done
        self.since = time.monotonic()

    def _check(self, other: dict, where: str) -> None:
        differs = differing(self.request, other)
        if differs:
            raise ResumeError(
                f"{where} another request: {', '.join(differs)} differ; pass another path, or "
                "resume=False to replace it"
            )

    def add(self, i: int, j: int, tile: Tile) -> None:
        self.waiting[i, j] = {group: _to_host(part) for group, part in tile.items()}
        device = next(iter(tile.values())).device
        if device.type == "cuda":
            self.copied = torch.cuda.current_stream(device).record_event()
        self.waiting_bytes += sum(part.numel() * part.element_size() for part in tile.values())
        if self.waiting_bytes > SHARD_BYTES or time.monotonic() - self.since > SHARD_SECONDS:
            self.flush()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind, *_) -> None:
        """What has been computed goes to the disk, also when an error ends the work."""
        try:
            with suppress(KernelFileError) if kind else nullcontext():
                self.flush()
                self.settle()
        finally:
            self.writer.shutdown()

    def flush(self) -> None:
        """Hand the waiting tiles to the writer, once it has finished with the ones before."""
        self.settle()
        if self.waiting:
            self.writing = self.writer.submit(self._write, self.waiting, self.copied)
            self.waiting, self.waiting_bytes, self.since = {}, 0, time.monotonic()

    def settle(self) -> None:
        """Wait for the writer; what went wrong there is raised here."""
        writing, self.writing = self.writing, None
        if writing is not None:
            self.done |= writing.result()

    def _write(self, tiles: dict, copied: torch.cuda.Event | None) -> dict[tuple[int, int], Path]:
        """Write tiles as one shard: temporary file, fsync, verify, rename, fsync."""
        if copied is not None:
            copied.synchronize()
        first = min(tiles)
        shard = self.folder / f"shard-{first[0]:06d}-{first[1]:06d}-{self.mark}.h5"
        temporary = shard.with_suffix(".h5.tmp")
        with _disk(self.folder):
            with created(temporary) as file:
                write_attribute(file, BELONGS, self.belongs)
                for (i, j), tile in tiles.items():
                    for group, part in tile.items():
                        name = f"{i:06d}-{j:06d}/{group or WHOLE_NAME}"
                        file.create_dataset(name, data=part.numpy(), chunks=True, fletcher32=True)
                write_seal(file, temporary)
            _verify(temporary, tiles)
            publish(temporary, shard)
        return dict.fromkeys(tiles, shard)

    def finish(self, plan: Plan, groups: list[str]) -> None:
        """Join the shards into the one file, in the plan's order, and remove them."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        layers = [group for group in groups if group != WHOLE]
        names = ["kernel", *(f"layers/{layer}" for layer in layers)]
        opened = lru_cache(OPEN)(lambda shard: h5py.File(shard, "r"))  # closed once let go of
        with _disk(self.folder):
            with created(temporary) as file:
                write_attribute(file, "format", FORMAT)
                write_attribute(file, "plan", plan.to_json())
                about = json.dumps(provenance(self.request, plan, layers))
                write_attribute(file, "provenance", about)
                into = {name: _create(file, name, plan) for name in names}
                error = torch.zeros(2, dtype=torch.float64, device="cpu")
                for i, j in plan.tiles():
                    tile = opened(self.done[i, j])[f"{i:06d}-{j:06d}"]
                    _join(into, tile, plan, i, j, layers)
                    if plan.sketch is not None:
                        error += plan.weight(i, j) * torch.from_numpy(tile[ERROR][()])
                if plan.sketch is not None:
                    file.attrs["sketch_error"] = relative_error(error)
                write_seal(file, temporary)
            with KernelFile(temporary) as whole:  # a damaged chunk fails its checksum here
                for name in names:
                    for index in block_indices(whole.shape, whole.chunks, BAND):
                        whole.part(name, index)
            publish(temporary, self.path)
        with suppress(OSError):  # the next call clears what is left
            self.clear()


def _to_host(part: Tensor) -> Tensor:
    """On the CPU, or on its way there: the GPU goes on with the next tile."""
    if part.device.type != "cuda":
        return part.cpu()
    host = torch.empty(part.shape, dtype=part.dtype, device="cpu", pin_memory=True)
    return host.copy_(part, non_blocking=True)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """What the operating system refuses becomes one error that says what is kept."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5 could not close a file
        raise KernelFileError(
            f"writing beside {folder} failed ({error}); finished shards are kept there: free space "
            "or repair the disk and call write_ntk again"
        ) from error


def _digest(record: dict) -> str:
    text = json.dumps([record["request"], record["plan"]])
    return hashlib.sha256(text.encode()).hexdigest()


def _verify(shard: Path, tiles: dict[tuple[int, int], Tile]) -> None:
    with h5py.File(shard, "r") as file:
        for (i, j), tile in tiles.items():
            for group, part in tile.items():
                written = file[f"{i:06d}-{j:06d}/{group or WHOLE_NAME}"][()]
                if not np.array_equal(written, part.numpy(), equal_nan=True):
                    raise OSError(f"{shard} does not read back as it was written")


def _flat(plan: Plan, part: np.ndarray) -> np.ndarray:
    """A tile as it lies in the file: [n*O, m*O] for "all"."""
    return part.reshape(part.shape[0] * part.shape[1], -1) if plan.outputs == "all" else part


def _create(file: h5py.File, name: str, plan: Plan) -> h5py.Dataset:
    shape, o = flat_shape(plan), plan.shape[1] if plan.outputs == "all" else 1
    side = min(plan.block * o, CHUNK)
    chunks = (*(1,) * (len(shape) - 2), min(side, shape[-2]), min(side, shape[-1]))
    return file.create_dataset(name, shape, plan.dtype, chunks=chunks, fletcher32=True)


def _join(
    into: dict[str, h5py.Dataset], tile: h5py.Group, plan: Plan, i: int, j: int, layers: list[str]
) -> None:
    """Copy one tile, and its mirror image, into the finished datasets."""
    o = plan.shape[1] if plan.outputs == "all" else 1
    rows, columns = (slice(s.start * o, s.stop * o) for s in (plan.span(i), plan.span(j, axis=1)))
    parts = {f"layers/{layer}": tile[layer][()] for layer in layers}
    parts["kernel"] = sum(parts.values()) if layers else tile[WHOLE_NAME][()]
    for name, part in parts.items():
        into[name][..., rows, columns] = _flat(plan, part)
        if plan.symmetric and i != j:
            other = transposed(torch.from_numpy(part), plan.outputs).contiguous().numpy()
            into[name][..., columns, rows] = _flat(plan, other)
