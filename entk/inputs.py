"""Checks of what the user passes in, before anything is computed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from entk.errors import InputError
from entk.factors import OUTPUTS
from entk.samples import Samples, named_tensors

DTYPES = (torch.float32, torch.float64)


def check_outputs(outputs: str, allowed: tuple[str, ...] = OUTPUTS) -> None:
    if outputs not in allowed:
        raise InputError(f"outputs={outputs!r}, expected one of {allowed}")


def check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InputError(f"{name}={value!r}, expected True or False")


def as_path(path: str | PathLike) -> Path:
    name = os.fspath(path) if isinstance(path, (str, PathLike)) else None
    if not isinstance(name, str):
        raise InputError(f"path={path!r}, expected a string or a pathlib.Path")
    try:
        os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long, or with a zero byte in it
        why = getattr(error, "strerror", None) or error
        raise InputError(f"path={name!r:.80} cannot be used: {why}; choose another") from error
    return Path(name)


def parameter_names(model: nn.Module, params: Iterable[str] | None) -> tuple[str, ...]:
    """The requested parameters in the model's own order; None asks for the trainable ones."""
    known = dict(model.named_parameters())
    if params is None:
        names = tuple(n for n, p in known.items() if p.requires_grad)
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
        if is_lazy(known[name]) or known[name].is_meta:
            raise InputError(
                f"parameter {name!r} has no numbers yet (of a lazy module, or on the meta device); "
                "call the model once, or load a state"
            )
        if known[name].layout != torch.strided:
            raise InputError(f"parameter {name!r} is {known[name].layout}; make it .to_dense()")
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


def check_samples(parameter: Tensor, x: Tensor | Samples, z: Tensor | Samples | None) -> None:
    """Each tensor holds samples, of the dtype and on the device of the parameters."""
    for label, samples in (("x", x), ("z", z)):
        named = {} if samples is None else named_tensors(samples, label)
        for name, t in named.items():
            if t.is_complex() or t.is_quantized or t.is_nested or t.layout != torch.strided:
                kind = "nested" if t.is_nested else t.layout
                raise InputError(
                    f"{name} is {t.dtype} with layout {kind}, expected real numbers in a dense "
                    "tensor; use .real, .dequantize() or .to_dense()"
                )
            if t.dim() == 0 or len(t) == 0:
                raise InputError(
                    f"{name} has shape {tuple(t.shape)}, expected at least one sample along axis 0"
                )
            if len(t) != len(samples):
                raise InputError(
                    f"{name} has {len(t)} samples along axis 0, but {next(iter(named))} has "
                    f"{len(samples)}; each tensor has to hold the same samples"
                )
            if t.is_floating_point() and t.dtype != parameter.dtype:
                raise InputError(
                    f"{name} is {t.dtype} but the model's parameters are {parameter.dtype}; "
                    "convert one of them"
                )
            if t.device != parameter.device:
                raise InputError(
                    f"{name} is on {t.device} but the model is on {parameter.device}; move one of "
                    "them"
                )
    if z is not None:
        _check_alike(named_tensors(x, "x"), named_tensors(z, "z"))


def check_finite_parameters(model: nn.Module, names: Iterable[str]) -> None:
    """Raises InputError: a requested parameter has NaN or infinity in it."""
    known = dict(model.named_parameters())
    for name in names:
        if not _finite(known[name].detach()):
            bad = int((~known[name].detach().isfinite()).sum())
            raise InputError(
                f"parameter {name!r} has NaN or infinity in {bad} of {known[name].numel()} "
                "entries; its kernel would too: load a state from before that"
            )


def not_finite(x: Tensor | Samples, label: str) -> tuple[str, int] | None:
    """(tensor, index) of the first sample with NaN or infinity; which may be meant, as a mask."""
    for name, t in named_tensors(x, label).items():
        if t.is_floating_point() and not _finite(t):
            return name, int((~t.isfinite()).reshape(len(t), -1).any(1).nonzero()[0])
    return None


def _finite(t: Tensor) -> bool:
    """One pass without a mask: a sum is finite if all is, unless it overflows."""
    return bool(t.sum().isfinite()) or bool(t.isfinite().all())


def _check_alike(x: dict[str, Tensor], z: dict[str, Tensor]) -> None:
    if [name[1:] for name in x] != [name[1:] for name in z]:
        raise InputError(f"z holds {', '.join(z)} but x holds {', '.join(x)}; pass the same")
    for (name, t), other in zip(z.items(), x.values(), strict=True):
        if t.shape[1:] != other.shape[1:] or t.dtype != other.dtype:
            raise InputError(
                f"{name} has samples of shape {tuple(t.shape[1:])} {t.dtype}, but x"
                f"{name[1:]} of {tuple(other.shape[1:])} {other.dtype}; they go through the same "
                "model"
            )


def parse_bytes(value: int | float | str) -> int:
    """Bytes from a number or from text such as "500MB", "2 GB" or "1.5GiB"."""
    if isinstance(value, str):
        text = value.strip().upper()
        units = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 1e3, "MB": 1e6, "GB": 1e9, "B": 1}
        unit = next((u for u in units if text.endswith(u)), "")
        try:
            value = float(text.removesuffix(unit)) * units.get(unit, 1)
        except ValueError:
            raise InputError(
                f'memory={value!r}, expected bytes or text such as "500MB" or "2GB"'
            ) from None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 1 <= value < math.inf:
        raise InputError(f'memory={value!r}, expected a positive number of bytes or "2GB"')
    return int(value)
