"""The Triton kernels against their PyTorch definitions, on the CPU's interpreter or on a GPU."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from entk.factors import Factors, kernel_shape
from entk.ops import products
from entk.ops.fused_gram_dot import fused_gram_dot
from entk.ops.gram import gram
from entk.ops.pairs_gram import pairs_gram
from tests import emulation, tolerance
from tests.poison import poisoned, reversed_axes, untouched

MODES = ("all", "diagonal", "trace")
LAYOUTS = {
    "dense": lambda t: t,
    "poisoned": lambda t: poisoned(t)[0],
    "reversed": reversed_axes,
    "negated": lambda t: torch.complex(t, -t).conj().imag,
}


def _defined(out: Tensor, outputs: str, lower: bool) -> Tensor:
    """The part that is defined."""
    if not lower:
        return out
    return (out.flatten(0, 1).flatten(1) if outputs == "all" else out).tril()


def _compare(run, define, emulated, start, outputs, lower, precision):
    """`run` adds to a poisoned copy of start what `define` does, as exactly as it may be asked."""
    plain, truth = start.clone(), start.to(torch.float64, copy=True)
    define(plain)
    define(truth)
    out, buffer = poisoned(start, (0,) if outputs == "all" else None)  # "all" has to have a view
    run(out)
    found, plain, truth = (_defined(t, outputs, lower) for t in (out, plain, truth))
    if start.dtype == torch.float64:
        assert tolerance.error(found, truth) <= tolerance.FLOAT64
    else:
        emulated = _defined(start + emulated, outputs, lower)
        assert tolerance.error(found, truth) <= emulation.limit(emulated, plain, truth, precision)
    assert untouched(out, buffer)


def check_gram(
    size: tuple[int, int, int, int],
    outputs: str,
    lower: bool,
    dtype=torch.float32,
    layout: str = "dense",
    precision: str = "ieee",
    device: str = "cpu",
) -> None:
    n, m, o, p = size
    j = torch.randn(n, o, p, dtype=dtype, device=device)
    k = j if lower else torch.randn(m, o, p, dtype=dtype, device=device)
    start = torch.randn(kernel_shape(n, len(k), o, outputs), dtype=dtype, device=device)
    left = LAYOUTS[layout](j)
    right = left if lower else LAYOUTS[layout](k)
    _compare(
        lambda out: products("triton", precision)[0](left, right, out, outputs, lower=lower),
        lambda out: gram(j.to(out.dtype), k.to(out.dtype), out, outputs),
        emulation.gram(j, k, outputs, precision),
        *(start, outputs, lower, precision),
    )


class Size(NamedTuple):
    n: int = 3
    m: int = 2
    o: int = 2
    groups: int = 1
    c: int = 3
    k: int = 5
    t: int = 6
    s: int = 6


SIZES = {
    "plain": Size(),
    "one of each": Size(1, 1, 1, 1, 1, 1, 2, 2),
    "one position": Size(t=1, s=1),
    "one position, groups": Size(groups=3, t=1, s=1),
    "one against several": Size(t=1, s=5),
    "two lengths": Size(t=19, s=4),
    "groups": Size(groups=3),
    "depthwise": Size(groups=4, c=1, k=9),
    "one output": Size(o=1),
    "whole tiles": Size(n=2, m=1, o=16, c=2, k=16, t=16, s=16),
    "tiles of positions": Size(n=2, t=70, s=70, c=2),
    "tiles of outputs": Size(n=2, m=1, o=35, c=2),
    "tiles of channels": Size(c=21, k=37),
}


def factors(n, o, groups, c, k, t, dtype=torch.float32, tokens=False, device="cpu") -> Factors:
    """Random ones; tokens from -1, which is none, to 2."""
    if tokens:
        a = torch.randint(-1, 3, (n, t), device=device)
    else:
        a = torch.randn(n, groups, k, t, dtype=dtype, device=device)
    return Factors(a, torch.randn(n, o, groups, c, t, dtype=dtype, device=device))


def _cast(f: Factors, dtype) -> Factors:
    return Factors(f.a if f.is_tokens else f.a.to(dtype), f.g.to(dtype))


def check_pairs_gram(
    size: Size,
    outputs: str,
    lower: bool = False,
    dtype=torch.float32,
    tokens: bool = False,
    layout: str = "dense",
    precision: str = "ieee",
    device: str = "cpu",
) -> None:
    if lower:
        size = size._replace(m=size.n, s=size.t)
    n, m, o, groups, c, k, t, s = size
    x = factors(n, o, groups, c, k, t, dtype, tokens, device)
    z = x if lower else factors(m, o, groups, c, k, s, dtype, tokens, device)
    start = torch.randn(kernel_shape(n, m, o, outputs), dtype=dtype, device=device)
    left, right = (Factors(*map(LAYOUTS[layout], f)) for f in (x, z))
    _compare(
        lambda out: products("triton", precision)[1](left, right, out, outputs, lower=lower),
        lambda out: pairs_gram(_cast(x, out.dtype), _cast(z, out.dtype), out, outputs),
        emulation.pairs_gram(x, z, outputs, precision),
        *(start, outputs, lower, precision),
    )


def check_fused_gram_dot(
    size: tuple[int, int, int, tuple[int, ...]],
    outputs: str,
    lower: bool,
    dtype=torch.float32,
    layout: str = "dense",
    precision: str = "ieee",
    device: str = "cpu",
) -> None:
    """Against float64; layers of the given lengths in one model, the first of them in the other."""
    n, m, o, lengths = size
    new = partial(torch.randn, dtype=dtype, device=device)
    j = [new(n, o, p) for p in lengths]
    k = j if lower else [new(m, o, p) for p in lengths]
    one = [*zip(j, k, strict=True)]
    starts = [new(kernel_shape(n, len(k[0]), o, outputs)) for _ in range(2)]
    if lower:
        starts = [_symmetric(start, outputs) for start in starts]
    view = LAYOUTS[layout]
    given = [(view(a), view(b)) for a, b in one]
    run = products("triton", precision).fused_gram_dot
    found = run(given, given[:1], [view(s) for s in starts], outputs, lower=lower)
    exact = [(a.double(), b.double()) for a, b in one]
    wide = [s.double() for s in starts]
    cross, left, right = fused_gram_dot(exact, exact[:1], wide, outputs, lower=lower).tolist()
    # an entry of a kernel is off by its own rounding, at most P u sum |j k|, and so are the sums
    unit = torch.finfo(dtype).eps * (sum(lengths) * o + 8)
    for value, truth, scale in zip(
        found.tolist(), (cross, left, right), ((left * right) ** 0.5, left, right), strict=True
    ):
        assert abs(value - truth) <= 4 * unit * scale


def _symmetric(t: Tensor, outputs: str) -> Tensor:
    return t + (t.permute(2, 3, 0, 1) if outputs == "all" else t.mT)
