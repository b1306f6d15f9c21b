"""What the Triton kernels share: checks before a launch, tile tables, the triangle of tiles.

Imported by the `*_triton` modules only, so that `import entk` needs no triton. With
TRITON_INTERPRET=1 in the environment before triton is imported, the same kernels run on CPU
tensors, one program after the other in NumPy; there `precision` changes nothing.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from entk.errors import BackendUnavailableError, InputError
from entk.ops import PRECISIONS, why_not_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FULL = 128  # programs below which smaller tiles are taken: about the multiprocessors of a large GPU


def check_launch(operation: str, precision: str, *tensors: Tensor) -> None:
    """Raise unless the tensors are of one dtype and device that Triton serves."""
    if precision not in PRECISIONS["triton"]:
        raise InputError(f"precision={precision!r}, expected one of {PRECISIONS['triton']}")
    devices, dtypes = ({getattr(t, what) for t in tensors} for what in ("device", "dtype"))
    if len(devices) > 1 or len(dtypes) > 1:
        raise InputError(
            f"{operation} got tensors on {sorted(map(str, devices))} of "
            f"{sorted(map(str, dtypes))}, expected one device and one dtype"
        )
    reason = why_not_triton(tensors[0].device, tensors[0].dtype)
    if reason:
        raise BackendUnavailableError(f"backend='triton' cannot serve {operation}: {reason}")


def on_device(t: Tensor) -> torch.cuda.device:
    """Launches go to the tensor's device; -1 (no change) for a CPU tensor in the interpreter."""
    return torch.cuda.device(t.device if t.is_cuda else -1)


def dot_precision(precision: str, dtype: torch.dtype) -> str:
    """float64 products are IEEE whatever is asked for float32 ones, and so is the interpreter."""
    return "ieee" if dtype == torch.float64 or INTERPRETED else precision


def options(warps: int, stages: int) -> dict[str, int | bool]:
    """Launch options: all registers may be used, or ptxas spills some to fit more programs."""
    return {
        "num_warps": warps,
        "num_stages": stages,
        "maxnreg": min(255, 65536 // (32 * warps)),
        "enable_fp_fusion": True,
    }


def block(size: int, least: int, most: int) -> int:
    """The power of two that holds `size`, within bounds."""
    return min(max(triton.next_power_of_2(size), least), most)


def programs(rows: int, columns: int, lower: bool) -> int:
    """Tiles of a rectangle, or of the lower triangle of a square with its diagonal."""
    return rows * (rows + 1) // 2 if lower else rows * columns


def choose_tile(tiles: tuple, batch: int, rows: int, columns: int, lower: bool) -> tuple:
    """(tile, its programs): the first of the table that makes FULL programs, or the last."""
    for tile in tiles:
        count = programs(triton.cdiv(rows, tile[0]), triton.cdiv(columns, tile[0]), lower)
        if batch * count >= FULL:
            break
    return tile, count


@triton.jit
def place(program, rows, columns, LOWER: tl.constexpr):
    """(row, column) of a tile, in integers.

    Lower triangle: the long row half + y and the short row half - 1 - y lie side by side in row y
    of a rectangle that is 2 half + 1 wide, half = rows // 2, so a division finds the place.
    """
    if LOWER:
        half = rows // 2
        width = 2 * half + 1
        y = program // width
        x = program % width
        row = half + y
        short = x > row
        column = tl.where(short, x - row - 1, x)
        row = tl.where(short, half - 1 - y, row)
    else:
        row = program // columns
        column = program % columns
    return row, column
