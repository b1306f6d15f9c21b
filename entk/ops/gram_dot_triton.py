"""As `gram_dot_torch`, in two passes of a Triton kernel each.

Design: up to PROGRAMS programs walk the matrices in tiles, program i those numbered i, i + PROGRAMS
and so on, with three float64 sums per place of the tile; each adds its own up in a fixed tree and
writes three partial sums. One more program adds the partial sums. No atomics: the bits depend on
shape and strides alone. Dense matrices are one long row; others keep rows and columns, since an
index per entry would have to be divided.

Counts: R C entries of each matrix are read once (the PyTorch definition reads or writes about
eight times as much: two float64 copies, three products, three sums), 3 R C float64 multiply-adds.
GPUs with few float64 units are bound by those, not by memory.

Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from entk.ops.triton_common import on_device, options

PROGRAMS = 1024
TILES = {True: (1, 2048), False: (16, 128)}  # whether both matrices are dense: tile


def gram_dot_triton(a: Tensor, b: Tensor) -> Tensor:
    """As `gram_dot_torch`, for two matrices of one shape and dtype, float32 or float64."""
    out = a.new_zeros(3, dtype=torch.float64)
    if a.numel() == 0:
        return out
    dense = a.is_contiguous() and b.is_contiguous()
    if dense:
        a, b = a.view(1, -1), b.view(1, -1)
    rows, columns = a.shape
    high, wide = TILES[dense]
    tiles = triton.cdiv(rows, high) * triton.cdiv(columns, wide)
    count = min(tiles, PROGRAMS)
    parts = out.new_empty(3, count)
    with on_device(a):
        partial_kernel[count,](
            *(a, b, parts, rows, columns, tiles, *a.stride(), *b.stride()),
            HIGH=high,
            WIDE=wide,
            **options(4, 1),
        )
        total_kernel[1,](parts, out, count, SIZE=PROGRAMS, **options(4, 1))
    return out


@triton.jit
def partial_kernel(
    a, b, parts, rows, columns, tiles, a_r, a_c, b_r, b_c, HIGH: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """parts[:,i] = the three sums over every count-th tile, from tile i on."""
    first = tl.program_id(0)
    count = tl.num_programs(0)
    across = tl.cdiv(columns, WIDE)
    cross = tl.zeros((HIGH, WIDE), tl.float64)
    left = tl.zeros((HIGH, WIDE), tl.float64)
    right = tl.zeros((HIGH, WIDE), tl.float64)
    for tile in range(first, tiles, count):
        r = (tile // across * HIGH + tl.arange(0, HIGH)).to(tl.int64)[:, None]
        # a dense matrix is one row, whose length may exceed 2^31
        c = (tile % across).to(tl.int64) * WIDE + tl.arange(0, WIDE)[None, :]
        inside = (r < rows) & (c < columns)
        x = tl.load(a + r * a_r + c * a_c, inside, 0.0).to(tl.float64)
        y = tl.load(b + r * b_r + c * b_c, inside, 0.0).to(tl.float64)
        cross += x * y
        left += x * x
        right += y * y
    tl.store(parts + first, tl.sum(cross))
    tl.store(parts + count + first, tl.sum(left))
    tl.store(parts + 2 * count + first, tl.sum(right))


@triton.jit
def total_kernel(parts, out, count, SIZE: tl.constexpr):
    """out[k] = the sum of parts[k]."""
    i = tl.arange(0, SIZE)
    for k in tl.static_range(3):
        tl.store(out + k, tl.sum(tl.load(parts + k * count + i, i < count, 0.0)))
