"""Runs a plan: features of each block of samples, their products tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from entk.factors import Factors, kernel_shape, mirror
from entk.features import Pending, Scratch, capture_block
from entk.ops import products
from entk.plan import Plan
from entk.precision import computing
from entk.request import Target
from entk.samples import Samples
from entk.sketch import ERROR, estimate, split, square
from entk.survey import Survey

SMALL = 4096  # parameters with fewer entries share one product
WHOLE = ""  # the group of a kernel that is not split by layer

Tile = dict[str, Tensor]  # group -> tile of that group's kernel
Part = tuple[str, Tensor | Pending]


@dataclass(frozen=True)
class Block:
    """Features of a block of samples: per group (strategy, rows [N, O, P] or pending factors)."""

    samples: int
    groups: dict[str, list[Part]]


@dataclass(frozen=True)
class Engine:
    """A target and the plan to run."""

    target: Target
    plan: Plan
    by_layer: bool = False

    @property
    def found(self) -> Survey:
        return self.target.found

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(self._group(s.name) for s in self.found.served))

    def _group(self, parameter: str) -> str:
        return layer_name(parameter) if self.by_layer else WHOLE

    def block(self, x: Tensor | Samples) -> Block:
        """What the samples x contribute, in the form that the plan's strategies need."""
        with computing():
            made = capture_block(self.target.model, self.found, x, self.plan, self._group)
        groups: dict[str, list] = {group: [] for group in self.groups}
        if self.plan.sketch is not None:
            groups |= {group: [("rows", p) for p in split(phi)] for group, phi in made.items()}
            return Block(len(x), groups)
        strategies = {c.name: c.strategy for c in self.plan.layers}
        for name, part in made.items():
            groups[self._group(name)].append((strategies[name], part))
        return Block(len(x), {group: _join_small(parts) for group, parts in groups.items()})

    def tile(self, x: Block, z: Block, lower: bool) -> Tile:
        """The tile of two blocks; `lower`: they are the same."""
        if self.plan.sketch is not None:
            with computing(), torch.no_grad():
                return self._sketched_tile(x, z, lower)
        found = {}
        with computing(), torch.no_grad():
            for group in self.groups:
                parts = list(zip(x.groups[group], z.groups[group], strict=True))
                found[group] = out = self._sum(parts, x, z, lower)
                if lower:
                    mirror(out, self.plan.outputs)
        return found

    def unsummed(self, x: Block, z: Block, lower: bool) -> tuple[Tensor, list]:
        """The tile of all but the rows, and those rows: what `fused_gram_dot` takes."""
        parts = list(zip(x.groups[WHOLE], z.groups[WHOLE], strict=True))
        rows = [(a, b) for (strategy, a), (_, b) in parts if strategy == "rows"]
        with computing(), torch.no_grad():
            rest = [pair for pair in parts if pair[0][0] != "rows"]
            return self._sum(rest, x, z, lower), rows

    def _sketched_tile(self, x: Block, z: Block, lower: bool) -> Tile:
        """The groups of probes one by one, for the error shows between them."""
        found, errors = {}, []
        for group in self.groups:
            pairs = zip(x.groups[group], z.groups[group], strict=True)
            shares = (self._share(pair, x, z, lower) for pair in pairs)
            found[group], error = estimate(self._zeros(x, z), shares)
            errors.append(error)  # layers have independent probes: errors add up
        return found | {ERROR: torch.stack([sum(errors), square(sum(found.values()))])}

    def _share(self, pair: tuple, x: Block, z: Block, lower: bool) -> Tensor:
        part = self._sum([pair], x, z, lower)
        return mirror(part, self.plan.outputs) if lower else part

    def _zeros(self, x: Block, z: Block) -> Tensor:
        shape = kernel_shape(x.samples, z.samples, self.found.outputs, self.plan.outputs)
        return self.target.like.new_zeros(shape)

    def _sum(self, parts: list, x: Block, z: Block, lower: bool) -> Tensor:
        backend = products(self.plan.backend, self.plan.precision)
        out, one, two = self._zeros(x, z), Scratch(), Scratch()
        for (strategy, a), (_, b) in parts:
            left = _formed(a, one)
            right = left if b is a else _formed(b, two)
            backend.by_strategy[strategy](left, right, out, self.plan.outputs, lower=lower)
        return out

    def tiles(self, wanted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, Tile]]:
        """The wanted tiles (i, j, tile)."""
        for i, j, a, b in self.pairs(wanted):
            yield i, j, self.tile(a, b, lower=a is b)

    def pairs(self, wanted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, Block, Block]]:
        """The blocks of the wanted tiles, a panel of kept ones at a time against streamed ones."""
        todo = list(wanted)
        rows = sorted({i for i, _ in todo})
        panel = max(self.plan.keep - 1, 1)
        if self.plan.keep >= self.plan.blocks[0] + (0 if self.plan.symmetric else 1):
            panel = len(rows)
        for start in range(0, len(rows), panel or 1):
            chosen = rows[start : start + panel]
            yield from self._panel(chosen, [t for t in todo if t[0] in chosen])

    def _panel(self, rows: list[int], todo: list[tuple[int, int]]) -> Iterator:
        x, z = self.target.x, self.target.z
        kept = {i: self.block(x[self.plan.span(i)]) for i in rows}
        for j in sorted({j for _, j in todo}):
            if z is None:
                other = kept[j] if j in kept else self.block(x[self.plan.span(j)])
            else:
                other = self.block(z[self.plan.span(j, axis=1)])
            for i in (i for i, column in todo if column == j):
                yield i, j, kept[i], other


def layer_name(parameter: str) -> str:
    """The module that a parameter belongs to; a parameter of the model itself is its own layer."""
    return parameter.rpartition(".")[0] or parameter


def _formed(part: Tensor | Pending, scratch: Scratch) -> Tensor | Factors:
    return part.factors(scratch) if isinstance(part, Pending) else part


def _join_small(parts: list[Part]) -> list[Part]:
    """Rows of biases, norms and other small parameters side by side: one product for all."""
    small = [p for s, p in parts if s == "rows" and p.shape[2] <= SMALL]
    rest = [(s, p) for s, p in parts if s != "rows" or p.shape[2] > SMALL]
    if len(small) > 1:
        small = [torch.cat(small, 2)]
    return rest + [("rows", p) for p in small]
