"""The cosine distance between kernels: tensors, files, or two models tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from entk.assemble import WHOLE, Engine, make_plan, prepare
from entk.errors import InputError, UndefinedDistanceError
from entk.inputs import first_parameter
from entk.ops.gram_dot import gram_dot
from entk.plan import parse_bytes
from entk.sketch import check_sketch, probe_kinds
from entk.store import BAND, KernelFile, block_indices, open_kernel
from entk.tiling import available_memory

Kernel = Tensor | np.ndarray | KernelFile | str | PathLike

OPTIONS = (
    *("outputs", "params", "memory", "block", "strategy", "backend", "precision", "rates"),
    *("sketch", "seed"),
)
PIECE = 1 << 19  # numbers in float64 that are worked on at once: they stay in a cache
SMALL = 1e-4  # below this 1 - cos has lost digits, and half the squared chord is taken instead
ROUNDING = 1e-31  # half the squared chord of two roundings of one unit vector in float64


def kernel_distance(
    a: Kernel | nn.Module, b: Kernel | nn.Module, x=None, z=None, **options
) -> float:
    """S = 1 - <A, B> / (|A| |B|), with Frobenius product and norms, summed in float64.

    A and B are tensors, arrays, `KernelFile`s or paths to them, of one shape; or two models,
    whose kernels at x (and z) are then computed tile by tile and not kept (`options` as for
    `ntk`: outputs, params, memory, block, strategy, backend, precision, rates, sketch, seed; a
    sketch has the same probes for both models).

    S is 0 for a kernel and any positive multiple of it, 1 for orthogonal ones, and arccos(1 - S)
    is the angle between them. Small S keep their leading digits (S = |A/|A| - B/|B||^2 / 2);
    values under 1e-31 are rounding and returned as 0.

    Raises:
        InputError: shapes differ, or the probes of two models' sketches.
        UndefinedDistanceError: a kernel is zero, or has NaN or infinity.

    Source: Fort et al. 2020 (arXiv 2010.15110), eq. 4 of arXiv 2505.13900.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise InputError(
            f"kernel_distance has no option {unknown[0]!r}; for two models it takes "
            f"{', '.join(OPTIONS)}"
        )
    if isinstance(a, nn.Module) or isinstance(b, nn.Module):
        return _model_distance(a, b, x, z, **options)
    if x is not None or z is not None or options:
        raise InputError("x, z and options are for two models; two kernels need nothing else")
    one, two = _Source(a, "the first"), _Source(b, "the second")
    one.check_like(two)
    sums = torch.zeros(3, dtype=torch.float64)
    for left, right in _side_by_side([one, two]):
        sums += gram_dot(left, right).cpu()
    norms = (check_norm(sums[1].item(), one.label), check_norm(sums[2].item(), two.label))
    distance = 1 - sums[0].item() / norms[0] / norms[1]
    if distance < SMALL:
        distance = sum(_chord(p, q, norms) for p, q in _side_by_side([one, two])) / 2
    return distance if distance > ROUNDING else 0.0


def kernel_distance_matrix(kernels: Sequence[Kernel]) -> Tensor:
    """S[i,j] = kernel_distance(kernels[i], kernels[j]), [S, S] float64, exactly symmetric.

    Kernels are read band by band, each once, and a second time if some pair is closer than 1e-4.
    """
    sources = [_Source(k, f"number {i}'s") for i, k in enumerate(kernels)]
    if not sources:
        raise InputError("kernels is empty, expected at least one kernel")
    for other in sources[1:]:
        sources[0].check_like(other)
    return distances_of(lambda: _stacked(sources), [s.label for s in sources])


def distances_of(
    bands: Callable[[], Iterator[tuple[int, Tensor]]], labels: Sequence[str]
) -> Tensor:
    """[S, S] from parts of all kernels side by side: (how often a part counts, [S, entries]).

    They are gone over once, and a second time if some pair is close.
    """
    gram = sum(weight * (band @ band.mT) for weight, band in bands())
    norms = [check_norm(gram[i, i].item(), label) for i, label in enumerate(labels)]
    scale = torch.tensor(norms, dtype=torch.float64)
    distances = 1 - gram / scale / scale[:, None]
    close = [p for p in combinations(range(len(labels)), 2) if distances[p] < SMALL]
    chords = torch.zeros(len(close), dtype=torch.float64)
    for weight, band in bands() if close else ():
        band /= scale[:, None]
        chords += weight * torch.stack([(band[i] - band[j]).square().sum() for i, j in close])
    for (i, j), chord in zip(close, chords.tolist(), strict=True):
        distances[i, j] = chord / 2 if chord / 2 > ROUNDING else 0.0
    return distances.triu(1) + distances.triu(1).mT


class _Source:
    """A kernel as 2-D bands of rows, wherever it lies."""

    def __init__(self, kernel: Kernel, label: str):
        if isinstance(kernel, (str, PathLike)):
            label = str(Path(kernel))
            kernel = open_kernel(kernel)
        elif isinstance(kernel, np.ndarray):
            kernel = torch.from_numpy(kernel)
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
            if kernel.dtype not in (torch.float32, torch.float64):
                kernel = kernel.float()
            kernel = kernel.detach()
        self.kernel, self.label = kernel, label
        shape = tuple(kernel.shape)
        self.shape = (shape[0] * shape[1], shape[2] * shape[3]) if len(shape) == 4 else shape
        if len(shape) == 4:
            self.kernel = kernel.reshape(self.shape)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return self.kernel.chunks if isinstance(self.kernel, KernelFile) else None

    def block(self, index: tuple[slice, ...]) -> Tensor:
        """A part of the kernel as a matrix."""
        return self.kernel[index].flatten(0, -2)

    def check_like(self, other: _Source) -> None:
        if self.shape != other.shape:
            raise InputError(
                f"{self.label} kernel has shape {self.shape} but {other.label} has {other.shape}; "
                "a distance needs kernels of the same samples and outputs"
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


def _side_by_side(sources: list[_Source]) -> Iterator[list[Tensor]]:
    """The same block of every kernel, in chunks of the first that lies in a file."""
    shape = sources[0].shape
    chunks = next((s.chunks for s in sources if s.chunks), (1, shape[-1]))
    for index in block_indices(shape, chunks, BAND // len(sources)):
        yield [s.block(index) for s in sources]


def _stacked(sources: list[_Source]) -> Iterator[tuple[int, Tensor]]:
    """Pieces of all kernels side by side, [S, entries] in float64."""
    size = max(1, PIECE // len(sources))
    piece = torch.empty(len(sources), size, dtype=torch.float64)
    for blocks in _side_by_side(sources):
        flat = [block.flatten().cpu() for block in blocks]
        for start in range(0, len(flat[0]), size):
            count = min(size, len(flat[0]) - start)
            for row, whole in zip(piece, flat, strict=True):
                row[:count] = whole[start : start + count]
            yield 1, piece[:, :count]


def _chord(a: Tensor, b: Tensor, norms: tuple[float, float]) -> float:
    return (a.double() / norms[0] - b.double() / norms[1]).square().sum().item()


def _model_distance(a, b, x, z, *, outputs="all", params=None, **options) -> float:
    """Tile by tile, so that neither kernel is ever whole; mirrored tiles count twice."""
    if not (isinstance(a, nn.Module) and isinstance(b, nn.Module)) or x is None:
        raise InputError(
            "kernel_distance takes two kernels, or two models and the samples x: "
            "kernel_distance(model_a, model_b, x)"
        )
    engines = _pair(a, b, x, z, outputs, params, options)

    def tiles() -> Iterator[tuple[int, Tensor, Tensor]]:
        walks = (e.tiles(x, z, e.plan.tiles()) for e in engines)
        for (i, j, left), (_, _, right) in zip(*walks, strict=True):
            yield engines[0].plan.weight(i, j), left[WHOLE], right[WHOLE]

    sums = sum(weight * gram_dot(left, right).cpu() for weight, left, right in tiles())
    norms = tuple(
        check_norm(square, label)
        for square, label in zip(sums[1:].tolist(), ("model_a's", "model_b's"), strict=True)
    )
    distance = 1 - sums[0].item() / norms[0] / norms[1]
    if distance < SMALL:
        distance = sum(w * _chord(left, right, norms) for w, left, right in tiles()) / 2
    return distance if distance > ROUNDING else 0.0


def _check_probes(a: dict, b: dict) -> None:
    """Sketches of other probes are as far apart as their errors, whatever the kernels are."""
    differs = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    if differs:
        raise InputError(
            f"parameter {differs[0]!r} has other probes in model_a than in model_b (missing, of "
            "another size, or served by another rule), so a distance of sketches says nothing; "
            "leave sketch= out"
        )


def _pair(a, b, x, z, outputs, params, options) -> list[Engine]:
    """Engines of two models on one tile grid, walked in one order."""
    found, likes = [], []
    for model in (a, b):
        names, looked = prepare(model, x, z, outputs, params)
        found.append(looked)
        likes.append(first_parameter(model, names))
    if found[0].outputs != found[1].outputs:
        raise InputError(
            f"model_a has {found[0].outputs} outputs but model_b {found[1].outputs}; a distance "
            "needs the same outputs"
        )
    options["sketch"] = check_sketch(options.pop("sketch", None), options.pop("seed", 0))
    if options["sketch"] is not None:
        _check_probes(*(probe_kinds(f, options["sketch"]) for f in found))
    memory = options.pop("memory", None)
    memory = available_memory(likes[0].device) if memory is None else parse_bytes(memory)
    plans = [
        make_plan(f, x, z, like, outputs, memory=memory // 2, streamed=True, **options)
        for f, like in zip(found, likes, strict=True)
    ]
    grid = {key: min(getattr(p, key) for p in plans) for key in ("block", "keep")}
    return [
        Engine(model, f, replace(plan, **grid))
        for model, f, plan in zip((a, b), found, plans, strict=True)
    ]
