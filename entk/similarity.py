"""Centred cosines: of a kernel with its targets (`alignment`) and of two kernels (`cka`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from entk.errors import InputError, UndefinedDistanceError
from entk.ops.gram_dot import gram_dot
from entk.source import Index, Kernel, Source, check_norm, side_by_side
from entk.store import BAND

EPS = torch.finfo(torch.float64).eps


def alignment(kernel: Kernel, labels: Shaped[Tensor, " N *O"], *, centred: bool = True) -> float:
    """Kernel-target alignment A = <K, Y Y'> / (|K| |Y Y'|), Frobenius, summed in float64.

    For a kernel [N, N] and targets Y [N, O], Y Y' is [N, N]; for a full kernel [N, O, N, O] (or
    [N*O, N*O]) it is y y' with y = vec Y, so the kernel is asked for the very function Y. With
    `centred`, K is replaced by H K H and Y by H Y, where H = I - 1 1'/N takes the mean over samples
    away (for full kernels for each output: J[n,o] minus its mean over n). Between 0 and 1 for
    positive semi-definite kernels.

    Args:
        kernel: of one set of samples; tensor, array, `KernelFile` or path. Files are read block by
            block, twice if centred; in memory is, beside a block, one column for each output.
        labels: Y, real [N, O] or [N]; or integer classes [N], made one-hot with max + 1 columns
            (with as many as the kernel has outputs, if it is full).

    Raises:
        InputError: shapes do not fit, K is not symmetric.
        UndefinedDistanceError: K or Y is zero (if centred: constant over samples), or has NaN or
            infinity.

    Source: Cristianini et al. 2001 (NIPS 14); centred: Cortes, Mohri and Rostamizadeh
    2012 (arXiv 1203.0550).

    >>> import torch, entk
    >>> y = torch.tensor([1.0, 1.0, -1.0, -1.0])
    >>> entk.alignment(torch.outer(y, y), y)
    1.0
    """
    source = _symmetric(kernel, "the", "alignment")
    targets = _targets(source, labels)
    samples = len(targets)
    y = targets - targets.mean(0) if centred else targets
    if not y.norm() > samples * EPS * targets.norm() or y.norm().isinf():
        raise UndefinedDistanceError(
            f"labels are {'constant over samples' if centred else 'zero'} or not finite, so they "
            "have no direction"
        )
    # vec Y for a full kernel: one column, else one for each output
    y = y.flatten()[:, None] if source.shape[0] != samples else y
    means = [_means(source, samples, unbiased=False)] if centred else [None]
    product = norm = 0.0
    for index, (block,) in _centred([source], means):
        rows, columns = (y[i] for i in index)
        product += (block @ columns * rows).sum().item()
        norm += block.square().sum().item()
    scale = _check_size(norm, source, means[0])
    return product / scale / (y.mT @ y).norm().item()


def cka(a: Kernel, b: Kernel, *, unbiased: bool = False) -> float:
    """Centred kernel alignment HSIC(A, B) / sqrt(HSIC(A, A) HSIC(B, B)), summed in float64.

    HSIC(A, B) = <H A H, H B H> up to a factor that cancels, H = I - 1 1'/N: the biased estimate,
    whose quotient is linear CKA of the features that the kernels are made of (for kernels of
    Jacobians: J), and between 0 and 1. Full kernels [N, O, N, O] are centred over samples, for each
    output. With `unbiased`, for [N, N] of at least four samples, HSIC is the unbiased estimate,
    which ignores the diagonal:

        HSIC_1(A, B) = [ tr A B + (1'A1)(1'B1) / ((N-1)(N-2)) - 2 (1'A B 1) / (N-2) ] / (N (N-3)),

    A and B with their diagonals set to zero. It is computed as <U(A), U(B)> / (N (N-3)) with
    U(A)[n,m] = A[n,m] - A[n,.]/(N-2) - A[.,m]/(N-2) + A[.,.]/((N-1)(N-2)) off the diagonal and 0 on
    it (the same without cancellation), and its quotient lies between -1 and 1.

    Kernels are tensors, arrays, `KernelFile`s or paths; files are read block by block, twice.

    Raises:
        InputError: shapes differ, a kernel is not symmetric, fewer than four samples.
        UndefinedDistanceError: a centred kernel is zero, or has NaN or infinity.

    Source: Kornblith et al. 2019 (arXiv 1905.00414); HSIC_1: Song et al. 2012 (JMLR 13);
    its use: Nguyen, Raghu and Kornblith 2021 (arXiv 2010.15327); U: Székely and Rizzo 2014.

    >>> import torch, entk
    >>> x = torch.randn(6, 3).double()
    >>> round(entk.cka(x @ x.mT, 2 * x @ x.mT + 1), 12)
    1.0
    """
    sources = [_symmetric(k, label, "cka") for k, label in ((a, "the first"), (b, "the second"))]
    sources[0].check_like(sources[1])
    if sources[0].device != sources[1].device:
        raise InputError(
            f"the first kernel is on {sources[0].device} but the second on {sources[1].device}; "
            "move one of them"
        )
    samples = min(s.form[0] for s in sources)  # a plain matrix does not tell its outputs
    if unbiased:
        if samples != sources[0].shape[0]:
            raise InputError(
                f"unbiased=True is for kernels [N, N], got {sources[0].form} and "
                f"{sources[1].form}; take outputs='trace' or 'sum', or unbiased=False"
            )
        if samples < 4:
            raise InputError(f"unbiased=True needs at least four samples, got {samples}")
    means = [_means(s, samples, unbiased) for s in sources]
    sums = torch.zeros(3, dtype=torch.float64, device="cpu")
    for _, (left, right) in _centred(sources, means):
        sums += gram_dot(left, right).cpu()
    product, *squares = sums.tolist()
    scales = [_check_size(q, s, m) for q, s, m in zip(squares, sources, means, strict=True)]
    return product / scales[0] / scales[1]


@dataclass(frozen=True)
class _Means:
    """What centring takes away: means over samples, apart for each output."""

    rows: Tensor  # [N*O, O], of K[n,o,.,q] over the second sample
    whole: Tensor  # [O, O], over both
    size: float  # |K|²
    unbiased: bool

    def centre(self, index: Index, block: Tensor) -> Tensor:
        """The block of H K H, or of U(K)."""
        o = self.rows.shape[1]
        i, j = (torch.arange(s.start, s.stop, device=block.device) for s in index)
        own = i[:, None] == j
        out = block - self.rows[i][:, j % o] - self.rows[j][:, i % o].mT
        out += self.whole[i % o][:, j % o]
        return out.masked_fill_(own, 0.0) if self.unbiased else out


def _means(source: Source, samples: int, unbiased: bool) -> _Means:
    """One pass over the kernel. As it is symmetric, column means are row means."""
    o = source.shape[0] // samples
    sums = torch.zeros(source.shape[0], o, dtype=torch.float64, device=source.device)
    size = 0.0
    for (rows, columns), (block,) in side_by_side([source], BAND):
        block = block.double()
        size += block.square().sum().item()
        if unbiased:
            span = max(rows.start, columns.start), min(rows.stop, columns.stop)
            i = torch.arange(*span, device=block.device)
            block = block.clone()
            block[i - rows.start, i - columns.start] = 0
        to = torch.arange(columns.start, columns.stop, device=block.device) % o
        sums[rows] = sums[rows].index_add(1, to, block)
    total = sums.view(samples, o, o).sum(0)
    below = (samples - 2, (samples - 1) * (samples - 2)) if unbiased else (samples, samples**2)
    return _Means(sums / below[0], total / below[1], size, unbiased)


def _centred(
    sources: list[Source], means: list[_Means | None]
) -> Iterator[tuple[Index, list[Tensor]]]:
    for index, blocks in side_by_side(sources, BAND):
        yield (
            index,
            [
                block.double() if m is None else m.centre(index, block.double())
                for block, m in zip(blocks, means, strict=True)
            ],
        )


def _check_size(square: float, source: Source, means: _Means | None) -> float:
    """The norm of a centred kernel, if more than rounding is left of it."""
    norm = check_norm(square, source.label if means is None else f"{source.label} centred")
    if means is not None and norm <= source.shape[0] * EPS * means.size**0.5:
        raise UndefinedDistanceError(
            f"{source.label} kernel is constant over samples, so centred it is zero and has no "
            "direction"
        )
    return norm


def _symmetric(kernel: Kernel, label: str, what: str) -> Source:
    source = Source(kernel, label)
    if len(source.shape) == 3:
        raise InputError(
            f"{source.label} kernel has shape {source.form}, expected [N, N] or [N, O, N, O]; "
            f"call {what} for each output, or take outputs='trace'"
        )
    source.check_symmetric()
    return source


def _targets(source: Source, labels: Tensor) -> Tensor:
    """Y [N, O] in float64, beside a kernel of N samples or of N*O rows."""
    if not isinstance(labels, Tensor) or labels.dim() not in (1, 2) or labels.is_complex():
        found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"labels are {found}, expected real targets [N, O] or [N], or integer classes [N]"
        )
    if labels.device != source.device:
        raise InputError(
            f"labels are on {labels.device} but the kernel on {source.device}; move one of them"
        )
    if labels.dim() == 1 and not labels.is_floating_point():
        if labels.numel() and labels.min() < 0:
            raise InputError(
                f"labels have class {labels.min().item()}, expected classes from 0 on; pass "
                "targets of both signs as floating point"
            )
        full = len(source.form) == 4
        classes = source.form[1] if full else int(labels.max()) + 1 if labels.numel() else 0
        if labels.numel() and labels.max() >= classes:
            raise InputError(
                f"labels have class {labels.max().item()} but the kernel has {classes} outputs"
            )
        labels = F.one_hot(labels.long(), classes)
    y = labels.double().reshape(len(labels), -1)
    rows = source.shape[0]
    if len(source.form) == 4:
        fits = y.shape == source.form[:2]
    else:
        fits = len(y) == rows or y.numel() == rows
    if not fits or y.numel() == 0:
        raise InputError(
            f"labels have shape {tuple(labels.shape)}, which does not fit the kernel's "
            f"{source.form}: expected one row for each sample and, for a full kernel, one column "
            "for each output"
        )
    return y
