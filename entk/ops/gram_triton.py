"""As `gram`, by one Triton kernel: out[b] += j[b] k[b]' for a batch of matrices.

"all" is one product with rows (n, o), "trace" and "sum" one over (o, i), "diagonal" O products.

Design: a program owns a SIDE x SIDE tile of out and walks the P entries in steps of DEPTH; nothing
is split along P and nothing is added atomically, so the bits depend on shapes, dtypes and precision
alone. `lower` launches the S (S + 1) / 2 tiles of the triangle, S = rows / SIDE. `scale` multiplies
the product of rows r and q by scale[r // group, q // group] (`pairs_gram` without positions).

Sums run over CHUNK entries at a time and are then added up: rounding in one chain would grow with
P, most of all with "tf32", where tensor cores accumulate and cut off. The precisions made of
several products add each DEPTH up on the ordinary cores, as Triton lowers them.

Counts, for R x Q outputs: R Q P multiply-adds (half with `lower`, plus the half tiles at the
diagonal); 2 R Q P / SIDE entries are read, mostly from the L2 cache, and R Q of out read and
written. One tile of 640 rows has 210 programs with SIDE = 32 and 55 with SIDE = 64: small kernels
leave a large GPU partly idle, which larger blocks of samples cure.

Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from entk.ops.triton_common import (
    check_launch,
    choose_tile,
    dot_precision,
    on_device,
    options,
    place,
)

CHUNK = 1024
# dtype: (SIDE, DEPTH, warps, stages), largest first; the first that makes FULL programs is taken.
# SIDE = 128 needs more registers than there are: 8 to 650 bytes a thread spill, by precision; a few
# do with SIDE = 64 and DEPTH = 32 where a factor is kept as several parts.
TILES = {
    torch.float32: ((64, 32, 4, 3), (32, 16, 4, 4)),
    torch.float64: ((64, 16, 8, 3), (32, 16, 4, 3)),
}
SEVERAL = ("tf32x3", "bf16x3", "bf16x6")


def gram_triton(
    j: Tensor, k: Tensor, out: Tensor, outputs: str, *, lower: bool = False, precision: str = "ieee"
) -> None:
    """As `gram`; `precision` is that of float32 products, sums are float32 (float64: float64)."""
    check_launch("gram", precision, j, k)
    _launch(j, k, out, outputs, lower, precision, None)


def scaled_gram(
    j: Tensor, k: Tensor, scale: Tensor, out: Tensor, outputs: str, lower: bool, precision: str
) -> None:
    """out += scale[n,m] times the product of rows j and k: `gram` with a factor per sample pair."""
    _launch(j, k, out, outputs, lower, precision, scale)


def _launch(j, k, out, outputs, lower, precision, scale) -> None:
    if out.numel() == 0 or j.shape[1] * j.shape[2] == 0:
        return
    group = 1
    j, k = j.resolve_neg(), k.resolve_neg()  # a kernel reads memory, where the sign is not yet
    if outputs == "diagonal":
        j, k = j.transpose(0, 1), k.transpose(0, 1)  # [O, N, P]
    elif outputs == "all":
        group = j.shape[1]
        j, k = j.flatten(0, 1)[None], k.flatten(0, 1)[None]
        out = out.view(1, j.shape[1], k.shape[1])
    else:
        j, k, out = j.flatten(1)[None], k.flatten(1)[None], out[None]
    batch, rows, length = j.shape
    columns = k.shape[1]
    tile, count = choose_tile(TILES[j.dtype], batch, rows, columns, lower)
    side, depth, warps, stages = tile
    if precision in SEVERAL:
        depth = 16
    scales = (out, 0, 0) if scale is None else (scale, *scale.stride())
    with on_device(out):
        gram_kernel[count, batch](
            *(j, k, out, *scales, rows, columns, length, group),
            *(*j.stride(), *k.stride(), *out.stride()),
            LOWER=lower,
            SCALED=scale is not None,
            EVEN=length % depth == 0,
            SIDE=side,
            DEPTH=depth,
            CHUNK=CHUNK,
            PRECISION=dot_precision(precision, j.dtype),
            **options(warps, stages),
        )


@triton.jit
def gram_kernel(
    j,  # [batch, rows, length]
    k,  # [batch, columns, length]
    out,  # [batch, rows, columns]
    scale,  # [rows / group, columns / group]
    scale_n,
    scale_m,
    rows,
    columns,
    length,
    group,
    j_b,
    j_r,
    j_p,
    k_b,
    k_r,
    k_p,
    out_b,
    out_r,
    out_c,
    LOWER: tl.constexpr,
    SCALED: tl.constexpr,
    EVEN: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of one matrix; offsets are int64, for a Jacobian has more than 2^31 entries."""
    row, column = place(tl.program_id(0), tl.cdiv(rows, SIDE), tl.cdiv(columns, SIDE), LOWER)
    batch = tl.program_id(1).to(tl.int64)
    r = row * SIDE + tl.arange(0, SIDE)
    q = column * SIDE + tl.arange(0, SIDE)
    # rows beyond the edge repeat earlier ones and are not stored: no mask along rows in the loop
    j += batch * j_b + (r % rows).to(tl.int64)[:, None] * j_r  # [SIDE, 1]
    k += batch * k_b + (q % columns).to(tl.int64)[None, :] * k_r  # [1, SIDE]
    total = tl.zeros((SIDE, SIDE), j.dtype.element_ty)
    for start in range(0, length, CHUNK):
        part = tl.zeros((SIDE, SIDE), j.dtype.element_ty)
        for p in range(start, tl.minimum(start + CHUNK, length), DEPTH):
            i = (p + tl.arange(0, DEPTH)).to(tl.int64)
            if EVEN:
                left = tl.load(j + i[None, :] * j_p)
                right = tl.load(k + i[:, None] * k_p)
            else:
                left = tl.load(j + i[None, :] * j_p, mask=i[None, :] < length, other=0.0)
                right = tl.load(k + i[:, None] * k_p, mask=i[:, None] < length, other=0.0)
            part = tl.dot(left, right, part, input_precision=PRECISION, out_dtype=part.dtype)
        total += part
    inside = (r < rows)[:, None] & (q < columns)[None, :]
    if SCALED:
        scale += (r // group).to(tl.int64)[:, None] * scale_n
        total *= tl.load(scale + (q // group).to(tl.int64)[None, :] * scale_m, inside, 0.0)
    out += batch * out_b + r.to(tl.int64)[:, None] * out_r + q.to(tl.int64)[None, :] * out_c
    tl.store(out, tl.load(out, inside) + total, inside)
