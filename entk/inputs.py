"""Checks of what the user passes in, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from entk.errors import InputError
from entk.factors import OUTPUTS

DTYPES = (torch.float32, torch.float64)


def check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}, expected a torch.nn.Module")


def check_outputs(outputs: str, allowed: tuple[str, ...] = OUTPUTS) -> None:
    if outputs not in allowed:
        raise InputError(f"outputs={outputs!r}, expected one of {allowed}")


def parameter_names(model: nn.Module, params: Iterable[str] | None) -> tuple[str, ...]:
    """The requested parameters in the model's own order; None asks for the trainable ones."""
    known = dict(model.named_parameters())
    if params is None:
        names = tuple(n for n, p in known.items() if p.requires_grad and p.is_floating_point())
        if not names:
            raise InputError(
                "the model has no trainable parameter (requires_grad=True), so its kernel is "
                "zero; name frozen ones with params="
            )
    else:
        wanted = [params] if isinstance(params, str) else list(params)
        aliases = dict(model.named_parameters(remove_duplicate=False))
        unknown = [name for name in wanted if name not in aliases]
        if unknown:
            raise InputError(
                f"params= names {unknown[0]!r}, which the model does not have; it has "
                f"{', '.join(list(aliases)[:8])}{', ...' if len(aliases) > 8 else ''}"
            )
        if not wanted:
            raise InputError("params= is empty, expected at least one parameter name")
        chosen = {id(aliases[name]) for name in wanted}  # a tied weight goes by its first name
        names = tuple(n for n, p in known.items() if id(p) in chosen)
    for name in names:
        if known[name].dtype not in DTYPES:
            raise InputError(
                f"parameter {name!r} is {known[name].dtype}, expected float32 or float64; convert "
                "the model with .float() or .double()"
            )
    if len({known[name].dtype for name in names}) > 1:
        raise InputError("the parameters mix float32 and float64; convert the model to one of them")
    return names


def first_parameter(model: nn.Module, names: Iterable[str]) -> Tensor:
    """The first requested one: the kernel has its dtype and device, whatever frozen ones have."""
    return dict(model.named_parameters())[next(iter(names))]


def check_samples(model: nn.Module, x: Tensor, z: Tensor | None, names: tuple[str, ...]) -> None:
    parameter = first_parameter(model, names)
    for label, t in (("x", x), ("z", z)):
        if t is None and label == "z":
            continue
        if not isinstance(t, Tensor):
            raise InputError(f"{label} is {type(t).__name__}, expected a tensor [N, ...]")
        if t.dim() == 0 or len(t) == 0:
            raise InputError(
                f"{label} has shape {tuple(t.shape)}, expected at least one sample along axis 0"
            )
        if t.is_floating_point() and t.dtype != parameter.dtype:
            raise InputError(
                f"{label} is {t.dtype} but the model's parameters are {parameter.dtype}; convert "
                "one of them"
            )
        if t.device != parameter.device:
            raise InputError(
                f"{label} is on {t.device} but the model is on {parameter.device}; move one of them"
            )
    if z is not None and (z.shape[1:] != x.shape[1:] or z.dtype != x.dtype):
        raise InputError(
            f"z has samples of shape {tuple(z.shape[1:])} {z.dtype}, but x of "
            f"{tuple(x.shape[1:])} {x.dtype}; they go through the same model"
        )
