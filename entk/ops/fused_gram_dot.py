"""`fused_gram_dot`: the inner products of two models' kernels from their rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from entk.ops.gram import gram
from entk.ops.gram_dot import gram_dot_torch

Rows = Sequence[tuple[Tensor, Tensor]]  # of each layer: those of the samples x and of z


def fused_gram_dot(
    one: Rows, two: Rows, starts: tuple[Tensor, Tensor], outputs: str, *, lower: bool = False
) -> Tensor:
    """[<A,B>, <A,A>, <B,B>] in float64, A = starts[0] + sum of J K' over `one`, B likewise.

    The starts are tiles of one shape, in the kernel's shape. `lower`: z is x, both are symmetric
    and are read on and below the diagonal only.
    """
    a, b = (start.clone() for start in starts)
    for out, rows in ((a, one), (b, two)):
        for j, k in rows:
            gram(j, k, out, outputs)
    if not lower:
        return gram_dot_torch(a, b)
    a, b = (t.flatten(0, 1).flatten(1) if outputs == "all" else t for t in (a, b))
    below = gram_dot_torch(a.tril(-1), b.tril(-1))
    diagonal = gram_dot_torch(*(t.diagonal(dim1=-2, dim2=-1) for t in (a, b)))
    return 2 * below + diagonal
