"""Kernels of every kind (tensor, array, file, path) read as matrices, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from entk.errors import InputError, UndefinedDistanceError
from entk.store import BAND, KernelFile, block_indices, open_kernel

Kernel = Float[Tensor, "..."] | Float[np.ndarray, "..."] | KernelFile | str | PathLike

Index = tuple[slice, ...]


class Source:
    """A kernel as a matrix [N*O, M*O] or [N, M], or a batch of matrices [O, N, M].

    `form` is the shape with samples and outputs apart, where that is known: [N, O, M, O].
    """

    def __init__(self, kernel: Kernel, label: str):
        if isinstance(kernel, (str, PathLike)):
            label = str(Path(kernel))
            kernel = open_kernel(kernel)
        elif isinstance(kernel, np.ndarray):
            try:
                kernel = torch.from_numpy(kernel)
            except (TypeError, ValueError) as error:  # of other byte orders, or read backwards
                raise InputError(
                    f"{label} kernel is an array that torch cannot take ({error!s:.100}); copy it, "
                    "as np.array(k, float)"
                ) from None
        if not isinstance(kernel, (Tensor, KernelFile)):
            raise InputError(
                f"{label} kernel is {type(kernel).__name__}, expected a tensor, an array, a "
                "KernelFile or a path"
            )
        if len(kernel.shape) not in (2, 3, 4) or 0 in kernel.shape:
            raise InputError(
                f"{label} kernel has shape {tuple(kernel.shape)}, expected [N, M], [O, N, M] or "
                "[N, O, M, O] without empty axes"
            )
        if isinstance(kernel, Tensor):
            if not kernel.is_floating_point():
                raise InputError(f"{label} kernel is {kernel.dtype}, expected floating point")
            if kernel.layout != torch.strided:
                raise InputError(f"{label} kernel is {kernel.layout}; make it .to_dense()")
            if kernel.dtype not in (torch.float32, torch.float64):
                kernel = kernel.float()
            kernel = kernel.detach()
        self.kernel, self.label = kernel, label
        shape = tuple(kernel.shape)
        self.form = tuple(kernel.plan.shape) if isinstance(kernel, KernelFile) else shape
        self.shape = (shape[0] * shape[1], shape[2] * shape[3]) if len(shape) == 4 else shape
        if len(shape) == 4:
            self.kernel = kernel.reshape(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.kernel.dtype

    @property
    def device(self) -> torch.device:
        return self.kernel.device if isinstance(self.kernel, Tensor) else torch.device("cpu")

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return self.kernel.chunks if isinstance(self.kernel, KernelFile) else None

    @property
    def told(self) -> tuple:
        """What tells it from another: of a file the request that it answers, else its sum."""
        if isinstance(self.kernel, KernelFile):
            return (self.form, str(self.dtype), self.kernel.provenance["request"])
        total = self.kernel.sum(dtype=torch.float64).item()
        return (self.form, str(self.dtype), "nan" if math.isnan(total) else total)

    def block(self, index: Index) -> Tensor:
        """A part of the kernel as a matrix."""
        return self.kernel[index].flatten(0, -2)

    def dense(self) -> Tensor:
        """All of it, in float64; finite."""
        whole = self.kernel[:].double()
        if not torch.isfinite(whole).all():
            raise InputError(f"{self.label} kernel contains NaN or infinity")
        return whole

    def product(self, v: Tensor, output: int = 0) -> Tensor:
        """K v in float64, block by block, for v [M, k]; of one output if it is [O, N, M]."""
        lead = (slice(output, output + 1),) * (len(self.shape) - 2)
        out = v.new_zeros(self.shape[-2], v.shape[1])
        chunks = self.chunks or (1, self.shape[-1])
        for index in block_indices(self.shape[-2:], chunks[-2:], BAND):
            out[index[0]] += self.block((*lead, *index)).double() @ v[index[1]]
        return out

    def check_like(self, other: Source) -> None:
        apart = len(self.form) == len(other.form) == 4 and self.form != other.form
        if self.shape != other.shape or apart:
            one, two = (self.form, other.form) if apart else (self.shape, other.shape)
            raise InputError(
                f"{self.label} kernel has shape {one} but {other.label} has {two}; "
                "kernels are compared over the same samples and outputs"
            )

    def check_symmetric(self) -> None:
        """Refuse a kernel between different samples. A kernel with NaN passes."""
        *_, rows, columns = self.shape
        apart = self.form[:2] != self.form[2:] if len(self.form) == 4 else rows != columns
        if apart:
            raise InputError(
                f"{self.label} kernel has shape {self.form}, expected a square one: that of one "
                "set of samples, z left out"
            )
        if isinstance(self.kernel, KernelFile):
            if not self.kernel.plan.symmetric:
                raise InputError(
                    f"{self.label} kernel is between two sets of samples, expected that of one: "
                    "write it with z left out"
                )
            return
        total = different = 0.0
        for index in block_indices(self.shape, (1, columns), BAND):
            block = self.kernel[index].double()
            mirrored = self.kernel[(*index[:-2], index[-1], index[-2])].mT
            total += block.square().sum().item()
            different += (block - mirrored).square().sum().item()
        if different > torch.finfo(self.dtype).eps * total:
            raise InputError(
                f"{self.label} kernel is not symmetric, |K - K'| = "
                f"{math.sqrt(different / total):.1e} |K|; expected the kernel of one set of "
                "samples, z left out"
            )


def check_norm(square: float, label: str) -> float:
    """The norm of a kernel from its square, if the kernel has a direction at all."""
    if not math.isfinite(square):
        raise UndefinedDistanceError(
            f"{label} kernel contains NaN or infinity (or overflows float64 when squared), so it "
            "has no direction"
        )
    if square == 0:
        raise UndefinedDistanceError(f"{label} kernel is zero, so it has no direction")
    return math.sqrt(square)


def side_by_side(sources: list[Source], entries: int) -> Iterator[tuple[Index, list[Tensor]]]:
    """The same block of every kernel."""
    for index in shared_indices(sources, entries):
        yield index, [s.block(index) for s in sources]


def shared_indices(sources: list[Source], entries: int) -> Iterator[Index]:
    """Of blocks with about `entries` numbers, all kernels together, in chunks of the first file."""
    shape = sources[0].shape
    chunks = next((s.chunks for s in sources if s.chunks), (1, shape[-1]))
    return block_indices(shape, chunks, entries // len(sources))
