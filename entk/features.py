"""What a block of samples contributes, by parameter: rows, or what factors are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
from entk.survey import Served, Survey


@dataclass(frozen=True)
class Pending:
    """Factors not formed yet: the patches of a convolution are many times its input."""

    uses: tuple[tuple[Call, str, Layout, Tensor], ...]  # call, role, layout, output gradients

    def factors(self, scratch: Scratch) -> Factors:
        """To be used before the next ones are formed in the same scratch memory."""
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


def capture_block(
    model: nn.Module, found: Survey, x: Tensor | Samples, plan: Plan
) -> dict[str, Tensor | Pending]:
    """{parameter: rows [N, O, P] or pending factors} for the samples x."""
    leaves, state = leaf_state(model, (s.name for s in found.served), found.writes_parameters)
    total = plan.outputs == "sum"
    recorder = found.recorder(leaves, products(plan.backend, plan.precision).functions)
    with recorder:
        y = forward(model, state, x, total)
    calls = recorder.calls
    _check_forward(y, calls, found, len(x))
    block = _Collected(found, plan, calls, len(x))
    for o, column in enumerate(gradients(y, calls)):
        for i in range(len(calls)):
            g, column[i] = column[i], None  # goes as soon as it is used
            block.take(o, i, g)
    _resolve(block.rows, found, recorder, leaves)
    return block.rows | block.pending() | _generic(model, state, found, x, total, plan)


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
                    self.factors[i] = (s, role, strategy.get(s.name, "rows") == "rows")

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
        if i not in self.stacks:
            self.stacks[i] = pages.empty((len(g), depth, *g.shape[1:]), g)
        self.stacks[i][:, o % depth] = g
        if to_rows and (o % depth == depth - 1 or o == self.found.outputs - 1):
            start = o - o % depth
            factors = call.factors(role, layout, self.stacks[i][:, : o + 1 - start])
            tokens = len(call.arguments[role])
            rows = factors.rows(tokens) if factors.is_tokens else self.form(factors)
            if call.rule.transposed:
                c, k = factors.g.shape[3], factors.a.shape[2]
                rows = rows.unflatten(2, (c, k)).mT.flatten(2)
            self._put(s, start, rows)
            if o == self.found.outputs - 1:
                del self.stacks[i]

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
