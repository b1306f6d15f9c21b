"""One forward pass that notes every call of a covered function, and the gradients at its output.

Calls are seen where the parameter meets the data, at `F.linear` and not at `nn.Linear`, through a
`TorchFunctionMode`: a module called twice, a weight borrowed from another module and a raw
parameter are then ordinary calls. In each noted call the parameter is detached, so whatever
path still leads from the output to a parameter is a use that no rule covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from entk.errors import InputError, ModelStateError, UnsupportedModelError
from entk.factors import Factors
from entk.rules import RULES, Rule
from entk.rules.base import Empty, plain_empty
from entk.rules.recurrent import UNROLLED, is_plain, weights_of

STOCHASTIC = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
    | {"feature_alpha_dropout", "rrelu"}
)
DERIVATIVES = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)


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

    @property
    def signature(self) -> tuple:
        return (self.rule.name, tuple(sorted(self.parameters.items())))

    def check_input(self) -> None:
        """Refuse an input that the model wrote into after the call, as autograd itself does."""
        if "weight" in self.parameters and self.arguments["input"]._version != self.version:
            raise UnsupportedModelError(
                f"the model overwrites the input of {self.rule.name} "
                f"({self.parameters['weight']}) after using it, so the gradient is lost (plain "
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


class Recorder(TorchFunctionMode):
    """Notes the calls that involve `leaves`."""

    def __init__(
        self, leaves: dict[str, Tensor], functions: dict[str, Callable] = MappingProxyType({})
    ):
        super().__init__()
        self.functions = functions  # name of a rule -> what a noted call calls
        self.names = {id(leaf): name for name, leaf in leaves.items()}
        self.differentiates = False  # whether the model itself takes derivatives
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        rule = RULES.get(func)
        if func in DERIVATIVES:
            self.differentiates = True
        if rule is None:
            _refuse_noise(func, args, kwargs)
            if self._unrolls(func, args):
                with self:
                    return UNROLLED[func](*args, **kwargs)
            return func(*args, **kwargs)
        arguments = rule.bind(args, kwargs)
        if rule.name == "batch_norm" and arguments.get("training", False):
            raise ModelStateError(
                "batch_norm is called with training=True, so a sample's output depends on its "
                "batch and no per-sample Jacobian exists; call model.eval() (and keep "
                "track_running_stats=True)"
            )
        roles = {
            role: self.names[id(arguments[role])]
            for role in rule.roles
            if id(arguments.get(role)) in self.names
        }
        wrapped = any(map(is_functorch_wrapped_tensor, filter(torch.is_tensor, arguments.values())))
        if not roles or wrapped or not torch.is_grad_enabled() or not rule.serves(arguments):
            return func(*args, **kwargs)
        return self._note(func, rule, roles, arguments)

    def _unrolls(self, func, args: tuple) -> bool:
        """Whether a recurrent layer with requested parameters is to be seen step by step."""
        if func not in UNROLLED or not torch.is_grad_enabled() or not is_plain(args):
            return False
        tensors = weights_of(args)
        wrapped = any(map(is_functorch_wrapped_tensor, tensors))
        return not wrapped and any(id(t) in self.names for t in tensors)

    def _note(self, func, rule: Rule, roles: dict[str, str], arguments: dict[str, Any]) -> Tensor:
        arguments.update({role: arguments[role].detach() for role in roles})
        output = self.functions.get(rule.name, rule.function or func)(**arguments)
        arguments["input"] = arguments["input"].detach()
        first = not output.requires_grad
        output.requires_grad_()
        edge = get_gradient_edge(output)
        version = arguments["input"]._version
        self.calls.append(Call(rule, roles, arguments, output.shape, edge, version))
        return output.clone() if first else output  # a leaf could not be written to in place


def _refuse_noise(func, args: tuple, kwargs: dict) -> None:
    """Random functions have no Jacobian: dropout and its kin in training mode."""
    name = getattr(func, "__name__", "")
    if name in STOCHASTIC:
        training = kwargs.get("training", name != "rrelu")
        p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        if training and p:
            raise ModelStateError(
                f"{name} is called with training=True, so two forward passes differ; "
                "call model.eval()"
            )


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
        elif isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p:
            raise ModelStateError(f"{where} is in training mode; call model.eval()")


def forward(model: nn.Module, state: dict[str, Tensor], x: Tensor, total: bool = False) -> Tensor:
    """Outputs [N, O] of the model with `state` in place of its parameters and buffers.

    `total` sums them to [N, 1]. The caller's model and samples are left as they were.
    """
    y = flat_outputs(functional_call(model, state, (x.clone(),)), x)
    return y.sum(1, keepdim=True) if total else y


def flat_outputs(y: Tensor, x: Tensor) -> Tensor:
    """What the model returned for x, as [N, O], if it is one row of numbers per sample."""
    if not isinstance(y, Tensor):
        raise InputError(
            f"the model returned {type(y).__name__}, expected one tensor [N, ...]; wrap the model "
            "so that it returns the outputs whose kernel you want"
        )
    if y.dim() == 0 or y.shape[0] != len(x):
        raise InputError(
            f"the model returned shape {tuple(y.shape)} for {len(x)} samples, expected "
            f"({len(x)}, ...): one row per sample; remove the reduction over the batch"
        )
    if not y.is_floating_point():
        raise InputError(f"the model returned {y.dtype}, expected floating-point outputs")
    return y.reshape(len(x), -1)


@contextmanager
def saved_storages() -> Iterator[dict[int, int]]:
    """{address: bytes} of the storages that autograd keeps of what is computed inside."""
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t.detach()  # an output that its own node kept would keep the graph for ever

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        yield kept


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
    parameters if `copy`, for an embedding with max_norm writes into those.
    """
    wanted = set(names)
    parameters = {
        n: p.detach().clone() if copy else p.detach() for n, p in model.named_parameters()
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
