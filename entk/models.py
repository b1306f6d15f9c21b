"""Whatever the user calls a model, as a module that gives one tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from entk.errors import InputError
from entk.samples import Select, check_select, chosen_outputs

Params = Iterable[str] | Mapping[str, Any] | None


def as_module(
    model: nn.Module | Callable, params: Params, select: Select | None
) -> tuple[nn.Module, Iterable[str] | None]:
    """(module, names of the requested parameters or None for all trainable ones)."""
    check_select(select)
    if isinstance(params, Mapping):
        if isinstance(model, nn.Module) or not callable(model):
            raise InputError(
                f"params= is a dict of values, which goes with a function f(params, x); model is "
                f"{type(model).__name__}: pass names of its parameters"
            )
        model, params = Functional(model, params), None
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is {type(model).__name__}, expected a torch.nn.Module, or a function "
            "f(params, x) with params= a dict of its tensors"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "model is TorchScript, whose calls cannot be followed and whose parameters cannot be "
            "exchanged; pass the module that it was made from"
        )
    # compiled: the same parameters, and a forward pass that can be followed call by call
    model = getattr(model, "_orig_mod", model)
    return (model if select is None else Selected(model, select)), params


class Selected(nn.Module):
    """A module with the parameters of another, and only the chosen of its outputs."""

    def __init__(self, model: nn.Module, select: Select):
        super().__init__()
        # not a submodule, but the same dicts: all names stay, and what is swapped in is seen
        object.__setattr__(self, "inner", model)
        object.__setattr__(self, "select", select)
        self._parameters, self._buffers = model._parameters, model._buffers
        self._modules, self.training = model._modules, model.training

    def forward(self, *args, **kwargs) -> Any:
        return chosen_outputs(self.inner(*args, **kwargs), self.select)


class Functional(nn.Module):
    """f(params, x) as a module: its parameters are the tensors in the dict `params`."""

    def __init__(self, function: Callable, params: Mapping[str, Any]):
        super().__init__()
        self.function = function
        self.paths = [path for path, _ in _tensors(params)]
        if not self.paths:
            raise InputError("params= is an empty dict, expected the tensors of the function")
        names = [".".join(path) for path in self.paths]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"params= has {twice!r} twice, once with a dot in its key")
        for name, tensor in self.flat(params).items():
            trainable = tensor.is_floating_point()
            nest(self, name, nn.Parameter(tensor.detach(), trainable) if trainable else tensor)

    @staticmethod
    def flat(params: Mapping[str, Any]) -> dict[str, Tensor]:
        """{dotted name: tensor}."""
        return {".".join(path): tensor for path, tensor in _tensors(params)}

    def forward(self, *args, **kwargs) -> Any:
        held = dict(self.named_parameters(remove_duplicate=False))
        held |= dict(self.named_buffers(remove_duplicate=False))
        params: dict[str, Any] = {}
        for path in self.paths:
            place = params
            for folder in path[:-1]:
                place = place.setdefault(folder, {})
            place[path[-1]] = held[".".join(path)]
        return self.function(params, *args, **kwargs)


def _tensors(params: Mapping[str, Any], lead: tuple[str, ...] = ()) -> Iterator[tuple]:
    """(path, tensor) over a dict of tensors and dicts."""
    for key, value in params.items():
        if not isinstance(key, str) or "" in key.split("."):
            raise InputError(f"params= has the key {key!r}, expected names, dots only inside")
        path = (*lead, key)
        if isinstance(value, Mapping):
            yield from _tensors(value, path)
        elif isinstance(value, Tensor):
            yield path, value
        else:
            raise InputError(
                f"params= has {type(value).__name__} at {'.'.join(path)!r}, expected a tensor or "
                "a dict of tensors"
            )


def nest(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Hold a tensor under a dotted name, as a parameter or a buffer."""
    *folders, leaf = name.split(".")
    for folder in folders:
        root = root._modules.setdefault(folder, nn.Module())
    kind = root._parameters if isinstance(tensor, nn.Parameter) else root._buffers
    kind[leaf] = tensor


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy, by `copy.deepcopy`; what a forward pass left in a module comes without its graph."""
    own = inner(model)
    for module in (*model.modules(), *(own.modules() if isinstance(own, nn.Module) else ())):
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()
    return copy.deepcopy(model, memo)


def inner(model: nn.Module) -> Any:
    """What the user passed: of which an error or a file speaks."""
    model = model.inner if isinstance(model, Selected) else model
    return model.function if isinstance(model, Functional) else model


def describe(select: Select | None) -> str | None:
    """What stands for a choice of outputs in a file; of a function its name."""
    if select is None or isinstance(select, str):
        return select
    if not callable(select):
        return str(select)
    return getattr(select, "__qualname__", type(select).__name__)
