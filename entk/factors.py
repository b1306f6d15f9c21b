"""The letters of the project, and what a layer contributes: factors or rows.

    N, M  samples of x and of z     O  model outputs            P  entries of a parameter
    K     patch length (d_in, or C_in/G * kernel size)          C  output channels of a group
    T, S  positions that share a weight (pixels, tokens)        G  groups of a grouped convolution

    a[n,G,k,t]  layer input as patches      g[n,o,G,c,t]  d output_o / d (layer output)
    J[n,o,G,c,k] = sum_t g[n,o,G,c,t] a[n,G,k,t]

Rows are J itself, [N, O, P]: what biases and norm layers give directly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

OUTPUTS = ("all", "diagonal", "trace", "sum")

# a kernel: of "all" outputs, of the "diagonal", of the "trace" or "sum"
NTK = Float[Tensor, "N O M O"] | Float[Tensor, "O N M"] | Float[Tensor, "N M"]


class Factors(NamedTuple):
    """J[n,o,G,c,k] = sum_t g[n,o,G,c,t] a[n,G,k,t], kept as `a` [N,G,K,T] and `g` [N,O,G,C,T].

    An integer `a` [N,T] holds tokens (-1: none) and stands for their one-hot columns; then the
    parameter is [V,C], its row chosen by the token: J[n,o,v,c] = sum_t [a[n,t] = v] g[n,o,0,c,t].
    """

    a: Tensor
    g: Tensor

    @property
    def is_tokens(self) -> bool:
        return not self.a.is_floating_point()

    def rows(self, vocabulary: int = 0) -> Tensor:
        """J as [N, O, P]; `vocabulary` is V, needed for tokens only."""
        n, o, _, c, t = self.g.shape
        if not self.is_tokens:
            if self.a.shape[1] == 1:  # one bmm that writes J in its final order
                return torch.bmm(self.g.reshape(n, o * c, t), self.a[:, 0].mT).view(n, o, -1)
            return torch.einsum("nogct,ngkt->nogck", self.g, self.a).flatten(2)
        j = self.g.new_zeros(n, o, vocabulary + 1, c)  # row V collects the tokens that are none
        index = self.a.masked_fill(self.a < 0, vocabulary)[:, None, :, None].expand(n, o, t, c)
        return j.scatter_add_(2, index, self.g[:, :, 0].mT)[:, :, :vocabulary].flatten(2)


def concatenate(parts: list[Factors]) -> Factors:
    """Several uses of one weight are one use over more positions: exact cross terms."""
    if len(parts) == 1:
        return parts[0]
    return Factors(torch.cat([p.a for p in parts], -1), torch.cat([p.g for p in parts], -1))


def kernel_shape(n: int, m: int, o: int, outputs: str) -> tuple[int, ...]:
    """Shape of a kernel, or of a tile of it, in an output mode; o is 1 for "sum"."""
    if outputs == "all":
        return (n, o, m, o)
    return (o, n, m) if outputs == "diagonal" else (n, m)


def mirror(tile: Tensor, outputs: str) -> Tensor:
    """Fill the part above the diagonal from the one below it, in place: exactly symmetric."""
    square = tile.view(tile.shape[0] * tile.shape[1], -1) if outputs == "all" else tile
    square.tril_()
    square.add_(square.tril(-1).mT)
    return tile


def transposed(tile: Tensor, outputs: str) -> Tensor:
    """The tile of (z, x) from that of (x, z)."""
    return tile.permute(2, 3, 0, 1) if outputs == "all" else tile.mT


def place(out: Tensor, tile: Tensor, rows: slice, columns: slice, outputs: str) -> None:
    """Write a tile into the kernel of all samples."""
    if outputs == "all":
        out[rows, :, columns] = tile
    else:
        out[..., rows, columns] = tile
