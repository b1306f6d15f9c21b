"""What a block of samples contributes, by parameter: rows, or what factors are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from entk import pages
from entk.capture import Call, Layout, check_finite, forward, gradients, leaf_state
from entk.derived import through
from entk.errors import UnsupportedModelError
from entk.factors import Factors, concatenate
from entk.generic import generic_jacobian
from entk.ops import products
from entk.plan import Plan
from entk.recorder import Recorder
from entk.rules.base import plain_empty
from entk.samples import Samples
from entk.sketch import Projector
from entk.survey import Served, Survey


@dataclass(frozen=True)
class Pending:
    """Factors not formed yet: the patches of a convolution are many times its input."""

    uses: tuple[tuple[Call, str, Layout, Tensor], ...]  # call, role, layout, output gradients
    more: tuple[Pending, ...] = ()  # of the samples after these

    def factors(self, scratch: Scratch) -> Factors:
        """To be used before the next ones are formed in the same scratch memory."""
        if self.more:
            first = replace(self, more=())
            made = [each.factors(Scratch()) for each in (first, *self.more)]
            return Factors(
                *(torch.cat(side) for side in zip(*((f.a, f.g) for f in made), strict=True))
            )
        empty = scratch.empty if len(self.uses) == 1 else plain_empty
        return concatenate(
            [call.factors(role, layout, g, empty) for call, role, layout, g in self.uses]
        )


class Scratch:
    """Memory that is used again: to touch fresh pages costs several times what a copy does."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        size = math.prod(shape)
        if self.buffer is None or len(self.buffer) < size:
            self.buffer = None  # goes first
            self.buffer = pages.empty((size,), like)
        return self.buffer[:size].view(shape)


def join(parts: list[Tensor | Pending]) -> Tensor | Pending:
    """What batches of samples contribute, as one."""
    if isinstance(parts[0], Pending):
        return replace(parts[0], more=tuple(parts[1:]))
    return torch.cat(parts)


def capture_block(
    model: nn.Module,
    found: Survey,
    x: Tensor | Samples,
    plan: Plan,
    group: Callable[[str], str] = lambda parameter: parameter,
    part: slice | None = None,
) -> dict[str, Tensor | Pending]:
    """{parameter: rows [N, O, P] or pending factors} for the samples x.

    With a sketch {group: [N, O, k], unscaled}, where `group` says which group a parameter is in.
    `part`: of these outputs only.
    """
    leaves, state = leaf_state(model, (s.name for s in found.served), found.writes_parameters)
    total = plan.outputs == "sum"
    recorder = found.recorder(leaves, products(plan.backend, plan.precision).functions)
    with recorder:
        y = forward(model, state, x, total, found.traced)
    calls = recorder.calls
    _check_forward(y, calls, found, len(x))
    if part is not None:
        y = y[:, part]
        found = replace(found, outputs=y.shape[1])
    resolve = partial(_resolve, found=found, recorder=recorder, leaves=leaves)
    if plan.sketch is None:
        block = _Collected(found, plan, calls, len(x))
    else:
        block = _Sketched(found, plan, calls, len(x), group, resolve)
    for o, column in enumerate(gradients(y, calls)):
        for i in range(len(calls)):
            g, column[i] = column[i], None  # goes as soon as it is used
            block.take(o, i, g)
        block.finish(o)
    rest = _generic(model, state, found, x, total, plan)
    if plan.sketch is None:
        resolve(block.rows)
        return block.rows | block.pending() | rest
    for name, j in rest.items():
        block.project(name, j, 0)
    return block.sketches


class _Collected:
    """Where output gradients go: into rows at once, or onto stacks for the factors."""

    def __init__(self, found: Survey, plan: Plan, calls: list[Call], samples: int):
        self.found, self.calls, self.samples = found, calls, samples
        self.form, self.chunk = products(plan.backend, plan.precision).rows, plan.chunk
        self.rows: dict[str, Tensor] = {}
        self.stacks: dict[int, Tensor] = {}
        self.maps: list[list] = [[] for _ in calls]  # (parameter, g -> its rows) of each call
        self.factors: dict[int, tuple[Served, str, bool]] = {}  # (parameter, role, to be rows)
        strategy = {c.name: c.strategy for c in plan.layers}
        for s in (*found.served, *found.derived):
            for i, role in s.calls:
                if role in calls[i].rule.rows:
                    self.maps[i].append((s, calls[i].rows(role, found.layouts[i])))
                else:
                    to_rows = strategy.get(s.name, "rows") not in ("pairs", "fused")
                    self.factors[i] = (s, role, to_rows)

    def take(self, o: int, i: int, g: Tensor | None) -> None:
        """The gradient of output o at call i; None: zero."""
        layout, call = self.found.layouts[i], self.calls[i]
        g = layout.samples_first(call.zeros() if g is None else g)
        for s, rows in self.maps[i]:
            self._put(s, o, rows(g[:, None]))
        if i not in self.factors:
            return
        s, role, to_rows = self.factors[i]
        depth = min(self.chunk, self.found.outputs) if to_rows else self.found.outputs
        if depth == 1:  # nothing to stack
            self._take_alone(s, o, i, g[:, None], role, to_rows)
            return
        if i not in self.stacks:
            self.stacks[i] = pages.empty((len(g), depth, *g.shape[1:]), g)
        self.stacks[i][:, o % depth] = g
        if to_rows and (o % depth == depth - 1 or o == self.found.outputs - 1):
            start = o - o % depth
            factors = call.factors(role, layout, self.stacks[i][:, : o + 1 - start])
            self._add_factors(s, start, factors, call, role)
            if o == self.found.outputs - 1:
                del self.stacks[i]

    def _take_alone(self, s: Served, o: int, i: int, g: Tensor, role: str, to_rows: bool) -> None:
        if to_rows:
            factors = self.calls[i].factors(role, self.found.layouts[i], g)
            self._add_factors(s, o, factors, self.calls[i], role)
        else:
            self.stacks[i] = g

    def finish(self, o: int) -> None:
        """All calls have given their gradient of output o."""

    def _add_factors(self, s: Served, start: int, factors: Factors, call: Call, role: str) -> None:
        """Factors of the outputs from `start` on become rows."""
        self._put(s, start, self._formed(factors, call, role))

    def _formed(self, factors: Factors, call: Call, role: str) -> Tensor:
        """Rows in the order of the parameter's entries."""
        if factors.is_tokens:
            return factors.rows(len(call.arguments[role]))
        rows = self.form(factors)
        if not call.rule.transposed:
            return rows
        return rows.unflatten(2, (factors.g.shape[3], factors.a.shape[2])).mT.flatten(2)

    def _put(self, s: Served, start: int, part: Tensor) -> None:
        """Rows of the outputs from `start` on; those of all of a parameter's calls are added."""
        count = part.shape[1]
        if count == self.found.outputs and len(s.calls) == 1:
            self.rows[s.name] = part
            return
        if s.name not in self.rows:
            self.rows[s.name] = part.new_zeros(self.samples, self.found.outputs, s.size)
        self.rows[s.name][:, start : start + count] += part

    def pending(self) -> dict[str, Pending]:
        uses: dict[str, list] = {}
        for i, (s, role, to_rows) in sorted(self.factors.items()):
            if not to_rows:
                call = replace(self.calls[i], edge=None)  # the graph goes
                uses.setdefault(s.name, []).append(
                    (call, role, self.found.layouts[i], self.stacks[i])
                )
        return {name: Pending(tuple(each)) for name, each in uses.items()}


def _resolve(
    rows: dict[str, Tensor], found: Survey, recorder: Recorder, leaves: dict[str, Tensor]
) -> None:
    """In place: rows of derived tensors become rows of the parameters that they come from."""
    for derived in found.derived:
        origin, names = recorder.origins[derived.name]
        outer = rows.pop(derived.name)
        for name, part in zip(
            names, through(origin, [leaves[n] for n in names], outer), strict=True
        ):
            rows[name] = rows[name] + part if name in rows else part


class _Sketched(_Collected):
    """Output gradients are projected as soon as a chunk of outputs has its own."""

    def __init__(
        self,
        found: Survey,
        plan: Plan,
        calls: list[Call],
        samples: int,
        group: Callable,
        resolve: Callable,
    ):
        super().__init__(found, plan, calls, samples)
        self.projector, self.group, self.resolve = Projector(plan.sketch), group, resolve
        self.chunk = min(plan.chunk, found.outputs)
        self.products = {c.name for c in plan.layers if c.strategy == "sketch"}
        self.origins = {s.name for s in found.derived}
        self.sketches: dict[str, Tensor] = {}

    def project(
        self, name: str, part: Tensor | Factors, start: int, transposed: bool = False
    ) -> None:
        """Add what a parameter gives to the outputs from `start` on."""
        if isinstance(part, Tensor):
            found = self.projector.rows(name, part)
        else:
            found = self.projector.factors(name, part, transposed)
        group = self.group(name)
        if group not in self.sketches:
            shape = (self.samples, self.found.outputs, found.shape[2])
            self.sketches[group] = found.new_zeros(shape)
        self.sketches[group][:, start : start + found.shape[1]] += found

    def finish(self, o: int) -> None:
        """Rows wait for all of a chunk: their signs are many, and formed once for it."""
        if o % self.chunk == self.chunk - 1 or o == self.found.outputs - 1:
            start = o - o % self.chunk
            rows = {name: part[:, : o + 1 - start] for name, part in self.rows.items()}
            self.rows.clear()
            self.resolve(rows)
            for name, part in rows.items():
                self.project(name, part, start)

    def _add_factors(self, s: Served, start: int, factors: Factors, call: Call, role: str) -> None:
        if s.name in self.products:
            self.project(s.name, factors, start, call.rule.transposed)
        elif s.name in self.origins:
            self._put(s, start, self._formed(factors, call, role))
        else:
            self.project(s.name, self._formed(factors, call, role), start)

    def _put(self, s: Served, start: int, part: Tensor) -> None:
        if s.name not in self.rows:
            self.rows[s.name] = part.new_zeros(self.samples, self.chunk, s.size)
        at = start % self.chunk
        self.rows[s.name][:, at : at + part.shape[1]] += part


def _check_forward(y: Tensor, calls: list[Call], found: Survey, n: int) -> None:
    check_finite(y)
    same = y.shape[1] == found.outputs and tuple(c.signature for c in calls) == found.signatures
    if not same or any(map(_lacks_samples, calls, found.layouts, [n] * len(calls))):
        raise UnsupportedModelError(
            "the model took another path on these samples than on the first ones (other outputs "
            "or other layers); compute the kernel of each path by itself"
        )
    for call in calls:
        call.check_input()


def _lacks_samples(call: Call, layout: Layout, n: int) -> bool:
    return call.arguments["input"].shape[layout.axis] != n * layout.repeat


def _generic(
    model, state, found: Survey, x: Tensor | Samples, total: bool, plan: Plan
) -> dict[str, Tensor]:
    served = [s for s in found.served if s.kind == "generic"]
    if not served:
        return {}
    method = "vmap" if "vmap" in served[0].rule else "loop"
    itemsize = next(iter(state.values())).element_size()
    held = found.outputs * (found.activations + 2 * sum(s.size for s in served) * itemsize)
    chunk = max(1, min(len(x), plan.memory // 8 // max(held, 1)))
    return generic_jacobian(model, state, [s.name for s in served], x, total, method, chunk)
