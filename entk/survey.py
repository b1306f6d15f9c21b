"""Which path serves each parameter, found out with a few samples before anything is paid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from entk.capture import Layout, leaf_state
from entk.factors import Factors
from entk.generic import choose_method
from entk.layouts import find_layouts
from entk.rates import Timing
from entk.recorder import Decision, Look, Recorder, look
from entk.samples import Samples
from entk.soundness import check_checkpoints, check_independence, several_of


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
    sources: tuple[str, ...] = ()  # derived tensors that it also comes in by

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
    derived: tuple[Served, ...] = ()  # tensors that the model computes from its parameters
    decisions: tuple[Decision, ...] = ()
    traced: bool = False  # the samples, so that what is computed from them can be told
    writes_parameters: bool = False  # the forward pass itself does
    timing: Timing = field(default_factory=Timing)

    def recorder(self, leaves: dict[str, Tensor], functions: dict[str, Callable]) -> Recorder:
        covered = {n: leaves[n] for n in leaves if n in self.covered}
        return Recorder(covered, functions, self.decisions)


def survey(model: nn.Module, x: Tensor | Samples, names: tuple[str, ...], total: bool) -> Survey:
    """Look at the model with one sample and with several of `x`; `total`: of the summed outputs.

    The outputs themselves are looked at in either case: their sum can be a constant.
    """
    begin = time.perf_counter()
    several = several_of(x)
    one = several[:1]
    traced = True
    refused: dict[str, str] = {}
    forbidden: dict[int, tuple[str, ...]] = {}  # place of a call that is no use of data
    while True:  # each round either ends or takes a parameter or a call out
        leaves, state = leaf_state(model, names, copy=True)
        versions = {name: t._version for name, t in state.items()}
        covered = {n: leaf for n, leaf in leaves.items() if n not in refused}
        for _ in range(2):  # some models do more in their first pass than in later ones
            options = {"forbidden": frozenset(forbidden)}
            try:
                batch = look(model, state, covered, several, traced, **options)
            except RuntimeError as error:
                if "requires grad" not in str(error):  # as of a model that leaves for NumPy
                    raise
                traced = False
                batch = look(model, state, covered, several, traced, **options)
            single = look(model, state, covered, one, traced, batch.recorder.decisions)
            if single.recorder.follows:
                break
        check_independence(model, state, several, batch.y, single.y)
        start = time.perf_counter()
        layouts, found, wrong = find_layouts(single, batch)
        backward = (time.perf_counter() - start) / 2  # two outputs were followed
        forbidden |= wrong
        if not wrong:
            found |= _uncovered(single.y, covered, forbidden)
        if single.recorder.differentiates:
            found |= dict.fromkeys(covered, "the model takes derivatives of its own")
        if not found and not wrong:
            break
        refused |= found
    direct = _reached(single.y, {n: leaf for n, leaf in leaves.items() if n in refused})
    origins = single.recorder.origins
    served = tuple(
        _serve(name, leaves[name], single, layouts, refused.get(name), name in direct)
        for name in names
    )
    derived = tuple(
        replace(_serve(name, t, single, layouts, None, False), kind="rows")
        for name, (t, _) in origins.items()
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
        derived=derived,
        decisions=tuple(batch.recorder.decisions),
        traced=traced,
        timing=Timing(
            single.seconds,
            batch.seconds,
            backward,
            len(several),
            time.perf_counter() - begin,
        ),
        writes_parameters=any(state[n]._version != v for n, v in versions.items() if n in leaves),
    )


def _reached(y: Tensor, leaves: dict[str, Tensor]) -> set[str]:
    """Names of the leaves that y depends on otherwise than through a noted call."""
    if not y.requires_grad or not leaves:
        return set()
    found = torch.autograd.grad(
        y.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
    )
    return {name for name, g in zip(leaves, found, strict=True) if g is not None}


def _uncovered(
    y: Tensor, covered: dict[str, Tensor], forbidden: dict[int, tuple[str, ...]]
) -> dict[str, str]:
    """Parameters with a use that no rule covers, and why."""
    alone = {leaf for leaves in forbidden.values() for leaf in leaves}
    axis = "no axis of its input holds the samples"
    outside = "used outside the functions that have a rule"
    return {name: axis if name in alone else outside for name in _reached(y, covered)}


def _serve(
    name: str,
    leaf: Tensor,
    look: Look,
    layouts: list[Layout],
    reason: str | None,
    direct: bool,
) -> Served:
    if leaf.numel() == 0:
        return Served(name, 0, "none", "unused", note="has no entries")
    if reason is not None:
        kind = "generic" if direct else "unused"
        return Served(name, leaf.numel(), "torch.func" if direct else "none", kind, note=reason)
    calls = tuple(
        (i, role)
        for i, call in enumerate(look.calls)
        for role, used in call.parameters.items()
        if used == name
    )
    origins = look.recorder.origins
    sources = tuple(n for n, (t, leaves) in origins.items() if name in leaves and t is not leaf)
    if not calls and not sources:
        return Served(name, leaf.numel(), "none", "unused", note="not used in the forward pass")
    if sources:
        through = [c.rule.name for c in look.calls for n in c.parameters.values() if n in sources]
        label = "+".join(dict.fromkeys([*through, *(look.calls[i].rule.name for i, _ in calls)]))
        note = "by a tensor that is computed from it"
        return Served(name, leaf.numel(), label, "rows", calls, note, sources=sources)
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
        (p.is_tokens, call.rule.transposed, *_form(p)) for p, call in zip(parts, used, strict=True)
    }
    if len(forms) > 1:  # a weight tied across kinds of layer
        return rows
    (_, _, groups, c, _), tokens = parts[0].g.shape, parts[0].is_tokens
    t = sum(p.g.shape[-1] for p in parts)
    if t == 0:  # a sequence of no tokens
        return Served(name, leaf.numel(), "none", "unused", note="called at no position")
    return replace(
        rows,
        kind="factors",
        groups=groups,
        k=0 if tokens else parts[0].a.shape[2],
        c=c,
        t=t,
        inputs=sum(call.arguments["input"].numel() for call in used),
        vocabulary=leaf.shape[0] if tokens else 0,
    )


def _form(p: Factors) -> tuple[int, ...]:
    return (*(() if p.is_tokens else p.a.shape[1:3]), *p.g.shape[2:4])


def _with_method(served: tuple[Served, ...], model, state, x) -> tuple[Served, ...]:
    """Name the torch.func method that serves the parameters without a rule, if there are any."""
    names = [s.name for s in served if s.kind == "generic"]
    if not names:
        return served
    label = f"torch.func ({choose_method(model, state, names, x)})"
    return tuple(replace(s, rule=label) if s.kind == "generic" else s for s in served)
