"""Which path serves each parameter, found out with one and two samples before anything is paid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from entk.capture import Call, Layout, Recorder, check_finite, forward, gradients, leaf_state
from entk.errors import UnsupportedModelError
from entk.generic import choose_method


@dataclass(frozen=True)
class Served:
    """How one parameter gets into the kernel."""

    name: str
    size: int  # P
    rule: str
    kind: str  # "factors", "rows", "generic" or "unused"
    calls: tuple[tuple[int, str], ...] = ()  # (index of the call, role in it)
    note: str = ""
    groups: int = 1  # G
    k: int = 0  # K; 0 for tokens
    c: int = 0  # C
    t: int = 1  # T, summed over the calls
    vocabulary: int = 0  # V of a weight whose input is tokens

    @property
    def patch(self) -> int:
        """Elements of `a` for one sample."""
        return self.groups * max(self.k, 1) * self.t


@dataclass(frozen=True)
class Survey:
    """What a model does with its parameters, per sample."""

    outputs: int  # O
    served: tuple[Served, ...]
    layouts: tuple[Layout, ...] = ()  # of each noted call
    signatures: tuple[tuple, ...] = ()
    activations: int = 0  # bytes that one sample keeps alive for the backward pass
    call_outputs: tuple[int, ...] = ()  # elements at the output of each noted call, one sample
    covered: frozenset[str] = field(default=frozenset())

    def recorder(self, leaves: dict[str, Tensor]) -> Recorder:
        return Recorder({n: leaves[n] for n in leaves if n in self.covered})


def survey(model: nn.Module, x: Tensor, names: tuple[str, ...], total: bool) -> Survey:
    """Look at the model with one sample and with two of `x`; `total` sums the outputs first."""
    one, two = x[:1], x[:2] if len(x) > 1 else torch.cat([x[:1], x[:1]])
    refused: dict[str, str] = {}
    while True:  # each round either ends or takes a parameter out
        leaves, state = leaf_state(model, names)
        covered = {n: leaf for n, leaf in leaves.items() if n not in refused}
        single = _look(model, state, covered, one, total)
        double = _look(model, state, covered, two, total)
        layouts, found = _layouts(single.calls, double)
        found |= _uncovered(single.y, covered)
        if not found:
            break
        refused |= found
    direct = _reached(single.y, {n: leaf for n, leaf in leaves.items() if n in refused})
    served = tuple(
        _serve(name, leaves[name], single, layouts, refused.get(name), name in direct)
        for name in names
    )
    served = _with_method(served, model, state, x, total)
    return Survey(
        outputs=single.y.shape[1],
        served=served,
        layouts=tuple(layouts),
        signatures=tuple(c.signature for c in single.calls),
        activations=single.activations,
        call_outputs=tuple(c.output_shape.numel() for c in single.calls),
        covered=frozenset(covered),
    )


@dataclass
class _Look:
    """One recorded forward pass."""

    y: Tensor
    calls: list[Call]
    activations: int


def _look(model, state, covered, x, total) -> _Look:
    recorder = Recorder(covered)
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        with recorder:
            y = forward(model, state, x, total)
    check_finite(y)
    for call in recorder.calls:
        call.check_input()
        note(call.arguments["input"])
    for t in (x, *state.values()):
        kept.pop(t.untyped_storage().data_ptr(), None)
    return _Look(y, recorder.calls, sum(kept.values()))


def _layouts(calls: list[Call], double: _Look) -> tuple[list[Layout], dict[str, str]]:
    """The layout of each call, and the parameters that have one which cannot be told."""
    if [c.signature for c in calls] != [c.signature for c in double.calls]:
        reason = "the calls depend on the number of samples"
        return [], {name: reason for c in calls for name in c.parameters.values()}
    patterns = _sample_gradients(double)
    layouts, refused = [], {}
    for call, twice, pair in zip(calls, double.calls, patterns, strict=True):
        layout = _layout(call, twice, pair)
        layouts.append(layout)
        if layout is None:
            reason = "no axis of its input holds the samples"
            refused |= dict.fromkeys(call.parameters.values(), reason)
    return layouts, refused


def _sample_gradients(double: _Look) -> list[list[Tensor | None]]:
    """For each call the gradients of sample 0 and of sample 1 at its output."""
    if not double.y.requires_grad or not double.calls:
        return [[None, None] for _ in double.calls]
    generator = torch.Generator().manual_seed(0)
    mix = torch.rand(double.y.shape[1], generator=generator, dtype=torch.float64) + 0.5
    y = double.y @ mix.to(double.y)
    return gradients(y[None], double.calls, range(2), last=True)


def _layout(call: Call, twice: Call, pair: list[Tensor | None]) -> Layout | None:
    one, two = call.arguments["input"].shape, twice.arguments["input"].shape
    axes = [i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b]
    if len(one) != len(two) or len(axes) != 1 or two[axes[0]] != 2 * one[axes[0]]:
        return None
    axis = axes[0]
    if call.rule.batch_first and axis != 0:
        return None
    if twice.output_shape[axis] != 2 * call.output_shape[axis]:
        return None
    repeat = one[axis]
    if pair[0] is None:  # does not reach the output; any layout gives the zeros it contributes
        return Layout(axis)
    for together in (True, False):
        layout = Layout(axis, repeat, together)
        first, second = (layout.samples_first(g).reshape(2, -1) for g in pair)
        if not first[1].any() and not second[0].any():
            seen = repeat == 1 or (first[0].any() and second[1].any())
            return layout if seen else None
        if repeat == 1:
            raise UnsupportedModelError(
                f"the output of one sample depends on another at {call.rule.name} "
                f"({', '.join(call.parameters.values())}): the model mixes the samples of a "
                "batch, so no per-sample Jacobian exists"
            )
    return None


def _reached(y: Tensor, leaves: dict[str, Tensor]) -> set[str]:
    """Names of the leaves that y depends on otherwise than through a noted call."""
    if not y.requires_grad or not leaves:
        return set()
    found = torch.autograd.grad(
        y.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
    )
    return {name for name, g in zip(leaves, found, strict=True) if g is not None}


def _uncovered(y: Tensor, covered: dict[str, Tensor]) -> dict[str, str]:
    return dict.fromkeys(_reached(y, covered), "used outside the functions that have a rule")


def _serve(
    name: str,
    leaf: Tensor,
    look: _Look,
    layouts: list[Layout],
    reason: str | None,
    direct: bool,
) -> Served:
    if reason is not None:
        kind = "generic" if direct else "unused"
        return Served(name, leaf.numel(), "torch.func" if direct else "none", kind, note=reason)
    calls = tuple(
        (i, role)
        for i, call in enumerate(look.calls)
        for role, used in call.parameters.items()
        if used == name
    )
    if not calls:
        return Served(name, leaf.numel(), "none", "unused", note="not used in the forward pass")
    used = [look.calls[i] for i, _ in calls]
    label = "+".join(dict.fromkeys(call.rule.name for call in used))
    rows = Served(name, leaf.numel(), label, "rows", calls)
    if not all(role in call.rule.factors for call, (_, role) in zip(used, calls, strict=True)):
        return rows
    parts = [
        call.factors(role, layouts[i], call.stack(layouts[i], [None]))
        for call, (i, role) in zip(used, calls, strict=True)
    ]
    forms = {
        (p.is_tokens, *(() if p.is_tokens else p.a.shape[1:3]), *p.g.shape[2:4]) for p in parts
    }
    if len(forms) > 1:  # a weight tied across kinds of layer
        return rows
    (_, _, groups, c, _), tokens = parts[0].g.shape, parts[0].is_tokens
    return replace(
        rows,
        kind="factors",
        groups=groups,
        k=0 if tokens else parts[0].a.shape[2],
        c=c,
        t=sum(p.g.shape[-1] for p in parts),
        vocabulary=leaf.shape[0] if tokens else 0,
    )


def _with_method(served: tuple[Served, ...], model, state, x, total) -> tuple[Served, ...]:
    """Name the torch.func method that serves the parameters without a rule, if there are any."""
    names = [s.name for s in served if s.kind == "generic"]
    if not names:
        return served
    label = f"torch.func ({choose_method(model, state, names, x, total)})"
    return tuple(replace(s, rule=label) if s.kind == "generic" else s for s in served)
