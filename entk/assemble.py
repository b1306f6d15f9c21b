"""Runs a plan: features of each block of samples, their products tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from entk.errors import InputError
from entk.factors import Factors, kernel_shape, mirror
from entk.features import Pending, Scratch, capture_block, join
from entk.ops import products
from entk.plan import Plan
from entk.precision import computing
from entk.request import Target
from entk.samples import Samples
from entk.sketch import ERROR, estimate, split, square
from entk.survey import Survey
from entk.tiling import SEGMENT

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
    part: slice | None = None  # of the outputs; None: all
    tick: Callable[[], None] = lambda: None  # called before each pass through the model

    @cached_property
    def found(self) -> Survey:
        """Of the outputs that are dealt with."""
        found = self.target.found
        if self.part is None:
            return found
        return replace(found, outputs=self.part.stop - self.part.start)

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(self._group(s.name) for s in self.found.served))

    def _group(self, parameter: str) -> str:
        return layer_name(parameter) if self.by_layer else WHOLE

    def block(self, x: Tensor | Samples) -> Block:
        """What the samples x contribute, in the form that the plan's strategies need."""
        with computing():
            made = self._captured(x)
        groups: dict[str, list] = {group: [] for group in self.groups}
        if self.plan.sketch is not None:
            groups |= {group: [("rows", p) for p in split(phi)] for group, phi in made.items()}
            return Block(len(x), groups)
        strategies = {c.name: c.strategy for c in self.plan.layers}
        for name, part in made.items():
            groups[self._group(name)].append((strategies[name], part))
        return Block(len(x), {group: _join_small(parts) for group, parts in groups.items()})

    def _captured(self, x: Tensor | Samples) -> dict[str, Tensor | Pending]:
        """Of all samples, which go through the model a batch at a time."""
        options = (self.target.model, self.target.found)
        step = self.plan.batch or len(x)
        made = []
        for start in range(0, len(x), step):
            self.tick()
            batch = x[start : start + step]
            made.append(capture_block(*options, batch, self.plan, self._group, self.part))
        if len(made) == 1:
            return made[0]
        return {name: join([each.pop(name) for each in made]) for name in list(made[0])}

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

    def tiles(
        self, wanted: Iterable[tuple[int, int]], pause: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, int, Tile]]:
        """The wanted tiles (i, j, tile); `pause` is called before a long time without any."""
        for rows, todo in self._panels(wanted):
            if self.plan.parts > 1:
                pause()
                made = self._in_parts(rows, todo)
            else:
                made = (
                    (i, j, self.tile(a, b, lower=a is b)) for i, j, a, b in self._panel(rows, todo)
                )
            for i, j, tile in made:
                self._check_finite(i, j, tile)
                yield i, j, tile

    def _check_finite(self, i: int, j: int, tile: Tile) -> None:
        """A Jacobian may be infinite where the outputs are not, as that of sqrt at 0 is."""
        for group, t in tile.items():
            if bool(t.sum().isfinite()) or bool(t.isfinite().all()):
                continue
            of = f" of layer {group!r}" if group else ""
            spans = (self.plan.span(i), self.plan.span(j, axis=1))
            where = " and ".join(f"{s.start} to {s.stop - 1}" for s in spans)
            raise InputError(
                f"the kernel{of} has NaN or infinity between samples {where}: a derivative is not "
                "finite there, or a product too large for its dtype; look at jacobian(), or use "
                "model.double()"
            )

    def pairs(self, wanted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, Block, Block]]:
        """The blocks of the wanted tiles, a panel of kept ones at a time against streamed ones."""
        for rows, todo in self._panels(wanted):
            yield from self._panel(rows, todo)

    def _panels(self, wanted: Iterable[tuple[int, int]]) -> Iterator[tuple[list, list]]:
        """(rows to keep, tiles that they are in); in a few pieces where outputs come in parts."""
        todo = list(wanted)
        rows = sorted({i for i, _ in todo})
        panel = max(self.plan.keep - 1, 1)
        if self.plan.keep >= self.plan.blocks[0] + (0 if self.plan.symmetric else 1):
            panel = len(rows)
        for start in range(0, len(rows), panel or 1):
            chosen = rows[start : start + panel]
            tiles = sorted((t for t in todo if t[0] in chosen), key=lambda t: t[1])
            columns = sorted({j for _, j in tiles})
            step = SEGMENT * panel if self.plan.parts > 1 else len(columns)
            for at in range(0, len(columns), step):
                among = set(columns[at : at + step])
                yield chosen, [t for t in tiles if t[1] in among]

    def _in_parts(self, rows: list[int], todo: list[tuple[int, int]]) -> Iterator:
        """The tiles of a panel, which wait for all parts of the outputs."""
        made: dict[tuple[int, int], dict[str, list[Tensor]]] = {}
        for part in self.plan.output_parts(self.target.found.outputs):
            engine = replace(self, part=part)
            for i, j, a, b in engine._panel(rows, todo):
                tile = engine.tile(a, b, lower=a is b)
                whole = made.setdefault((i, j), {group: [] for group in tile})
                for group, t in tile.items():
                    if self.plan.outputs == "trace" and whole[group]:
                        whole[group][0] += t
                    else:
                        whole[group].append(t)
        for i, j in todo:
            yield i, j, {group: torch.cat(parts) for group, parts in made.pop((i, j)).items()}

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
