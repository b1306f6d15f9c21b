"""Arithmetic on tensors: one file per operation, the PyTorch definition in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import NamedTuple

import torch

from entk.errors import BackendUnavailableError, InputError
from entk.factors import Factors
from entk.ops import native
from entk.ops.gram import fused_gram, gram
from entk.ops.pairs_gram import pairs_gram

BACKENDS = ("auto", "torch", "native", "triton")
PRECISIONS = {
    "torch": ("ieee",),
    "native": ("ieee",),
    "triton": ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6"),
}


class Products(NamedTuple):
    """A backend's arithmetic; each is defined by the PyTorch function of its name."""

    gram: Callable
    pairs_gram: Callable
    fused_gram: Callable = fused_gram
    rows: Callable = Factors.rows
    functions: Mapping[str, Callable] = MappingProxyType({})  # rule -> called for PyTorch's own
    fused_gram_dot: Callable | None = None  # where it spares storing what `gram_dot` reads

    @property
    def by_strategy(self) -> dict[str, Callable]:
        return {"rows": self.gram, "pairs": self.pairs_gram, "fused": self.fused_gram}


NATIVE = Products(
    native.gram_native,
    native.pairs_gram_native,
    native.fused_gram_native,
    native.rows_native,
    {"linear": native.linear_native},
)


def choose_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that serves the kernel's products; a named one that cannot is an error."""
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}, expected one of {BACKENDS}")
    if backend == "auto":
        # on CUDA torch, until triton has been measured there
        return "torch" if native.why_not_products(device, dtype) else "native"
    reason = None
    if backend == "native":
        reason = native.why_not_products(device, dtype)
    elif backend == "triton":
        reason = why_not_triton(device, dtype)
    if reason:
        raise BackendUnavailableError(
            f"backend={backend!r} cannot serve: {reason}; use backend='auto'"
        )
    return backend


def products(backend: str, precision: str) -> Products:
    """The products of a backend that `choose_backend` returned; only then is triton imported."""
    if backend == "native":
        return NATIVE
    if backend == "triton":
        from entk.ops.fused_gram_dot_triton import fused_gram_dot_triton
        from entk.ops.gram_triton import gram_triton
        from entk.ops.pairs_gram_triton import pairs_gram_triton

        return Products(
            *(partial(f, precision=precision) for f in (gram_triton, pairs_gram_triton)),
            fused_gram_dot=partial(fused_gram_dot_triton, precision=precision),
        )
    return Products(gram, pairs_gram)


def why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot serve tensors of this device and dtype, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"  # for tests
    if device.type != "cuda" and not interpreted:
        return f"triton needs CUDA tensors, got {device.type}: move the model and the samples"
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels take float32 and float64, got {dtype}"
    return None
