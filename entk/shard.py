"""Reading one shard of an unfinished kernel: only what belongs to it, and only if it is whole."""

from __future__ import annotations

from pathlib import Path

import h5py

from entk.errors import KernelFileError
from entk.factors import kernel_shape
from entk.hdf5 import Form, attribute, check_seal, datasets, reading
from entk.plan import Plan
from entk.sketch import ERROR

BELONGS = "request"  # attribute of a shard: SHA-256 of the request and the plan


def readable_tiles(shard: Path, plan: Plan, belongs: str) -> list[tuple[int, int]]:
    """The tiles of a shard, read through their checksums; any other file is removed.

    Raises KernelFileError: it could not be read for another reason than what is in it.
    """
    tiles = {f"{i:06d}-{j:06d}": (i, j) for i, j in plan.tiles()}

    def form(name: str) -> Form | None:
        tile, _, group = name.partition("/")
        if group == ERROR:
            return (2,), "float64"
        return (_tile_shape(plan, *tiles[tile]), plan.dtype) if tile in tiles else None

    try:
        with reading(shard):
            if not shard.is_file():  # a pipe would block
                raise ValueError("it is no regular file")
            with h5py.File(shard, "r") as file:
                if attribute(file, BELONGS) != belongs:
                    raise ValueError("it belongs to another kernel")
                found = datasets(file, form)
                check_seal(file, found)
                for part in found.values():
                    part[()]
                return [tiles[key] for key in file]
    except KernelFileError as error:
        if _passing(error.__cause__):
            raise
        shard.unlink()  # its tiles are computed again
        return []


def _passing(error: BaseException | None) -> bool:
    """Whether it says nothing of the file: no memory, no permission, too many files, ..."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) is not None


def _tile_shape(plan: Plan, i: int, j: int) -> tuple[int, ...]:
    rows, columns = plan.span(i), plan.span(j, axis=1)
    o = 1 if plan.outputs in ("trace", "sum") else plan.shape[plan.outputs == "all"]
    return kernel_shape(rows.stop - rows.start, columns.stop - columns.start, o, plan.outputs)
