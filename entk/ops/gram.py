"""`gram`: the rows strategy, a product of explicit Jacobians."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from entk.factors import NTK, Factors

LONG = 1 << 16  # entries in one sum: BLAS adds its blocks up in a chain, whose rounding grows
STRIP = 256  # rows of the lower triangle done at once: 640 x 640 then costs 68 % of the square


def gram(
    j: Float[Tensor, "N O P"],
    k: Float[Tensor, "M O P"],
    out: NTK,
    outputs: str,
    *,
    lower: bool = False,
    accumulate: Callable[[Tensor, Tensor, Tensor, bool], None] | None = None,
) -> None:
    """out += the product of rows j [N,O,P] and k [M,O,P] in an output mode.

        "all"       out[n,o,m,q] += sum_i j[n,o,i] k[m,q,i]
        "diagonal"  out[o,n,m]   += sum_i j[n,o,i] k[m,o,i]
        "trace"     out[n,m]     += sum_{o,i} j[n,o,i] k[m,o,i]      ("sum" is the same with O = 1)

    `lower=True` (k is j) leaves the part above the diagonal undefined. `accumulate` adds the
    product of two matrices.
    """
    accumulate = accumulate or _accumulate
    if outputs == "diagonal":
        for o in range(j.shape[1]):
            accumulate(j[:, o], k[:, o], out[o], lower)
    elif outputs == "all":
        n, o, m, _ = out.shape
        accumulate(j.flatten(0, 1), k.flatten(0, 1), out.view(n * o, m * o), lower)
    else:
        accumulate(j.flatten(1), k.flatten(1), out, lower)


def fused_gram(x: Factors, z: Factors, out: Tensor, outputs: str, *, lower: bool = False) -> None:
    """`gram` of the rows of both; a backend may form them a part at a time and keep none."""
    j = x.rows()
    gram(j, j if z is x else z.rows(), out, outputs, lower=lower)


def _accumulate(j: Tensor, k: Tensor, out: Tensor, lower: bool) -> None:
    """out += j k', in strips that end at the diagonal when only the lower triangle is needed."""
    for p in range(0, j.shape[1], LONG):
        left, right = j[:, p : p + LONG], k[:, p : p + LONG]
        if not lower:
            out.addmm_(left, right.mT)
            continue
        for start in range(0, len(j), STRIP):
            stop = min(start + STRIP, len(j))
            out[start:stop, :stop].addmm_(left[start:stop], right[:stop].mT)
