"""Tile and chunk sizes that fit a memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from entk.errors import InputError
from entk.factors import kernel_shape
from entk.ops.pairs_gram import SCRATCH
from entk.plan import LayerCost, feature_elements, format_bytes
from entk.sketch import Sketch
from entk.survey import Served, Survey

TILE_ROWS = 640  # N*O of a tile: products run near their peak
NARROWEST = 4 * 192  # parameters of the narrowest strip, as in csrc/gram.cpp
OVERHEAD = 4  # samples that one more pass through the model costs beside its own
PASS = 2  # multiply-adds of a large product in the time of one of a pass
SMALL = 10  # rows of a tile whose products take twice the time of large ones
SEGMENT = 8  # panels along the columns that are open at once where outputs come in parts
RESERVE = 0.25  # share of the budget left to allocators and library scratch


@dataclass(frozen=True)
class Tiling:
    """How samples and outputs are divided."""

    parts: int  # of the outputs, one after another
    block: int  # samples on a side of a tile
    batch: int  # samples of one pass through the model
    chunk: int  # outputs whose gradients are made rows of at once
    keep: int = 0  # blocks in memory at once


@dataclass(frozen=True)
class Footprint:
    """Bytes that the phases of a kernel hold, as functions of the sizes of tiles and passes."""

    feature: int  # one sample between capture and product
    activations: int  # one sample in the autograd graph
    gradients: int  # one sample's, of one output, at all noted calls
    stacked: int  # of those, what waits for a chunk of outputs, to be made rows of
    patches: int  # one sample's largest, where rows are made of them
    factors: int  # one sample's largest, formed for a product
    joined: int  # one sample's largest rows
    result: int  # the finished kernel, or the shards under way
    tile: int  # of one sample pair: a tile for each layer of by_layer, and one to work on
    strip: int  # rows of one sample that are formed at once where none are kept
    scratch: int
    work: int  # multiply-adds of one sample's forward pass, in the layers that are served
    rows: int  # of a product that one sample gives
    outputs: int  # of a part
    parts: int = 1  # that the outputs are taken in

    def capture(self, batch: int, chunk: int) -> int:
        waiting = 3 * self.gradients + chunk * self.stacked + self.patches  # and normalised inputs
        return batch * (self.activations + waiting)

    def joining(self, block: int) -> int:
        """A parameter's part in a block, made of those of several passes."""
        return block * max(self.joined, self.factors)

    def products(self, block: int, sides: int, joined: bool) -> int:
        copies = 2 if joined else 1
        return block * (sides * copies * self.factors + self.strip) + self.scratch

    def peak(self, t: Tiling, blocks: int) -> int:
        """`blocks`: of the samples of both sides, all that could be kept."""
        block, keep, joined = t.block, t.keep, t.batch < t.block
        phases = [self.capture(t.batch, t.chunk), self.products(block, min(blocks, 2), joined)]
        phases += [self.joining(block)] if joined else []
        kept = keep * block * self.feature
        return self.result + kept + max(phases) + self.open_tiles(block, keep) * self.tile

    def open_tiles(self, block: int, keep: int) -> int:
        """Sample pairs whose entries are under way: parts of the outputs add to them in turn."""
        panel = max(keep - 1, 1)
        return block**2 * (1 if self.parts == 1 else 1 + SEGMENT * panel**2)


def footprint(
    found: Survey,
    costs: tuple[LayerCost, ...],
    outputs: str,
    itemsize: int,
    result: int,
    copies: int,
    sketched: int,
    parts: int = 1,
) -> Footprint:
    """`copies` kernels come of a tile; a sketch keeps `sketched` numbers of a sample's output."""
    o = math.ceil(found.outputs / parts)
    strategy = {c.name: c.strategy for c in costs}
    used = set(strategy.values())
    feature = o * sketched + sum(feature_elements(s, strategy[s.name], o) for s in found.served)
    generic = sum(s.size for s in found.served if s.kind == "generic")
    factored = [s for s in found.served if s.kind == "factors"]
    formed = [s for s in factored if strategy[s.name] in ("rows", "sketch", "dense")]
    products = [s for s in factored if strategy[s.name] in ("pairs", "fused")]
    return Footprint(
        feature=itemsize * feature,
        activations=found.activations + 2 * itemsize * o * generic,
        gradients=itemsize * sum(found.call_outputs),
        stacked=itemsize * sum(_stacked(s, strategy[s.name], found) for s in found.served),
        patches=itemsize * max((s.patch + s.groups * s.t for s in formed), default=0),
        factors=itemsize * max((s.patch + o * s.gradient for s in products), default=0),
        joined=itemsize
        * max((s.size for s in found.served if strategy[s.name] == "rows"), default=0)
        * o,
        result=result,
        tile=(copies + 1) * itemsize * math.prod(kernel_shape(1, 1, found.outputs, outputs)),
        strip=2 * itemsize * o * NARROWEST if "fused" in used else 0,
        scratch=3 * itemsize * SCRATCH if {"pairs", "fused", "sketch", "dense"} & used else 0,
        work=sum(s.size * s.t for s in found.served),
        rows=o if outputs == "all" else 1,
        outputs=o,
        parts=parts,
    )


def output_parts(found: Survey, outputs: str, sketch: Sketch | None) -> list[int]:
    """In how many parts outputs may be taken: in one, where all meet all or are one function."""
    generic = any(s.kind == "generic" for s in found.served)  # torch.func forms all at once
    if outputs not in ("diagonal", "trace") or generic or sketch is not None:
        return [1]
    return [math.ceil(found.outputs / size) for size in _halvings(found.outputs)]


def _stacked(s: Served, strategy: str, found: Survey) -> int:
    """Elements of one sample and output that wait for a chunk of outputs."""
    if strategy == "sketch":
        return 2 * sum(found.call_outputs[i] for i, _ in s.calls)  # the copy has another order
    if s.kind == "factors":
        return s.gradient + s.size if strategy in ("rows", "dense") else 0
    return s.size if strategy == "dense" and s.kind == "rows" else 0


def choose_tiles(
    costs: Sequence[Footprint],
    samples: tuple[int, int],
    memory: int,
    block: int | None,
    square: bool,
    products: float,
) -> tuple[Tiling, int]:
    """Of the tilings that fit, that with the least work; and its peak.

    `costs` has an entry for each number of parts that the outputs may be taken in; `products` are
    the multiply-adds of all tiles. No clock has a say here: a plan is the same each time.
    """
    allowed = int(memory * (1 - RESERVE))
    best, least = None, math.inf
    for cost, tiling in _candidates(costs, max(samples), block):
        counts = tuple(math.ceil(n / tiling.block) for n in samples)
        total = counts[0] if square else sum(counts)
        tiling = _keeping_most(cost, tiling, total, allowed)
        if tiling is None:
            continue
        work = _work(cost, tiling, counts, square, products)
        if work < least:
            best, least = (tiling, cost.peak(tiling, total)), work
            if (
                tiling.keep == total
                and tiling.chunk == cost.outputs
                and tiling.batch == tiling.block
            ):
                break  # nothing twice, in the largest pieces
    if best is not None:
        return best
    side = block or 1
    smallest = Tiling(1, side, 1, 1, min(2, sum(samples)))
    need = min(cost.peak(replace(smallest, parts=cost.parts), sum(samples)) for cost in costs)
    raise InputError(
        f"memory={format_bytes(memory)} is too small: tiles of {side} samples need about "
        f"{format_bytes(int(need / (1 - RESERVE)) + 1)}; raise memory=, ask for fewer "
        "parameters, or stream the result with write_ntk"
    )


def refit(cost: Footprint, tiling: Tiling, total: int, memory: int) -> tuple[Tiling, int]:
    """The same tiles with the most blocks in memory, and the peak.

    Raises InputError: not even those of one tile fit.
    """
    fitted = _keeping_most(cost, tiling, total, int(memory * (1 - RESERVE)))
    if fitted is None:
        need = cost.peak(replace(tiling, keep=min(2, total)), total)
        raise InputError(
            f"memory={format_bytes(memory)} is too small to go on with tiles of {tiling.block} "
            f"samples, which need about {format_bytes(int(need / (1 - RESERVE)) + 1)}; raise "
            "memory=, or pass resume=False to start over in smaller ones"
        )
    return fitted, cost.peak(fitted, total)


def _work(
    cost: Footprint, t: Tiling, counts: tuple[int, int], square: bool, products: float
) -> float:
    """Multiply-adds of the passes and the products, those of small ones weighted."""
    passes = 1 + cost.outputs + math.ceil(cost.outputs / t.chunk)  # a round has its price too
    samples = t.block + OVERHEAD * math.ceil(t.block / t.batch)
    captured = captures(counts, t.keep, square, t.parts) * samples * t.parts
    slowness = 1 + SMALL / (t.block * cost.rows)
    return captured * passes * cost.work * PASS + products * slowness


def _keeping_most(cost: Footprint, tiling: Tiling, total: int, allowed: int) -> Tiling | None:
    """With the most blocks of `total` that fit in memory; None: not even those of a tile fit."""
    low, high = min(2, total), total
    if cost.peak(replace(tiling, keep=low), total) > allowed:
        return None
    while low < high:  # the peak grows with the number
        middle = (low + high + 1) // 2
        fits = cost.peak(replace(tiling, keep=middle), total) <= allowed
        low, high = (middle, high) if fits else (low, middle - 1)
    return replace(tiling, keep=low)


def captures(counts: tuple[int, int], keep: int, square: bool, parts: int = 1) -> int:
    """Blocks that go through the model, for each part, when `keep` are in memory at once."""
    rows, columns = counts
    if keep >= (rows if square else rows + 1):
        return rows if square else rows + columns
    panel = max(keep - 1, 1)
    total = 0
    for start in range(0, rows, panel):
        kept = min(panel, rows - start)
        length = start + kept if square else columns
        again = math.ceil(length / (SEGMENT * panel)) if parts > 1 else 1
        total += again * kept + (start if square else columns)
    return total


def _candidates(
    costs: Sequence[Footprint], most: int, block: int | None
) -> Iterator[tuple[Footprint, Tiling]]:
    """Large ones first; equal blocks rather than a small last one."""
    for cost in costs:
        largest = min(most, max(16, min(256, TILE_ROWS // cost.outputs)))
        for side in [block] if block else _halvings(largest):
            even = block or math.ceil(most / math.ceil(most / side))
            for batch in _halvings(even):
                for chunk in _halvings(cost.outputs):
                    yield cost, Tiling(cost.parts, even, batch, chunk)


def _halvings(value: int) -> list[int]:
    found = [value]
    while found[-1] > 1:
        found.append(math.ceil(found[-1] / 2))
    return found


def available_memory(device: torch.device) -> int:
    """Bytes that a process may sensibly take: half of what the machine or its cgroup has free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    free = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int((group / "memory.current").read_text()))
    except OSError:  # not Linux, or no cgroup limit to read
        pass
    return max(min(free, default=4 << 30) // 2, 64 << 20)
