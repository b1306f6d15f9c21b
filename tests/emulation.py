"""Products of float32 as the lower precisions define them, worked out in float64.

What is left out are the roundings of the float32 sums: those are what plain float32 has as well, so
a kernel may err as much as the emulation and plain float32 do together, twice for another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entk.factors import Factors
from tests import tolerance

# pairs of parts that are multiplied: the largest ones of a product of sums
PAIRS = {
    "tf32": ((0, 0),),
    "tf32x3": ((0, 0), (0, 1), (1, 0)),
    "bf16x3": ((0, 0), (0, 1), (1, 0)),
    "bf16x6": ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)),
}
# tensor-core steps, 8 entries of tf32 or 16 of bf16 each, between two sums on the ordinary cores:
# a CHUNK of `gram_triton` for tf32, all products of one DEPTH for the others
STEPS = {"ieee": 0, "tf32": 1024 // 8, "tf32x3": 3 * 32 // 8, "bf16x3": 6, "bf16x6": 12}


def _tf32(t: Tensor) -> Tensor:
    """The upper 19 bits: tensor cores cut the rest off, which is at most twice a rounding."""
    return (t.float().view(torch.int32) & -(1 << 13)).view(torch.float32)


def parts(t: Tensor, precision: str) -> list[Tensor]:
    """Terms of falling size that stand for t."""
    narrow = _tf32 if precision.startswith("tf32") else lambda u: u.bfloat16().float()
    found, rest = [], t.float()
    for _ in range(3):
        found.append(narrow(rest))
        rest = rest - found[-1]
    return [part.double() for part in found]


def matmul(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b in float64 from the parts of a and b; "ieee" multiplies as they are."""
    if precision == "ieee":
        return a.double() @ b.double()
    left, right = parts(a, precision), parts(b, precision)
    return sum(left[i] @ right[j] for i, j in PAIRS[precision])


def gram(j: Tensor, k: Tensor, outputs: str, precision: str) -> Tensor:
    """As entk's `gram`, from zero."""
    if outputs == "diagonal":
        return matmul(j.transpose(0, 1), k.permute(1, 2, 0), precision)
    if outputs == "all":
        full = matmul(j.flatten(0, 1), k.flatten(0, 1).mT, precision)
        return full.view(*j.shape[:2], *k.shape[:2])
    return matmul(j.flatten(1), k.flatten(1).mT, precision)


def pairs_gram(x: Factors, z: Factors, outputs: str, precision: str) -> Tensor:
    """As entk's `pairs_gram`, from zero: A by the precision, then its products with g and h."""
    g, h = (f.g.permute(0, 2, 1, 3, 4) for f in (x, z))  # [N, G, O, C, T]
    if x.is_tokens:
        a = ((x.a[:, None, :, None] == z.a[:, None]) & (x.a >= 0)[:, None, :, None]).double()
        a = a[:, :, None]  # [N, M, G, T, S]
    else:
        a = matmul(x.a.mT[:, None], z.a[None], precision)
    if outputs == "all":
        moved = matmul(g[:, None], a[:, :, :, None], precision)  # [N, M, G, O, C, S]
        found = matmul(moved.flatten(4), h.flatten(3).mT[None], precision)
        return found.sum(2).permute(0, 2, 1, 3)
    if outputs == "diagonal":
        weights = matmul(g.mT[:, None], h[None], precision)  # [N, M, G, O, T, S]
        return (weights * a[:, :, :, None]).sum((2, 4, 5)).permute(2, 0, 1)
    weights = matmul(g.flatten(2, 3).mT[:, None], h.flatten(2, 3)[None], precision)
    return (weights * a).sum((2, 3, 4))


def limit(emulated: Tensor, plain: Tensor, truth: Tensor, precision: str) -> float:
    """Also what tensor cores cut off: up to one unit in each step between two rounded sums."""
    cut = STEPS[precision] * torch.finfo(torch.float32).eps
    return 2 * tolerance.error(emulated, truth) + tolerance.limit(plain, truth) + cut
