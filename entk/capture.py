"""Calls of covered functions, passes through the model, and the gradients at the calls' outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.func import functional_call

from entk.errors import InputError, ModelStateError, UnsupportedModelError
from entk.factors import Factors
from entk.rules import Rule
from entk.rules.base import Empty, plain_empty
from entk.samples import Samples, call_arguments, output_tensor


@dataclass(frozen=True)
class Layout:
    """Where the samples of a call lie: on `axis`, each `repeat` times, together or apart."""

    axis: int = 0
    repeat: int = 1
    together: bool = True  # [N * repeat] rather than [repeat * N]

    def samples_first(self, t: Tensor, lead: int = 0) -> Tensor:
        """Move the samples of t [*lead, ...] behind its `lead` axes, as N * repeat rows."""
        t = t.movedim(self.axis + lead, lead)
        if self.repeat > 1 and not self.together:
            t = t.unflatten(lead, (self.repeat, -1)).transpose(lead, lead + 1)
            t = t.flatten(lead, lead + 1)
        return t


@dataclass(frozen=True)
class Call:
    """One call of a covered function with at least one requested parameter among its arguments."""

    rule: Rule
    parameters: dict[str, str]  # role -> parameter name
    arguments: dict[str, Any]  # by name, parameters detached
    output_shape: torch.Size
    edge: GradientEdge | None
    version: int  # of the input when it was used
    place: int = 0  # of its decision

    @property
    def signature(self) -> tuple:
        return (self.rule.name, tuple(sorted(self.parameters.items())))

    def check_input(self) -> None:
        """Refuse an input that the model wrote into after the call, as autograd itself does."""
        needs = [self.parameters[r] for r in self.rule.needs_input if r in self.parameters]
        if needs and self.arguments["input"]._version != self.version:
            raise UnsupportedModelError(
                f"the model overwrites the input of {self.rule.name} "
                f"({needs[0]}) after using it, so the gradient is lost (plain "
                "autograd refuses this too); make that operation out of place"
            )

    def zeros(self) -> Tensor:
        """The gradient of an output that the call does not reach."""
        weight = next(self.arguments[role] for role in self.parameters)
        return weight.new_zeros(self.output_shape)

    def factors(self, role: str, layout: Layout, g: Tensor, empty: Empty = plain_empty) -> Factors:
        """The factors of a parameter, from the stacked output gradients `g`."""
        x = layout.samples_first(self.arguments["input"])
        a, g = self.rule.factors[role](self.arguments, x, g, empty)
        if layout.repeat == 1:
            return Factors(a, g)
        a, g = (t.unflatten(0, (-1, layout.repeat)).movedim(1, -2).flatten(-2) for t in (a, g))
        return Factors(a, g)

    def rows(self, role: str, layout: Layout) -> Callable[[Tensor], Tensor]:
        """From output gradients to the Jacobian [N, O, P] of a parameter that has no factors."""
        x = layout.samples_first(self.arguments["input"])
        form = self.rule.rows[role](self.arguments, x)
        if layout.repeat == 1:
            return form
        return lambda g: form(g).unflatten(0, (-1, layout.repeat)).sum(1)


def check_state(model: nn.Module) -> None:
    """Name the first module whose training mode makes the per-sample Jacobian undefined."""
    batch_norm = nn.modules.batchnorm._BatchNorm
    for name, module in model.named_modules():
        where = f"layer {name!r} ({type(module).__name__})"
        if isinstance(module, batch_norm):
            if module.training:
                raise ModelStateError(f"{where} is in training mode; call model.eval()")
            if module.running_mean is None:
                raise ModelStateError(
                    f"{where} has track_running_stats=False and uses batch statistics even in "
                    "eval mode, so samples depend on one another; track running statistics or "
                    "use GroupNorm"
                )
        elif module.training and _drops(module):
            raise ModelStateError(f"{where} is in training mode; call model.eval()")


def _drops(module: nn.Module) -> bool:
    """Whether it is a dropout, or has one inside that is no module of its own."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    return isinstance(module, nn.MultiheadAttention) and module.dropout > 0


def forward(
    model: nn.Module,
    state: dict[str, Tensor],
    x: Tensor | Samples,
    total: bool = False,
    traced: bool = False,
) -> Tensor:
    """Outputs [N, O] of the model with `state` in place of its parameters and buffers.

    `total` sums them to [N, 1]. The caller's model and samples are left as they were.
    """
    y = flat_outputs(functional_call(model, state, *call_arguments(x, traced)), x)
    return y.sum(1, keepdim=True) if total else y


def flat_outputs(y: Any, x: Tensor | Samples) -> Tensor:
    """What the model returned for x, as [N, O], if it is one row of numbers per sample."""
    y = output_tensor(y)
    if y.dim() == 0 or y.shape[0] != len(x):
        raise InputError(
            f"the model returned shape {tuple(y.shape)} for {len(x)} samples, expected "
            f"({len(x)}, ...): one row per sample; remove the reduction over the batch"
        )
    if not y.is_floating_point():
        raise InputError(f"the model returned {y.dtype}, expected floating-point outputs")
    if y.numel() == 0:
        raise InputError(f"the model returned shape {tuple(y.shape)}, expected at least one output")
    return y.reshape(len(x), -1)


@contextmanager
def saved_storages() -> Iterator[dict[int, int]]:
    """{address: bytes} of the storages that autograd keeps of what is computed inside."""
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        with suppress(RuntimeError):  # inside the model's own transforms there is no storage
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t.detach()  # an output that its own node kept would keep the graph for ever

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        yield kept


def rounding(dtype: torch.dtype) -> float:
    """Relative differences that are no more than rounding: models of float64 have parts in float32
    (RMSNorm in language models), whose own rounding shows, but nothing much larger."""
    return max(torch.finfo(dtype).eps ** 0.5, 2**-16)


def check_finite(y: Tensor) -> None:
    finite = torch.isfinite(y).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"the model's outputs are not finite for {len(bad)} of {len(y)} samples, the first at "
            f"index {bad[0]} of its block; look for NaN or infinity in that sample and in the "
            "parameters"
        )


def leaf_state(model: nn.Module, names: Iterable[str], copy: bool = False) -> tuple[dict, dict]:
    """(leaves, state): the named parameters as fresh leaves, and all the model needs with them.

    Buffers are copies, so that a forward pass that writes into one leaves the model alone; so are
    parameters if `copy`, for an embedding with max_norm writes into those, or if they were made in
    inference mode, for those take no gradient.
    """
    wanted = set(names)
    parameters = {
        n: p.detach().clone() if copy or p.is_inference() else p.detach()
        for n, p in model.named_parameters()
    }
    leaves = {name: p.requires_grad_() for name, p in parameters.items() if name in wanted}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    return leaves, {**parameters, **buffers}


def gradients(y: Tensor, calls: list[Call]) -> Iterator[list[Tensor | None]]:
    """For each output y[:, o], its gradient at the output of each call, None where it has no say.

    Samples do not interact, so one backward pass of the summed batch gives every sample's own.
    The last one frees the graph.
    """
    edges = [call.edge for call in calls]
    last = y.shape[1] - 1
    for o in range(y.shape[1]):
        if not y.requires_grad or not calls:
            yield [None] * len(calls)
            continue
        found = torch.autograd.grad(y[:, o].sum(), edges, retain_graph=o < last, allow_unused=True)
        yield list(found)
