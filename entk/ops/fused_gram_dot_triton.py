"""As `fused_gram_dot`, by one Triton kernel: neither of the two kernels is ever in memory.

Design: a program makes one SIDE x SIDE tile of A and the same tile of B, in registers, and writes
three float64 sums; one more program adds those up in a fixed tree. The layers of a model come as a
table of pointers, so that their rows need not lie side by side. Tiles, sums and `lower` are those
of `gram`: below the diagonal a product counts twice.

Counts, for R x Q outputs: R Q P multiply-adds for each model, as `gram`, and R Q of each start
read. What is spared against `gram` and `gram_dot` is 3 R Q of each kernel written and read: a share
of 1.5 SIDE / P of the traffic, so it counts for small models and narrow layers only.

Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from entk.ops.fused_gram_dot import Rows
from entk.ops.gram_dot_triton import total_kernel
from entk.ops.gram_triton import CHUNK
from entk.ops.triton_common import (
    check_launch,
    choose_tile,
    dot_precision,
    on_device,
    options,
    place,
)

# as in gram_triton; with two tiles to hold, four warps or a DEPTH of 32 would spill
TILES = {
    torch.float32: ((64, 16, 8, 3), (32, 16, 4, 4)),
    torch.float64: ((64, 16, 8, 3), (32, 16, 4, 3)),
}
ENTRY = 5  # numbers of a layer in the table
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def fused_gram_dot_triton(
    one: Rows,
    two: Rows,
    starts: tuple[Tensor, Tensor],
    outputs: str,
    *,
    lower: bool = False,
    precision: str = "ieee",
) -> Tensor:
    """As `fused_gram_dot`; `precision` is that of float32 products."""
    check_launch("fused_gram_dot", precision, *starts, *(t for p in (*one, *two) for t in p))
    a, b = (_matrices(start, outputs) for start in starts)
    batch, rows, columns = a.shape
    out = a.new_zeros(3, dtype=torch.float64)
    if a.numel() == 0:
        return out
    tile, count = choose_tile(TILES[a.dtype], batch, rows, columns, lower)
    side, depth, warps, stages = tile
    tables, kept = zip(*(_table(each, outputs, a.device) for each in (one, two)), strict=True)
    parts = out.new_empty(3, batch * count)
    with on_device(a):
        pair_kernel[count, batch](
            *(*tables, len(one), len(two), a, b, parts, rows, columns, batch * count),
            *(*a.stride(), *b.stride()),
            LOWER=lower,
            DTYPE=TYPES[a.dtype],
            SIDE=side,
            DEPTH=depth,
            CHUNK=CHUNK,
            PRECISION=dot_precision(precision, a.dtype),
            ENTRY=ENTRY,
            **options(warps, stages),
        )
        size = triton.next_power_of_2(batch * count)
        total_kernel[1,](parts, out, batch * count, SIZE=size, **options(4, 1))
    del kept  # the table holds their addresses only
    return out


def _matrices(t: Tensor, outputs: str) -> Tensor:
    """A tile as [batch, rows, columns]."""
    t = t.resolve_neg()
    if outputs == "all":
        n, o, m, q = t.shape
        return t.reshape(1, n * o, m * q)
    return t if outputs == "diagonal" else t[None]


def _table(layers: Rows, outputs: str, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """(of each layer two addresses, length, strides of row and batch; what they point to)."""
    found, kept = [], []
    for pair in layers:
        j, k = (t.resolve_neg().contiguous() for t in pair)
        kept += [j, k]
        o, p = j.shape[1:]
        # rows are (n, o) for "all", n with all outputs for "trace", n of one output for "diagonal"
        length = o * p if outputs in ("trace", "sum") else p
        row = p if outputs == "all" else o * p
        found.append([j.data_ptr(), k.data_ptr(), length, row, p])
    entries = torch.tensor(found, dtype=torch.int64).reshape(-1, ENTRY)
    return entries.to(device), kept


@triton.jit
def pair_kernel(
    one,  # [layers, ENTRY]
    two,
    count_one,
    count_two,
    a,  # [batch, rows, columns]
    b,
    parts,  # [3, programs]
    rows,
    columns,
    total,
    a_b,
    a_r,
    a_c,
    b_b,
    b_r,
    b_c,
    LOWER: tl.constexpr,
    DTYPE: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    ENTRY: tl.constexpr,
):
    """The three sums over one tile of both kernels."""
    row, column = place(tl.program_id(0), tl.cdiv(rows, SIDE), tl.cdiv(columns, SIDE), LOWER)
    batch = tl.program_id(1).to(tl.int64)
    r = row * SIDE + tl.arange(0, SIDE)
    q = column * SIDE + tl.arange(0, SIDE)
    inside = (r < rows)[:, None] & (q < columns)[None, :]
    if LOWER:
        inside &= r[:, None] >= q[None, :]
    # rows beyond the edge repeat earlier ones and weigh nothing
    left = (r % rows).to(tl.int64)
    right = (q % columns).to(tl.int64)
    x = _product(one, count_one, batch, left, right, DTYPE, SIDE, DEPTH, CHUNK, PRECISION, ENTRY)
    y = _product(two, count_two, batch, left, right, DTYPE, SIDE, DEPTH, CHUNK, PRECISION, ENTRY)
    at = left[:, None] * a_r + right[None, :] * a_c
    x += tl.load(a + batch * a_b + at, inside, 0.0)
    at = left[:, None] * b_r + right[None, :] * b_c
    y += tl.load(b + batch * b_b + at, inside, 0.0)
    weight = tl.where(inside, 1.0, 0.0).to(tl.float64)
    if LOWER:
        weight = tl.where(r[:, None] > q[None, :], 2 * weight, weight)
    x = tl.where(inside, x, 0.0).to(tl.float64)
    y = tl.where(inside, y, 0.0).to(tl.float64)
    parts += tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(parts, tl.sum(weight * x * y))
    tl.store(parts + total, tl.sum(weight * x * x))
    tl.store(parts + 2 * total, tl.sum(weight * y * y))


@triton.jit
def _product(
    table,
    layers,
    batch,
    r,
    q,
    DTYPE: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    ENTRY: tl.constexpr,
):
    """The tile of sum over layers of J K', sums of CHUNK entries at a time."""
    total = tl.zeros((SIDE, SIDE), DTYPE)
    for _ in range(layers):
        j = tl.load(table).to(tl.pointer_type(DTYPE))
        k = tl.load(table + 1).to(tl.pointer_type(DTYPE))
        length = tl.load(table + 2)
        stride, apart = tl.load(table + 3), tl.load(table + 4)
        j += batch * apart + r[:, None] * stride
        k += batch * apart + q[None, :] * stride
        for start in range(0, length, CHUNK):
            part = tl.zeros((SIDE, SIDE), DTYPE)
            for p in range(start, tl.minimum(start + CHUNK, length), DEPTH):
                i = p + tl.arange(0, DEPTH)
                left = tl.load(j + i[None, :], mask=i[None, :] < length, other=0.0)
                right = tl.load(k + i[:, None], mask=i[:, None] < length, other=0.0)
                part = tl.dot(left, right, part, input_precision=PRECISION, out_dtype=part.dtype)
            total += part
        table += ENTRY
    return total
