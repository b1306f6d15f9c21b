"""What one kernel is like by itself: its size, its eigenvalues, and how it fits the labels."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

import entk

DENSE = 2048  # rows up to which all eigenvalues are taken; beyond, the largest by products alone
LARGEST = 10  # eigenvalues that are kept


@dataclass(frozen=True)
class Size:
    """|K| and tr K, summed in float64."""

    norm: float
    trace: float


def size(file: entk.KernelFile) -> Size:
    square, trace = 0.0, 0.0
    for index, part in file.blocks():
        square += part.double().square().sum().item()
        offset = index[-2].start - index[-1].start
        trace += part.reshape(-1, part.shape[-1]).double().diagonal(offset).sum().item()
    return Size(square**0.5, trace)


def largest(file: entk.KernelFile) -> tuple[Tensor, float | None]:
    """(the `LARGEST` eigenvalues, the effective rank by entropy or None where it needs too many).

    O kernels of one output each are one of N·O rows, with blocks on its diagonal.
    """
    rows = file.shape[-1]
    if rows > DENSE:
        return entk.spectrum(file, k=LARGEST).flatten().sort(descending=True)[0][:LARGEST], None
    values = entk.spectrum(file).flatten().sort(descending=True)[0]
    # rounding in the kernel's float32 may leave a few below 0
    rank = entk.effective_rank(values.clamp(min=0), "entropy").item()
    return values[:LARGEST], rank


def ranks(size: Size, top: float, entropy: float | None) -> dict[str, float | None]:
    """Effective ranks; participation (tr K)² / |K|² and stable tr K / λ_1 need λ_1 alone."""
    return {
        "entropy_rank": entropy,
        "participation_rank": size.trace**2 / size.norm**2,
        "stable_rank": size.trace / top,
    }


def alignments(file: entk.KernelFile, labels: Tensor | None) -> dict[str, float | None]:
    """`entk.alignment` with the one-hot labels [N], centred and not; None where undefined.

    O kernels of one output each are added up to [N, N] first.
    """
    found: dict[str, float | None] = {"alignment": None, "centred_alignment": None}
    if labels is None:
        return found
    kernel = file if len(file.shape) == 2 else file[:].double().sum(0)
    for name in found:
        with suppress(entk.UndefinedDistanceError):  # labels all alike have no centred direction
            found[name] = entk.alignment(kernel, labels, centred=name.startswith("centred"))
    return found
