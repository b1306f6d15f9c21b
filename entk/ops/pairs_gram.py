"""`pairs_gram`: the pairs strategy, which contracts factors and never forms a Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from entk.factors import Factors

SCRATCH = 1 << 21  # elements of the largest intermediate: 8 MiB in float32


def pairs_gram(x: Factors, z: Factors, out: Tensor, outputs: str, *, lower: bool = False) -> None:
    """out += sum_{G,c,k,t,s} g[n,o,G,c,t] a[n,G,k,t] h[m,q,G,c,s] b[m,G,k,s].

    x = (a, g) and z = (b, h); output modes as in `gram`. With A[n,m,t,s] = sum_k a b, exact in
    any order:

        "all"              A applied to g, then one product with h: T^2 K + T^2 C O + T C O^2
        the other modes    A times the same product of g and h:     T^2 K + T^2 C O
        T = 1, "all"       the two plain products, multiplied:      K + C O^2

    `lower=True` (z is x) leaves the part above the diagonal undefined.
    """
    if x.g.shape[-1] == z.g.shape[-1] == 1 and outputs == "all" and not x.is_tokens:
        for group in range(x.g.shape[2]):
            _all_without_positions(x, z, out, group)
        return
    step = max(1, SCRATCH // _scratch_per_sample(x, z, outputs))
    for m in range(len(z.g)):
        first = m if lower else 0
        for start in range(first, len(x.g), step):
            stop = min(start + step, len(x.g))
            part = Factors(x.a[start:stop], x.g[start:stop])
            _column(part, z.a[m], z.g[m], out, outputs, start, m)


def _scratch_per_sample(x: Factors, z: Factors, outputs: str) -> int:
    """Elements of the intermediates that one sample of x needs against one sample of z."""
    _, o, groups, c, t = x.g.shape
    s = z.g.shape[-1]
    wide = o * c * s if outputs == "all" else (o if outputs == "diagonal" else 1) * t * s
    return groups * (t * s + wide)


def _all_without_positions(x: Factors, z: Factors, out: Tensor, group: int) -> None:
    n, o, m, _ = out.shape
    inputs = x.a[:, group, :, 0] @ z.a[:, group, :, 0].mT  # [N, M]
    g, h = x.g[:, :, group, :, 0], z.g[:, :, group, :, 0]
    grads = (g.reshape(n * o, -1) @ h.reshape(m * o, -1).mT).view(n, o, m, o)
    out.addcmul_(grads, inputs[:, None, :, None])


def _column(x: Factors, b: Tensor, h: Tensor, out: Tensor, outputs: str, start: int, m: int):
    """Samples of x from `start` on against the one sample (b, h) of z."""
    stop = start + len(x.g)
    n, o, groups, c, t = x.g.shape
    s = h.shape[-1]
    inputs = _input_gram(x.a, b, x.g.dtype)  # [N, G, T, S]
    if outputs == "all":
        if groups == 1:
            moved = torch.bmm(x.g.reshape(n, o * c, t), inputs[:, 0])  # [N, O*C, S]
        else:
            moved = torch.matmul(x.g, inputs[:, None])  # [N, O, G, C, S]
        out[start:stop, :, m] += (moved.view(n * o, -1) @ h.flatten(1).mT).view(n, o, o)
    elif outputs == "diagonal":
        g = x.g.permute(1, 2, 0, 4, 3).reshape(o, groups, n * t, c)
        grads = torch.matmul(g, h).view(o, groups, n, t, s)
        out[:, start:stop, m] += (grads * inputs.transpose(0, 1)).sum((1, 3, 4))
    else:
        g = x.g.permute(2, 0, 4, 1, 3).reshape(groups, n * t, o * c)
        grads = torch.bmm(g, h.transpose(0, 1).reshape(groups, o * c, s)).view(groups, n, t, s)
        out[start:stop, m] += (grads * inputs.transpose(0, 1)).sum((0, 2, 3))


def _input_gram(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """A[n,G,t,s] = sum_k a[n,G,k,t] b[G,k,s]; for tokens, whether they are the same one."""
    if a.is_floating_point():
        return torch.matmul(a.mT, b)
    return ((a[:, :, None] == b) & (a[:, :, None] >= 0)).to(dtype)[:, None]
