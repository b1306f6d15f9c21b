"""What a block of samples contributes, parameter by parameter: rows or factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from entk.capture import Call, Layout, check_finite, forward, gradients, leaf_state
from entk.errors import UnsupportedModelError
from entk.factors import Factors, concatenate
from entk.generic import generic_jacobian
from entk.ops import products
from entk.plan import Plan
from entk.survey import Served, Survey


def capture_block(
    model: nn.Module, found: Survey, x: Tensor, plan: Plan
) -> dict[str, Tensor | Factors]:
    """{parameter: rows [N, O, P] or factors} for the samples x, in chunks of outputs."""
    strategy = {c.name: c.strategy for c in plan.layers}
    leaves, state = leaf_state(model, strategy, copy=found.writes_parameters)
    total = plan.outputs == "sum"
    backend = products(plan.backend, plan.precision)
    recorder = found.recorder(leaves, backend.functions)
    with recorder:
        y = forward(model, state, x, total)
    _check_forward(y, recorder.calls, found, len(x))
    uses = _uses(found)
    chunks: dict[str, list] = {}
    for start in range(0, found.outputs, plan.chunk):
        span = range(start, min(start + plan.chunk, found.outputs))
        columns = gradients(y, recorder.calls, span, last=span.stop == found.outputs)
        parts: dict[str, list] = {}
        for i, call in enumerate(recorder.calls):
            g = call.stack(found.layouts[i], columns[i])
            columns[i] = None  # the widest gradients go as soon as they are used
            for s, role in uses[i]:
                layout = found.layouts[i]
                if strategy[s.name] in ("pairs", "fused"):
                    part = call.factors(role, layout, g)
                else:
                    part = call.rows(role, layout, g, backend.rows)
                parts.setdefault(s.name, []).append(part)
        for name, items in parts.items():
            chunks.setdefault(name, []).append(_over_calls(items))
    made = {name: _over_chunks(items) for name, items in chunks.items()}
    return made | _generic(model, state, found, x, total, plan)


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


def _uses(found: Survey) -> list[list[tuple[Served, str]]]:
    uses: list[list[tuple[Served, str]]] = [[] for _ in found.signatures]
    for s in found.served:
        for index, role in s.calls:
            uses[index].append((s, role))
    return uses


def _over_calls(items: list):
    if isinstance(items[0], Factors):
        return concatenate(items)
    return items[0] if len(items) == 1 else torch.stack(items).sum(0)


def _over_chunks(items: list):
    if len(items) == 1:
        return items[0]
    if isinstance(items[0], Factors):
        return Factors(items[0].a, torch.cat([f.g for f in items], 1))
    return torch.cat(items, 1)


def _generic(model, state, found: Survey, x: Tensor, total: bool, plan: Plan) -> dict[str, Tensor]:
    served = [s for s in found.served if s.kind == "generic"]
    if not served:
        return {}
    method = "vmap" if "vmap" in served[0].rule else "loop"
    held = found.outputs * (found.activations + 2 * sum(s.size for s in served) * x.element_size())
    chunk = max(1, min(len(x), plan.memory // 8 // max(held, 1)))
    return generic_jacobian(model, state, [s.name for s in served], x, total, method, chunk)
