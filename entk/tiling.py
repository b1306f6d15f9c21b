"""Tile and chunk sizes that fit a memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from entk.errors import InputError
from entk.factors import kernel_shape
from entk.ops.pairs_gram import SCRATCH
from entk.plan import LayerCost, feature_elements, format_bytes
from entk.survey import Served, Survey

TILE_ROWS = 640  # N*O of a tile: products run near their peak
NARROWEST = 4 * 192  # parameters of the narrowest strip, as in csrc/gram.cpp
OVERHEAD = 4  # samples that one more pass through the model costs beside its own
RESERVE = 0.25  # share of the budget left to allocators and library scratch


@dataclass(frozen=True)
class Footprint:
    """Bytes that the phases of a kernel hold, as functions of block size and output chunk."""

    feature: int  # one sample between capture and product
    activations: int  # one sample in the autograd graph
    gradients: int  # one sample's, of one output, at all noted calls
    stacked: int  # of those, what waits for a chunk of outputs, to be made rows of
    patches: int  # one sample's largest, where rows are made of them
    factors: int  # one sample's largest, formed for a product
    result: int  # the finished kernel, or the shards under way
    tile: int  # of one sample pair: a tile for each layer of by_layer, and one to work on
    strip: int  # rows of one sample that are formed at once where none are kept
    scratch: int

    def capture(self, block: int, chunk: int) -> int:
        waiting = 3 * self.gradients + chunk * self.stacked + self.patches  # and normalised inputs
        return block * (self.activations + waiting)

    def products(self, block: int, sides: int) -> int:
        return block * (sides * self.factors + self.strip) + self.scratch

    def peak(self, block: int, chunk: int, keep: int, blocks: int) -> int:
        phases = (self.capture(block, chunk), self.products(block, min(blocks, 2)))
        kept = keep * block * self.feature
        return self.result + kept + max(phases) + block**2 * self.tile


def footprint(
    found: Survey,
    costs: tuple[LayerCost, ...],
    outputs: str,
    itemsize: int,
    result: int,
    copies: int,
    sketched: int,
) -> Footprint:
    """`copies` kernels come of a tile; a sketch keeps `sketched` numbers of a sample's output."""
    o = found.outputs
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
        result=result,
        tile=(copies + 1) * itemsize * math.prod(kernel_shape(1, 1, o, outputs)),
        strip=2 * itemsize * o * NARROWEST if "fused" in used else 0,
        scratch=3 * itemsize * SCRATCH if {"pairs", "fused", "sketch", "dense"} & used else 0,
    )


def _stacked(s: Served, strategy: str, found: Survey) -> int:
    """Elements of one sample and output that wait for a chunk of outputs."""
    if strategy == "sketch":
        return 2 * sum(found.call_outputs[i] for i, _ in s.calls)  # the copy has another order
    if s.kind == "factors":
        return s.gradient + s.size if strategy in ("rows", "dense") else 0
    return s.size if strategy == "dense" and s.kind == "rows" else 0


def choose_tiles(
    cost: Footprint, samples: tuple[int, int], o: int, memory: int, block: int | None, square: bool
) -> tuple[int, int, int, int]:
    """(block, chunk, keep, peak): of the tiles that fit, those that capture the fewest samples."""
    allowed = int(memory * (1 - RESERVE))
    found = []
    for side, chunk in _candidates(max(samples), o, block):
        counts = tuple(math.ceil(n / side) for n in samples)
        total = counts[0] if square else sum(counts)
        least = min(2, total)
        spare = allowed - cost.peak(side, chunk, least, total)
        if spare >= 0:
            more = spare // (side * cost.feature) if cost.feature else total
            keep = min(total, least + more)
            rounds = math.ceil(o / chunk)
            work = captures(counts, keep, square) * (side + OVERHEAD) * (1 + rounds / o)
            found.append((work, side, chunk, keep, cost.peak(side, chunk, keep, total)))
    if found:
        _, side, chunk, keep, peak = min(found, key=lambda f: f[0])
        return side, chunk, keep, peak
    side = block or 1
    need = int(cost.peak(side, 1, min(2, sum(samples)), sum(samples)) / (1 - RESERVE)) + 1
    raise InputError(
        f"memory={format_bytes(memory)} is too small: tiles of {side} samples need about "
        f"{format_bytes(need)}; raise memory=, ask for fewer parameters, or stream the result "
        "with write_ntk"
    )


def captures(counts: tuple[int, int], keep: int, square: bool) -> int:
    """Blocks that go through the model when `keep` of them are in memory at once."""
    rows, columns = counts
    if keep >= (rows if square else rows + 1):
        return rows if square else rows + columns
    panels = range(0, rows, max(keep - 1, 1))
    return rows + (sum(panels) if square else len(panels) * columns)


def _candidates(most: int, o: int, block: int | None) -> Iterator[tuple[int, int]]:
    """(block, chunk), large ones first; equal blocks rather than a small last one."""
    sides = [block] if block else _halvings(min(most, max(16, min(256, TILE_ROWS // o))))
    for side in sides:
        even = block or math.ceil(most / math.ceil(most / side))
        for chunk in _halvings(o):
            yield even, chunk


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
