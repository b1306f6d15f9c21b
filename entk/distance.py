"""The cosine distance between kernels: tensors, files, or two models tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor, nn

from entk.assemble import WHOLE, Engine
from entk.errors import InputError
from entk.inputs import parse_bytes
from entk.ops import products
from entk.ops.gram_dot import gram_dot
from entk.peers import Alone, peers_of
from entk.request import make_plan, prepare
from entk.sketch import check_sketch, probe_kinds
from entk.source import Kernel, Source, check_norm, shared_indices, side_by_side
from entk.store import BAND
from entk.tiling import available_memory

OPTIONS = (
    *("outputs", "params", "select", "strict", "memory", "block"),
    *("strategy", "backend", "precision", "rates", "sketch", "seed"),
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
    `ntk`: outputs, params, select, strict, memory, block, strategy, backend, precision, rates,
    sketch, seed; a sketch has the same probes for both models).

    S is 0 for a kernel and any positive multiple of it, 1 for orthogonal ones, and arccos(1 - S)
    is the angle between them. Small S keep their leading digits (S = |A/|A| - B/|B||^2 / 2);
    values under 1e-31 are rounding and returned as 0.

    Raises:
        InputError: shapes differ, or the probes of two models' sketches.
        UndefinedDistanceError: a kernel is zero, or has NaN or infinity.

    Source: Fort et al. 2020 (arXiv 2010.15110), eq. 4 of arXiv 2505.13900.

    >>> import torch, entk
    >>> entk.kernel_distance(torch.eye(2), torch.ones(2, 2))  # 45 degrees
    0.29289321881345254
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise InputError(
            f"kernel_distance has no option {unknown[0]!r}; for two models it takes "
            f"{', '.join(OPTIONS)}"
        )
    if callable(a) or callable(b):
        return _model_distance(a, b, x, z, **options)
    if x is not None or z is not None or options:
        raise InputError("x, z and options are for two models; two kernels need nothing else")
    one, two = Source(a, "the first"), Source(b, "the second")
    one.check_like(two)
    sums = torch.zeros(3, dtype=torch.float64, device="cpu")
    for _, (left, right) in side_by_side([one, two], BAND):
        sums += gram_dot(left, right).cpu()
    norms = (check_norm(sums[1].item(), one.label), check_norm(sums[2].item(), two.label))
    distance = 1 - sums[0].item() / norms[0] / norms[1]
    if distance < SMALL:
        distance = _chords([one, two], norms) / 2
    return distance if distance > ROUNDING else 0.0


def kernel_distance_matrix(
    kernels: Sequence[Kernel], *, group: dist.ProcessGroup | str | None = None
) -> Float64[Tensor, "S S"]:
    """S[i,j] = kernel_distance(kernels[i], kernels[j]), [S, S] float64, exactly symmetric.

    Kernels are read band by band, each once, and a second time if some pair is closer than 1e-4.
    With a `group` of torch.distributed ("world": all processes) each rank makes the same call and
    reads its part of the bands; all get the same bits as one process would.

    Raises InputError for an empty list or shapes that differ, DistributedError if a rank is lost,
    and as `kernel_distance`. Source: as there.

    >>> import torch, entk
    >>> one, other = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> entk.kernel_distance_matrix([one, 3 * one, other])
    tensor([[0., 0., 1.],
            [0., 0., 1.],
            [1., 1., 0.]], dtype=torch.float64)
    """
    with peers_of(group) as peers:
        if not isinstance(kernels, Iterable) or isinstance(kernels, str):
            raise InputError(f"kernels is {type(kernels).__name__}, expected a list of kernels")
        sources = [Source(k, f"number {i}'s") for i, k in enumerate(kernels)]
        if not sources:
            raise InputError("kernels is empty, expected at least one kernel")
        for other in sources[1:]:
            sources[0].check_like(other)
        peers.agree({f"kernel {i}": s.told for i, s in enumerate(sources)} | {"": len(sources)})
        return distances_of(lambda: _stacked(sources, peers), [s.label for s in sources], peers)


def distances_of(
    parts: Callable[[], Iterator[tuple[int, int, Iterable[Tensor]]]],
    labels: Sequence[str],
    peers: Alone,
) -> Tensor:
    """[S, S] from parts of all kernels side by side, on each process some of the parts.

    A part is (its number, how often it counts, its entries [S, ...] in pieces). They are gone over
    once, and a second time if some pair is close. Each part has a sum, and those are added in
    order of their numbers, whoever has made them.
    """
    gram = peers.total((n, weight * sum(b @ b.mT for b in bands)) for n, weight, bands in parts())
    norms = [check_norm(gram[i, i].item(), label) for i, label in enumerate(labels)]
    scale = torch.tensor(norms, dtype=torch.float64, device="cpu")
    distances = 1 - gram / scale / scale[:, None]
    close = [p for p in combinations(range(len(labels)), 2) if distances[p] < SMALL]
    if close:
        chords = peers.total(
            (n, weight * sum(_squares(band / scale[:, None], close) for band in bands))
            for n, weight, bands in parts()
        )
        for (i, j), chord in zip(close, chords.tolist(), strict=True):
            distances[i, j] = chord / 2 if chord / 2 > ROUNDING else 0.0
    return distances.triu(1) + distances.triu(1).mT


def _squares(band: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    return torch.stack([(band[i] - band[j]).square().sum() for i, j in pairs])


def _stacked(sources: list[Source], peers: Alone) -> Iterator[tuple[int, int, Iterator[Tensor]]]:
    """This process's bands of all kernels."""
    indices = list(shared_indices(sources, BAND))
    for number, index in enumerate(indices):
        if number * peers.size // len(indices) == peers.rank:
            yield number, 1, _pieces([s.block(index) for s in sources])


def _pieces(blocks: list[Tensor]) -> Iterator[Tensor]:
    """Of all kernels side by side, [S, entries] in float64, in one piece of memory."""
    size = max(1, PIECE // len(blocks))
    flat = [block.flatten().cpu() for block in blocks]
    piece = torch.empty(len(flat), min(size, len(flat[0])), dtype=torch.float64, device="cpu")
    for start in range(0, len(flat[0]), size):
        count = min(size, len(flat[0]) - start)
        for row, whole in zip(piece, flat, strict=True):
            row[:count] = whole[start : start + count]
        yield piece[:, :count]


def _chords(sources: list[Source], norms: tuple[float, float]) -> float:
    return sum(_chord(left, right, norms) for _, (left, right) in side_by_side(sources, BAND))


def _chord(a: Tensor, b: Tensor, norms: tuple[float, float]) -> float:
    return (a.double() / norms[0] - b.double() / norms[1]).square().sum().item()


def _model_distance(a, b, x, z, *, outputs="all", params=None, **options) -> float:
    """Tile by tile, so that neither kernel is ever whole; mirrored tiles count twice."""
    if not (isinstance(a, nn.Module) and isinstance(b, nn.Module)) or x is None:
        raise InputError(
            "kernel_distance takes two kernels, or two torch.nn.Modules and the samples x: "
            "kernel_distance(model_a, model_b, x)"
        )
    engines = _pair(a, b, x, z, outputs, params, options)
    sums = sum(weight * _dot(engines, pair, lower).cpu() for weight, pair, lower in _walk(engines))
    norms = tuple(
        check_norm(square, label)
        for square, label in zip(sums[1:].tolist(), ("model_a's", "model_b's"), strict=True)
    )
    distance = 1 - sums[0].item() / norms[0] / norms[1]
    if distance < SMALL:
        distance = sum(
            weight * _chord(*_tiles(engines, pair, lower), norms)
            for weight, pair, lower in _walk(engines)
        )
        distance /= 2
    return distance if distance > ROUNDING else 0.0


def _walk(engines: list[Engine]) -> Iterator[tuple]:
    """(weight, the two blocks of a tile of either model, lower); mirrored tiles count twice."""
    walks = (e.pairs(e.plan.tiles()) for e in engines)
    for (i, j, *one), (_, _, *two) in zip(*walks, strict=True):
        plan = engines[0].plan
        yield plan.weight(i, j), (one, two), plan.symmetric and i == j


def _tiles(engines: list[Engine], pair: tuple, lower: bool) -> list[Tensor]:
    return [e.tile(*b, lower)[WHOLE] for e, b in zip(engines, pair, strict=True)]


def _dot(engines: list[Engine], pair: tuple, lower: bool) -> Tensor:
    """[<A,B>, <A,A>, <B,B>] of one tile of both models."""
    plan = engines[0].plan
    fused = products(plan.backend, plan.precision).fused_gram_dot
    if fused is None or plan.sketch is not None:
        return gram_dot(*_tiles(engines, pair, lower))
    unsummed = [e.unsummed(*b, lower) for e, b in zip(engines, pair, strict=True)]
    (a, one), (b, two) = unsummed
    return fused(one, two, (a, b), plan.outputs, lower=lower)


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
    looks = {key: options.pop(key) for key in ("select", "strict") if key in options}
    targets = [prepare(model, x, z, outputs, params, **looks) for model in (a, b)]
    counts = [t.found.outputs for t in targets]
    if counts[0] != counts[1]:
        raise InputError(
            f"model_a has {counts[0]} outputs but model_b {counts[1]}; a distance needs the same "
            "outputs"
        )
    options["sketch"] = check_sketch(options.pop("sketch", None), options.pop("seed", 0))
    if options["sketch"] is not None:
        _check_probes(*(probe_kinds(t.found, options["sketch"]) for t in targets))
    memory = options.pop("memory", None)
    memory = available_memory(targets[0].like.device) if memory is None else parse_bytes(memory)
    plans = [
        make_plan(t, memory=memory // 2, streamed=True, parted=False, **options) for t in targets
    ]
    grid = {key: min(getattr(p, key) for p in plans) for key in ("block", "keep", "batch")}
    return [Engine(t, replace(plan, **grid)) for t, plan in zip(targets, plans, strict=True)]
