"""As `pairs_gram`, by Triton kernels that fuse the positions.

Design: a program owns one pair of samples (n, m) and up to OUT outputs (of each). It walks the
T x S positions in tiles of SIDE x SIDE; a tile of A[t,s] = sum_k a[k,t] b[k,s] is made once per
program, stays on chip, and meets every channel there. Sums over groups and positions stay in
registers, so neither J nor A nor A applied to g is ever in global memory, and no sum is split or
atomic: the bits depend on shapes, dtypes and precision alone.

    "all" (`apply_kernel`)      for each c: (g[o,c,t] A[t,s]) h[q,c,s], two products in a row
    others (`weigh_kernel`)     sum over t, s of A[t,s] (g' h)[t,s]; "trace" and "sum" contract
                                (o, c) in one go, "diagonal" does so for each o
    T = S = 1                   two plain products, multiplied: `scaled_gram`. Their [N, M] part
                                does go through global memory, O^2 times smaller than out
    O = 1                       "all" is "trace"

Counts per pair and group, in multiply-adds, T and S rounded up to tiles and O to OUT (half the
pairs with `lower`), R = ceil(O / OUT):

    "all"       R^2 T S K + R T S C O + T S C O O / SIDE. The last is S C O^2 in the definition:
                h meets each tile of t anew, because [o,c,s] of all channels would not fit on chip
    "diagonal"  R T S K + T S C O            "trace", "sum"  T S K + T S C O
    reads       2 T S (K + C O) / SIDE elements, R times those of a and b: mostly from the L2 cache,
                since each sample is read by up to N + M programs. Writes: out alone.

Weak where T is far below 16, which it is rounded up to, and where O is large. With "tf32" tensor
cores add up over all of K, or all channels, and cut off as they do.

Not yet measured on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from entk.factors import Factors
from entk.ops.gram_triton import gram_triton, scaled_gram
from entk.ops.triton_common import (
    block,
    check_launch,
    dot_precision,
    on_device,
    options,
    place,
    programs,
)

STEP = 16  # entries of K, or channels, per product
OUT = 32  # most outputs that a program owns
# kernel: most positions on a side of A; larger ones spill registers, and so do more stages
SIDES = {"apply": 32, "weigh": 64}
# (SIDE, OUT) or SIDE: warps
WARPS = {(16, 16): 1, (16, 32): 2, (32, 16): 4, (32, 32): 8, 16: 1, 32: 4, 64: 8}


def pairs_gram_triton(
    x: Factors,
    z: Factors,
    out: Tensor,
    outputs: str,
    *,
    lower: bool = False,
    precision: str = "ieee",
) -> None:
    """As `pairs_gram`; `precision` is that of float32 products, sums are float32."""
    x, z = (Factors(f.a.resolve_neg(), f.g.resolve_neg()) for f in (x, z))
    floats = (x.g, z.g) if x.is_tokens else (x.a, x.g, z.a, z.g)
    check_launch("pairs_gram", precision, *floats)
    if out.numel() == 0 or x.g.numel() == 0 or z.g.numel() == 0:
        return
    if x.g.shape[-1] == z.g.shape[-1] == 1:
        for group in range(x.g.shape[2]):
            scale = _input_gram(x, z, group, lower, precision)
            g, h = x.g[:, :, group, :, 0], z.g[:, :, group, :, 0]
            scaled_gram(g, h, scale, out, outputs, lower, precision)
    elif outputs == "all" and x.g.shape[1] == 1:
        _launch(x, z, out[:, 0, :, 0], "trace", lower, precision)
    else:
        _launch(x, z, out, outputs, lower, precision)


def _input_gram(x: Factors, z: Factors, group: int, lower: bool, precision: str) -> Tensor:
    """A[n,m] of samples with one position."""
    if x.is_tokens:
        return ((x.a == z.a.mT) & (x.a >= 0)).to(x.g.dtype)
    scale = x.g.new_zeros(len(x.a), len(z.a))
    a, b = x.a[:, None, group, :, 0], z.a[:, None, group, :, 0]
    gram_triton(a, b, scale, "trace", lower=lower, precision=precision)
    return scale


def _launch(x: Factors, z: Factors, out: Tensor, outputs: str, lower: bool, precision: str) -> None:
    a, b = (f.a[:, None, None].int() if f.is_tokens else f.a for f in (x, z))
    (n, o, groups, c, t), (m, *_, s) = x.g.shape, z.g.shape
    wide = max(map(_extent, (a, b, x.g, z.g))) >= 2**31
    factors = (a, x.g, b, z.g, out, n, m, groups, c, a.shape[2], t, s, o)
    strides = (*a.stride(), *x.g.stride(), *b.stride(), *z.g.stride())
    side = block(max(t, s), 16, SIDES["apply" if outputs == "all" else "weigh"])
    tile = {"SIDE": side, "STEP": STEP, "LOWER": lower, "TOKENS": x.is_tokens}
    tile |= {"PRECISION": dot_precision(precision, x.g.dtype)}
    tile |= {"INDEX": tl.int64 if wide else tl.int32}
    pairs = programs(n, m, lower)
    with on_device(out):
        if outputs == "all":
            spills = x.is_tokens and precision == "bf16x6"  # 32 of them, by 8 bytes
            own = block(o, 16, OUT // 2 if spills else OUT)
            grid = (pairs, triton.cdiv(o, own), triton.cdiv(o, own))
            tile |= {"OUT": own, **options(WARPS[side, own], 1)}
            apply_kernel[grid](*factors, *strides, *out.stride(), **tile)
        else:
            inner = 1 if outputs == "diagonal" else o  # outputs summed together with the channels
            own = block(o // inner, 1, OUT)
            places = out.stride() if outputs == "diagonal" else (0, *out.stride())
            tile |= {"OUT": own, **options(WARPS[side], 1)}
            grid = (pairs, triton.cdiv(o // inner, own))
            weigh_kernel[grid](*factors, inner, *strides, *places, **tile)


def _extent(t: Tensor) -> int:
    """Entries from the first to the last of one sample."""
    return 1 + sum((t.shape[i] - 1) * t.stride(i) for i in range(1, t.dim()))


@triton.jit
def input_tile(
    a, b, a_k, a_t, b_k, b_s, first_t, first_s, K, T, S,
    TOKENS: tl.constexpr, SIDE: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
    TYPE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """A[t,s] = sum_k a[k,t] b[k,s], zero outside; for tokens, whether they are the same one."""
    t = first_t + tl.arange(0, SIDE).to(INDEX)
    s = first_s + tl.arange(0, SIDE).to(INDEX)
    left = a + tl.minimum(t, T - 1)[:, None] * a_t
    right = b + tl.minimum(s, S - 1)[None, :] * b_s
    if TOKENS:
        token = tl.load(left)
        made = ((token == tl.load(right)) & (token >= 0)).to(TYPE)
    else:
        made = tl.zeros((SIDE, SIDE), TYPE)
        for first_k in range(0, K, STEP):
            k = first_k + tl.arange(0, STEP).to(INDEX)
            made = tl.dot(
                tl.load(left + k[None, :] * a_k, (k < K)[None, :], 0.0),
                tl.load(right + k[:, None] * b_k, (k < K)[:, None], 0.0),
                made,
                input_precision=PRECISION,
                out_dtype=TYPE,
            )
    return tl.where((t < T)[:, None] & (s < S)[None, :], made, 0.0)


@triton.jit
def apply_kernel(
    a, g, b, h, out, N, M, G, C, K, T, S, O,
    a_n, a_g, a_k, a_t, g_n, g_o, g_g, g_c, g_t, b_m, b_g, b_k, b_s, h_m, h_q, h_g, h_c, h_s,
    out_n, out_o, out_m, out_q,
    LOWER: tl.constexpr, TOKENS: tl.constexpr, SIDE: tl.constexpr, OUT: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """out[n,o,m,q] of one pair: sum over c of (g_c A) h_c', [OUT, SIDE] times [SIDE, OUT]."""
    n, m = place(tl.program_id(0), N, M, LOWER)
    a += n.to(tl.int64) * a_n
    g += n.to(tl.int64) * g_n
    b += m.to(tl.int64) * b_m
    h += m.to(tl.int64) * h_m
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    q = tl.program_id(2) * OUT + tl.arange(0, OUT)
    row = g + tl.minimum(o, O - 1).to(INDEX)[:, None] * g_o
    column = h + tl.minimum(q, O - 1).to(INDEX)[None, :] * h_q
    total = tl.zeros((OUT, OUT), g.dtype.element_ty)
    for _group in range(G):
        for first_t in range(0, T, SIDE):
            t = tl.minimum(first_t + tl.arange(0, SIDE), T - 1).to(INDEX)
            for first_s in range(0, S, SIDE):
                s = tl.minimum(first_s + tl.arange(0, SIDE), S - 1).to(INDEX)
                inputs = input_tile(
                    a, b, a_k, a_t, b_k, b_s, first_t, first_s, K, T, S,
                    TOKENS, SIDE, STEP, PRECISION, total.dtype, INDEX,
                )  # fmt: skip
                left = row + t[None, :] * g_t
                right = column + s[:, None] * h_s
                for _c in range(C):
                    moved = tl.dot(
                        tl.load(left), inputs, input_precision=PRECISION, out_dtype=total.dtype
                    )
                    total = tl.dot(
                        moved,
                        tl.load(right),
                        total,
                        input_precision=PRECISION,
                        out_dtype=total.dtype,
                    )
                    left += g_c
                    right += h_c
        a += a_g
        b += b_g
        row += g_g
        column += h_g
    out += n.to(tl.int64) * out_n + m.to(tl.int64) * out_m
    out += o.to(tl.int64)[:, None] * out_o + q.to(tl.int64)[None, :] * out_q
    inside = (o < O)[:, None] & (q < O)[None, :]
    tl.store(out, tl.load(out, inside) + total, inside)


@triton.jit
def weigh_kernel(
    a, g, b, h, out, N, M, G, C, K, T, S, O, inner,
    a_n, a_g, a_k, a_t, g_n, g_o, g_g, g_c, g_t, b_m, b_g, b_k, b_s, h_m, h_q, h_g, h_c, h_s,
    out_o, out_n, out_m,
    LOWER: tl.constexpr, TOKENS: tl.constexpr, SIDE: tl.constexpr, OUT: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """out[n,m] or out[o,n,m] of one pair: sum over (t, s) of A[t,s] (g' h)[t,s]."""
    n, m = place(tl.program_id(0), N, M, LOWER)
    a += n.to(tl.int64) * a_n
    g += n.to(tl.int64) * g_n
    b += m.to(tl.int64) * b_m
    h += m.to(tl.int64) * h_m
    first_o = tl.program_id(1) * OUT
    last_o = tl.minimum(first_o + OUT, O // inner)
    own = first_o + tl.arange(0, OUT)
    total = tl.zeros((OUT,), g.dtype.element_ty)
    for _group in range(G):
        for first_t in range(0, T, SIDE):
            t = tl.minimum(first_t + tl.arange(0, SIDE), T - 1).to(INDEX)
            for first_s in range(0, S, SIDE):
                s = tl.minimum(first_s + tl.arange(0, SIDE), S - 1).to(INDEX)
                inputs = input_tile(
                    a, b, a_k, a_t, b_k, b_s, first_t, first_s, K, T, S,
                    TOKENS, SIDE, STEP, PRECISION, total.dtype, INDEX,
                )  # fmt: skip
                for o in range(first_o, last_o):
                    grads = tl.zeros((SIDE, SIDE), total.dtype)
                    for start in range(0, inner * C, STEP):
                        i = start + tl.arange(0, STEP)  # (o, c), c fastest
                        valid = i < inner * C
                        i_o = (o + i // C).to(INDEX)
                        i_c = (i % C).to(INDEX)
                        left = g + (i_o * g_o + i_c * g_c)[None, :] + t[:, None] * g_t
                        right = h + (i_o * h_q + i_c * h_c)[:, None] + s[None, :] * h_s
                        grads = tl.dot(
                            tl.load(left, valid[None, :], 0.0),
                            tl.load(right, valid[:, None], 0.0),
                            grads,
                            input_precision=PRECISION,
                            out_dtype=total.dtype,
                        )
                    total += tl.where(own == o, tl.sum(inputs * grads), 0.0)
        a += a_g
        g += g_g
        b += b_g
        h += h_g
    out += n.to(tl.int64) * out_n + m.to(tl.int64) * out_m + own.to(tl.int64) * out_o
    tl.store(out, tl.load(out, own < last_o) + total, own < last_o)
