"""Which path serves each parameter, found out with a few samples before anything is paid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from entk.capture import Call, Layout, Recorder, check_finite, forward, gradients, leaf_state
from entk.errors import UnsupportedModelError
from entk.generic import choose_method
from entk.ops import choose_backend, products
from entk.rates import Timing
from entk.soundness import check_checkpoints, check_independence

SEVERAL = 8  # samples, spread over the data, on which layouts and independence are tested


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

    inputs: int = 0  # elements of a sample at the inputs of the calls

    @property
    def patch(self) -> int:
        """Elements of `a` for one sample."""
        return self.groups * max(self.k, 1) * self.t

    @property
    def gradient(self) -> int:
        """Elements of `g` for one sample and output."""
        return self.groups * self.c * self.t


@dataclass(frozen=True)
class Survey:
    """What a model does with its parameters, per sample."""

    outputs: int  # O
    served: tuple[Served, ...]
    layouts: tuple[Layout, ...] = ()  # of each noted call
    signatures: tuple[tuple, ...] = ()
    activations: int = 0  # bytes that one sample keeps alive for the backward pass
    call_outputs: tuple[int, ...] = ()  # elements at the output of each noted call, one sample
    covered: frozenset[str] = frozenset()
    writes_parameters: bool = False  # the forward pass itself does
    timing: Timing = field(default_factory=Timing)

    def recorder(self, leaves: dict[str, Tensor], functions: dict[str, Callable]) -> Recorder:
        return Recorder({n: leaves[n] for n in leaves if n in self.covered}, functions)


def survey(model: nn.Module, x: Tensor, names: tuple[str, ...], total: bool) -> Survey:
    """Look at the model with one sample and with several of `x`; `total`: of the summed outputs.

    The outputs themselves are looked at in either case: their sum can be a constant.
    """
    begin = time.perf_counter()
    several = x[torch.linspace(0, len(x) - 1, min(len(x), SEVERAL)).long()]
    several = several if len(several) > 1 else torch.cat([x, x])
    one = several[:1]
    refused: dict[str, str] = {}
    while True:  # each round either ends or takes a parameter out
        leaves, state = leaf_state(model, names, copy=True)
        versions = {name: t._version for name, t in state.items()}
        covered = {n: leaf for n, leaf in leaves.items() if n not in refused}
        single = _look(model, state, covered, one)
        batch = _look(model, state, covered, several)
        check_independence(model, state, several, batch.y, single.y)
        start = time.perf_counter()
        layouts, found = _layouts(single.calls, batch)
        backward = (time.perf_counter() - start) / 2  # two outputs were followed
        found |= _uncovered(single.y, covered)
        if single.differentiates:
            found |= dict.fromkeys(covered, "the model takes derivatives of its own")
        if not found:
            break
        refused |= found
    direct = _reached(single.y, {n: leaf for n, leaf in leaves.items() if n in refused})
    served = tuple(
        _serve(name, leaves[name], single, layouts, refused.get(name), name in direct)
        for name in names
    )
    if any(s.kind == "unused" for s in served):
        check_checkpoints(single.y)
    return Survey(
        outputs=1 if total else single.y.shape[1],
        served=_with_method(served, model, state, several),
        layouts=tuple(layouts),
        signatures=tuple(c.signature for c in single.calls),
        activations=single.activations,
        call_outputs=tuple(c.output_shape.numel() for c in single.calls),
        covered=frozenset(covered),
        timing=Timing(
            single.seconds,
            batch.seconds,
            backward,
            len(several),
            time.perf_counter() - begin,
        ),
        writes_parameters=any(state[n]._version != v for n, v in versions.items() if n in leaves),
    )


@dataclass
class _Look:
    """One recorded forward pass."""

    y: Tensor
    calls: list[Call]
    activations: int
    differentiates: bool
    seconds: float


def _look(model, state, covered, x) -> _Look:
    like = next(iter(state.values()))
    backend = choose_backend("auto", like.device, like.dtype)
    recorder = Recorder(covered, products(backend, "ieee").functions)
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t.detach()  # an output that its own node kept would keep the graph for ever

    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        with recorder:
            y = forward(model, state, x)
    seconds = time.perf_counter() - start
    check_finite(y)
    for call in recorder.calls:
        call.check_input()
        note(call.arguments["input"])
    for t in (x, *state.values()):
        kept.pop(t.untyped_storage().data_ptr(), None)
    return _Look(y, recorder.calls, sum(kept.values()), recorder.differentiates, seconds)


def _layouts(calls: list[Call], batch: _Look) -> tuple[list[Layout], dict[str, str]]:
    """The layout of each call, and the parameters that have one which cannot be told."""
    if [c.signature for c in calls] != [c.signature for c in batch.calls]:
        reason = "the calls depend on the number of samples"
        return [], {name: reason for c in calls for name in c.parameters.values()}
    weights = torch.arange(1, len(batch.y) + 1, dtype=batch.y.dtype, device=batch.y.device)
    layouts, refused = [], {}
    for call, several, pair in zip(
        calls, batch.calls, _weighted_gradients(batch, weights), strict=True
    ):
        layout = _layout(call, several, pair, weights)
        layouts.append(layout)
        if layout is None:
            reason = "no axis of its input holds the samples"
            refused |= dict.fromkeys(call.parameters.values(), reason)
    return layouts, refused


def _weighted_gradients(batch: _Look, weights: Tensor) -> list[tuple[Tensor | None, ...]]:
    """At each call the gradients of all samples' outputs, and of those times `weights`."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.rand(batch.y.shape[1], generator=generator, dtype=torch.float64) + 0.5
    y = batch.y @ mix.to(batch.y)
    both = torch.stack([y.sum(), y @ weights])[None]
    return list(zip(*gradients(both, batch.calls), strict=True))


def _layout(
    call: Call, several: Call, pair: tuple[Tensor | None, ...], weights: Tensor
) -> Layout | None:
    """Where samples lie: along the axis that grew, and where sample n's gradient grows n-fold."""
    count = len(weights)
    one, many = call.arguments["input"].shape, several.arguments["input"].shape
    axes = [i for i, (a, b) in enumerate(zip(one, many, strict=False)) if a != b]
    if len(one) != len(many) or len(axes) != 1 or many[axes[0]] != count * one[axes[0]]:
        return None
    axis = axes[0]
    if call.rule.batch_first and axis != 0:
        return None
    if several.output_shape[axis] != count * call.output_shape[axis]:
        return None
    repeat = one[axis]
    if pair[0] is None:  # does not reach the output; any layout gives the zeros it contributes
        return Layout(axis)
    for together in (True, False):
        layout = Layout(axis, repeat, together)
        plain, weighted = (layout.samples_first(g).reshape(count, -1) for g in pair)
        expected = plain * weights[:, None]
        if (weighted - expected).norm() <= torch.finfo(plain.dtype).eps ** 0.5 * weighted.norm():
            return layout if repeat == 1 or plain.any() else None
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
        call.factors(role, layouts[i], layouts[i].samples_first(call.zeros())[:, None])
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
        inputs=sum(call.arguments["input"].numel() for call in used),
        vocabulary=leaf.shape[0] if tokens else 0,
    )


def _with_method(served: tuple[Served, ...], model, state, x) -> tuple[Served, ...]:
    """Name the torch.func method that serves the parameters without a rule, if there are any."""
    names = [s.name for s in served if s.kind == "generic"]
    if not names:
        return served
    label = f"torch.func ({choose_method(model, state, names, x)})"
    return tuple(replace(s, rule=label) if s.kind == "generic" else s for s in served)
