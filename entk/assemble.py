"""Runs a plan: features of each block of samples, their products tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from entk.capture import check_state
from entk.errors import InputError
from entk.factors import Factors, kernel_shape, mirror
from entk.features import Pending, Scratch, capture_block
from entk.inputs import (
    check_model,
    check_outputs,
    check_samples,
    first_parameter,
    parameter_names,
)
from entk.ops import choose_backend, products
from entk.plan import Job, Plan, layer_costs, parse_bytes, product_cost
from entk.precision import check_precision, computing
from entk.rates import Rates, choose_rates
from entk.sketch import ERROR, Sketch, estimate, split, square
from entk.survey import Survey, survey
from entk.tiling import available_memory, captures, choose_tiles, footprint

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
    """A model, what was found out about it, and the plan to run."""

    model: nn.Module
    found: Survey
    plan: Plan
    by_layer: bool = False

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(self._group(s.name) for s in self.found.served))

    def _group(self, parameter: str) -> str:
        return layer_name(parameter) if self.by_layer else WHOLE

    def block(self, x: Tensor) -> Block:
        """What the samples x contribute, in the form that the plan's strategies need."""
        with computing():
            made = capture_block(self.model, self.found, x, self.plan, self._group)
        groups: dict[str, list] = {group: [] for group in self.groups}
        if self.plan.sketch is not None:
            groups |= {group: [("rows", p) for p in split(phi)] for group, phi in made.items()}
            return Block(len(x), groups)
        strategies = {c.name: c.strategy for c in self.plan.layers}
        for name, part in made.items():
            groups[self._group(name)].append((strategies[name], part))
        return Block(len(x), {group: _join_small(parts) for group, parts in groups.items()})

    def tile(self, x: Block, z: Block, like: Tensor, lower: bool) -> Tile:
        """The tile of two blocks, of the dtype and device of `like`; `lower`: they are the same."""
        shape = kernel_shape(x.samples, z.samples, self.found.outputs, self.plan.outputs)
        backend = products(self.plan.backend, self.plan.precision)
        if self.plan.sketch is not None:
            with computing(), torch.no_grad():
                return self._sketched_tile(
                    x, z, partial(like.new_zeros, shape), backend.gram, lower
                )
        found = {}
        one, two = Scratch(), Scratch()
        with computing(), torch.no_grad():
            for group in self.groups:
                out = found[group] = like.new_zeros(shape)
                for (strategy, a), (_, b) in zip(x.groups[group], z.groups[group], strict=True):
                    left = _formed(a, one)
                    right = left if b is a else _formed(b, two)
                    backend.by_strategy[strategy](left, right, out, self.plan.outputs, lower=lower)
                if lower:
                    mirror(out, self.plan.outputs)
        return found

    def _sketched_tile(self, x: Block, z: Block, zeros: Callable, gram: Callable, lower: bool):
        """The groups of probes one by one, for the error shows between them."""
        outputs = self.plan.outputs

        def share(left: Tensor, right: Tensor) -> Tensor:
            gram(left, right, part := zeros(), outputs, lower=lower)
            return mirror(part, outputs) if lower else part

        found, errors = {}, []
        for group in self.groups:
            pairs = zip(x.groups[group], z.groups[group], strict=True)
            found[group], error = estimate(zeros(), (share(a, b) for (_, a), (_, b) in pairs))
            errors.append(error)  # layers have independent probes: errors add up
        return found | {ERROR: torch.stack([sum(errors), square(sum(found.values()))])}

    def tiles(
        self, x: Tensor, z: Tensor | None, wanted: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[int, int, Tile]]:
        """The wanted tiles (i, j, tile), a panel of kept blocks at a time against streamed ones."""
        todo = list(wanted)
        rows = sorted({i for i, _ in todo})
        panel = max(self.plan.keep - 1, 1)
        if self.plan.keep >= self.plan.blocks[0] + (0 if z is None else 1):
            panel = len(rows)
        for start in range(0, len(rows), panel or 1):
            chosen = rows[start : start + panel]
            yield from self._panel(x, z, chosen, [t for t in todo if t[0] in chosen])

    def _panel(self, x, z, rows: list[int], todo: list[tuple[int, int]]) -> Iterator:
        like = first_parameter(self.model, (s.name for s in self.found.served))
        kept = {i: self.block(x[self.plan.span(i)]) for i in rows}
        for j in sorted({j for _, j in todo}):
            if z is None:
                other = kept[j] if j in kept else self.block(x[self.plan.span(j)])
            else:
                other = self.block(z[self.plan.span(j, axis=1)])
            for i in (i for i, column in todo if column == j):
                yield i, j, self.tile(kept[i], other, like, lower=z is None and i == j)


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


def prepare(
    model: nn.Module,
    x: Tensor,
    z: Tensor | None,
    outputs: str,
    params: Iterable[str] | None,
) -> tuple[tuple[str, ...], Survey]:
    """Check every argument and look at the model; nothing of the kernel is computed yet."""
    check_model(model)
    check_outputs(outputs)
    names = parameter_names(model, params)
    check_samples(model, x, z, names)
    check_state(model)
    with computing():
        return names, survey(model, x, names, outputs == "sum")


def make_plan(
    found: Survey,
    x: Tensor,
    z: Tensor | None,
    like: Tensor,
    outputs: str,
    *,
    memory: int | str | None = None,
    block: int | None = None,
    strategy: str | None = None,
    backend: str = "auto",
    precision: str | None = None,
    rates: Rates | str | None = None,
    copies: int = 1,
    streamed: bool = False,
    sketch: Sketch | None = None,
) -> Plan:
    """A plan from a survey, of `copies` kernels (by_layer) that are kept, or else `streamed`."""
    samples = (len(x), len(x if z is None else z))
    backend = choose_backend(backend, like.device, like.dtype)
    precision = check_precision(precision, backend, like.dtype)
    if block is not None and (not isinstance(block, int) or block < 1):
        raise InputError(f"block={block!r}, expected a number of samples, at least 1")
    memory = available_memory(like.device) if memory is None else parse_bytes(memory)
    job = Job(samples, outputs, z is None, like.element_size(), backend, sketch=sketch)
    sketched = 0 if sketch is None else copies * sketch.size
    shape = kernel_shape(*samples, found.outputs, outputs)
    result = 0 if streamed else copies * like.element_size() * torch.Size(shape).numel()
    rates = choose_rates(rates, backend, like.device, like.dtype, outputs)
    wanted = block
    for _ in range(2):  # costs depend on the tiles, which depend on what the costs have chosen
        costs = layer_costs(found, job, strategy, rates)
        size = footprint(found, costs, outputs, like.element_size(), result, copies, sketched)
        tiles = choose_tiles(size, samples, found.outputs, memory, wanted, z is None)
        block, chunk, keep, peak = tiles
        blocks, rounds = (math.ceil(n / block) for n in samples), math.ceil(found.outputs / chunk)
        job = replace(job, blocks=tuple(blocks), rounds=rounds)
    return Plan(
        layers=costs,
        shape=shape,
        outputs=outputs,
        dtype=str(like.dtype).removeprefix("torch."),
        device=str(like.device),
        backend=backend,
        samples=samples,
        symmetric=z is None,
        block=block,
        chunk=chunk,
        keep=keep,
        memory=memory,
        peak=peak,
        precision=precision,
        rates=rates,
        sketch=sketch,
        product=product_cost(job, found.outputs, copies, rates),
        capture_seconds=_capture_seconds(found, job, block, keep),
    )


def _capture_seconds(found: Survey, job: Job, block: int, keep: int) -> float:
    blocks = captures(job.blocks, keep, job.symmetric)
    each = found.timing.passes(min(block, max(job.samples)), found.outputs)
    return found.timing.survey + blocks * each


def check_plan(
    plan: Plan,
    names: tuple[str, ...],
    found: Survey,
    x: Tensor,
    z: Tensor | None,
    like: Tensor,
    outputs: str,
    precision: str | None = None,
    backend: str = "auto",
    memory: int | str | None = None,
    sketch: Sketch | None = None,
) -> None:
    """A plan that the user brings must have been made for this very request."""
    samples = (len(x), len(x if z is None else z))
    expected = {
        "outputs": outputs,
        "symmetric": z is None,
        "samples": samples,
        "shape": kernel_shape(*samples, found.outputs, outputs),
        "dtype": str(like.dtype).removeprefix("torch."),
        "device": str(like.device),
    }
    named = {
        "precision": precision,
        "backend": None if backend == "auto" else backend,
        "memory": None if memory is None else parse_bytes(memory),
        "sketch": sketch,
    }
    expected |= {what: value for what, value in named.items() if value is not None}
    for what, value in expected.items():
        if getattr(plan, what) != value:
            leave = f", or leave {what}= out" if what in named else ""
            raise InputError(
                f"the plan was made for {what}={getattr(plan, what)!r}, this request has "
                f"{value!r}; make a new one with plan_ntk{leave}"
            )
    if tuple(c.name for c in plan.layers) != names:
        raise InputError("the plan was made for other parameters; make a new one with plan_ntk")
