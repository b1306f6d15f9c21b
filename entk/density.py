"""The spectral density of a kernel from a few products: stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from entk.errors import InputError
from entk.operator import NTKOperator
from entk.source import Kernel
from entk.spectrum import Product, finite, products, symmetric


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The density of eigenvalues, (1/probes) Σ_p Σ_i weights[p,i] δ(λ - nodes[p,i]), mass 1.

    Each probe is an independent unbiased estimate of up to quadrature, so whatever is estimated
    has a standard error: the deviation over probes / sqrt(probes).

        nodes     [probes, steps] float64
        weights   [probes, steps], each row sums to 1; about 0 where fewer steps were enough
        size      rows of the kernel
    """

    nodes: Float64[Tensor, "probes steps"]
    weights: Float64[Tensor, "probes steps"]
    size: int

    @property
    def probes(self) -> int:
        """Independent estimates."""
        return len(self.nodes)

    def mean(self, f: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """(1/size) tr f(K), the mean of f over all eigenvalues, and its standard error.

        Exact for polynomials of degree < 2 steps but for the choice of the probes.
        """
        values = (self.weights * f(self.nodes)).sum(1)
        return _with_error(values, lambda t: t.item())

    def smoothed(
        self, at: Float[Tensor, " T"], width: float
    ) -> tuple[Float64[Tensor, " T"], Float64[Tensor, " T"]]:
        """The density convolved with a Gaussian of standard deviation `width`, at each of `at` [T],
        and its standard error, both [T]."""
        if not width > 0:
            raise InputError(f"width={width!r}, expected a positive number")
        away = (at.to(self.nodes)[:, None, None] - self.nodes) / width
        bumps = torch.exp(-away.square() / 2) / (width * math.sqrt(2 * math.pi))
        return _with_error((bumps * self.weights).sum(2).mT, lambda t: t)


def spectral_density(
    kernel: Kernel | NTKOperator,
    *,
    steps: int = 64,
    probes: int = 8,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """All eigenvalues of a kernel as a density, from `steps` products with `probes` columns.

    From a random vector v of signs, Lanczos' method with full reorthogonalisation makes a
    tridiagonal T [steps, steps] whose eigenvalues and squared first components of eigenvectors are
    the nodes and weights of Gauss quadrature for v' f(K) v / |v|², whose mean over v is
    tr f(K) / rows. Kept in memory: steps * probes vectors of the kernel's rows, in float64.

    Args:
        kernel: an `NTKOperator`, or as for `spectrum`, [N, N] or [N, O, N, O].
        steps: of Lanczos; at most the rows, if more are asked for.
        probes: random vectors; their results differ by the standard error.
        generator: on the CPU; None takes one seeded with 0.

    Raises:
        InputError: as `spectrum`.

    Source: Golub and Welsch 1969; Ubaru, Chen and Saad 2017 (SIAM J. Matrix Anal. 38); Ghorbani,
    Krishnan and Xiao 2019 (arXiv 1901.10159).

    >>> import torch, entk
    >>> density = entk.spectral_density(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    >>> [round(value, 6) for value in density.mean(lambda t: t)]  # the mean eigenvalue
    [2.0, 0.0]
    """
    for name, value in (("steps", steps), ("probes", probes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r}, expected a positive integer")
    kernel = symmetric(kernel)
    if len(kernel.shape) != 2:
        raise InputError(
            f"the kernel has shape {kernel.shape}, expected [N, N] or [N, O, N, O]; call "
            "spectral_density for each output"
        )
    rows = kernel.shape[0]
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
    signs = torch.randint(2, (rows, probes), **options) * 2 - 1
    start = (signs / math.sqrt(rows)).to(kernel.device)
    diagonal, beside = lanczos(products(kernel)[0], start, min(steps, rows))
    t = torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    nodes, vectors = torch.linalg.eigh(t)
    return SpectralDensity(nodes, vectors[:, 0].square(), rows)


def lanczos(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Diagonals [probes, steps] and secondary ones [probes, steps - 1] of T = Q' K Q, Q[:,0] = v.

    `start` are unit vectors v [rows, probes]; they go side by side and do not influence one
    another. A probe whose Krylov space is exhausted goes on with zeros, which T keeps apart; its
    diagonal there is v' K v, at which any function of K is defined.
    """
    basis = start.new_zeros(steps, *start.shape)
    diagonal = start.new_zeros(start.shape[1], steps)
    beside = start.new_zeros(start.shape[1], max(steps - 1, 0))
    basis[0] = start
    scale = start.new_zeros(start.shape[1])  # of K, as far as it was seen
    for s in range(steps):
        w = finite(product(basis[s]))
        scale = torch.maximum(scale, w.norm(dim=0))
        quotient = (w * basis[s]).sum(0)
        diagonal[:, s] = torch.where(basis[s].any(0), quotient, diagonal[:, 0])
        if s + 1 == steps:
            break
        for _ in range(2):  # once leaves what rounding brought in: "twice is enough"
            w = w - (basis[: s + 1] * (basis[: s + 1] * w).sum(1, keepdim=True)).sum(0)
        length = w.norm(dim=0)
        ended = length <= len(start) * torch.finfo(w.dtype).eps * scale
        length = length.masked_fill(ended, 0.0)
        beside[:, s] = length
        basis[s + 1] = torch.where(ended, 0.0, w / length.masked_fill(ended, 1.0))
    return diagonal, beside


def _with_error(values: Tensor, form: Callable) -> tuple:
    """Mean and standard error over probes, the first axis; infinite for a single probe."""
    count = len(values)
    mean = values.mean(0)
    spread = values.std(0) if count > 1 else torch.full_like(mean, torch.inf)
    return form(mean), form(spread / math.sqrt(count))
