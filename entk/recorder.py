"""One forward pass that notes every call of a covered function.

Calls are seen where the parameter meets the data, at `F.linear` and not at `nn.Linear`, through a
`TorchFunctionMode`: a module called twice, a weight borrowed from another module and a raw
parameter are then ordinary calls. In each noted call the parameter is detached, so whatever
path still leads from the output to a parameter is a use that no rule covers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from entk.capture import Call, check_finite, forward, saved_storages
from entk.derived import leaves_of
from entk.errors import ModelStateError
from entk.ops import choose_backend, products
from entk.rules import RULES, Rule
from entk.rules.unrolled import UNROLLED, tensors_of, unrollable
from entk.samples import named_tensors

STOCHASTIC = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
    | {"feature_alpha_dropout", "rrelu"}
)
DERIVATIVES = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)


@dataclass(frozen=True)
class Decision:
    """Which arguments of a call are parameters, or computed from nothing else."""

    rule: str
    roles: tuple[str, ...] = ()
    swapped: bool = False  # the operands of a sum or product


class Recorder(TorchFunctionMode):
    """Notes the calls that involve `leaves`, or what is computed from those alone.

    What is computed from parameters alone can be told where there are several samples; the
    `decisions` of such a pass, in order, are followed in others. Calls at a place in `forbidden`
    are not noted.
    """

    def __init__(
        self,
        leaves: dict[str, Tensor],
        functions: dict[str, Callable] = MappingProxyType({}),
        decisions: Sequence[Decision] | None = None,
        forbidden: frozenset[int] = frozenset(),
    ):
        super().__init__()
        self.functions = functions  # name of a rule -> what a noted call calls
        self.names = {id(leaf): name for name, leaf in leaves.items()}
        self.origins: dict[str, tuple[Tensor, tuple[str, ...]]] = {}  # derived tensor, its leaves
        self.decisions: list[Decision] = []
        self.given = decisions
        self.follows = True  # the path on which the decisions were made
        self.forbidden = forbidden
        self.noted: set = set()  # nodes of the graph
        self.differentiates = False  # whether the model itself takes derivatives
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        rule = RULES.get(func)
        if func in DERIVATIVES:
            self.differentiates = True
        if rule is None:
            _refuse_noise(func, args, kwargs)
            if self._unrolls(func, args, kwargs):
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
        tensors = [t for t in arguments.values() if isinstance(t, Tensor)]
        wrapped = any(map(is_functorch_wrapped_tensor, tensors))
        half = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
        if wrapped or half or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        roles = self._roles(rule, arguments)
        if not roles:
            return func(*args, **kwargs)
        return self._note(func, rule, roles, arguments)

    def _roles(self, rule: Rule, arguments: dict[str, Any]) -> dict[str, str]:
        """{role: name of a parameter or of a derived tensor}; operands change places if need be."""
        candidates = [arguments.get(r) for r in (*rule.roles, "input" if rule.commutes else "")]
        if not any(isinstance(t, Tensor) and t.requires_grad for t in candidates):
            return {}
        place, decision = len(self.decisions), Decision(rule.name)
        if self.given is None:
            decision = decision if place in self.forbidden else self._decide(rule, arguments)
        elif place < len(self.given) and self.given[place].rule == rule.name:
            decision = self.given[place]
        else:
            self.follows = False
        self.decisions.append(decision)
        if decision.swapped:
            arguments["input"], arguments["other"] = arguments["other"], arguments["input"]
        return {role: self._name(arguments[role]) for role in decision.roles}

    def _decide(self, rule: Rule, arguments: dict[str, Any]) -> Decision:
        for swapped in (False, True) if rule.commutes else (False,):
            one, two = arguments.get("input"), arguments.get("other")
            tried = {**arguments, "input": two, "other": one} if swapped else arguments
            if self._leaves(tried.get("input")) or not rule.serves(tried):
                continue
            roles = tuple(role for role in rule.roles if self._leaves(tried.get(role)))
            if roles:
                return Decision(rule.name, roles, swapped)
        return Decision(rule.name)

    def _leaves(self, t: Any) -> tuple[str, ...] | None:
        """The parameters that t is computed from, if from nothing else."""
        if not isinstance(t, Tensor) or not t.requires_grad:
            return None
        name = self.names.get(id(t))
        return (name,) if name is not None else leaves_of(t, self.names, self.noted)

    def _name(self, t: Tensor) -> str:
        if id(t) in self.names:
            return self.names[id(t)]
        known = [name for name, (origin, _) in self.origins.items() if origin is t]
        if known:
            return known[0]
        leaves = self._leaves(t) or ()
        name = f"{len(self.origins)}: {' + '.join(leaves)}"
        self.origins[name] = (t, leaves)
        return name

    def _unrolls(self, func, args: tuple, kwargs: dict) -> bool:
        """Whether a function with requested parameters is to be seen step by step."""
        if (
            func not in UNROLLED
            or not torch.is_grad_enabled()
            or not unrollable(func, args, kwargs)
        ):
            return False
        tensors = tensors_of((args, kwargs))
        wrapped = any(map(is_functorch_wrapped_tensor, tensors))
        return not wrapped and any(map(self._leaves, tensors))

    def _note(self, func, rule: Rule, roles: dict[str, str], arguments: dict[str, Any]) -> Tensor:
        arguments.update({role: arguments[role].detach() for role in roles})
        output = self.functions.get(rule.name, rule.function or func)(**arguments)
        arguments["input"] = arguments.get("input", output).detach()
        first = not output.requires_grad
        output.requires_grad_()
        edge = get_gradient_edge(output)
        version = arguments["input"]._version
        self.noted.add(edge.node)
        place = len(self.decisions) - 1
        self.calls.append(Call(rule, roles, arguments, output.shape, edge, version, place))
        # in place, a leaf could not be written to, and a view would leave its node of the graph
        return output.clone() if first or output._is_view() else output


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


@dataclass
class Look:
    """One recorded forward pass."""

    y: Tensor
    recorder: Recorder
    activations: int
    seconds: float

    @property
    def calls(self) -> list[Call]:
        return self.recorder.calls


def look(
    model,
    state,
    covered,
    x,
    traced: bool,
    decisions: Sequence[Decision] | None = None,
    forbidden: frozenset[int] = frozenset(),
) -> Look:
    """A forward pass, and what it keeps for the backward pass."""
    like = next(iter(state.values()))
    backend = choose_backend("auto", like.device, like.dtype)
    functions = products(backend, "ieee").functions
    recorder = Recorder(covered, functions, decisions, forbidden)
    start = time.perf_counter()
    with saved_storages() as kept, recorder:
        y = forward(model, state, x, traced=traced)
    seconds = time.perf_counter() - start
    check_finite(y)
    for call in recorder.calls:
        call.check_input()
        storage = call.arguments["input"].untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
    for t in (*named_tensors(x, "x").values(), *state.values()):
        kept.pop(t.untyped_storage().data_ptr(), None)
    return Look(y, recorder, sum(kept.values()), seconds)
