"""Arithmetic on tensors: one file per operation, the PyTorch definition in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch

from entk.errors import BackendUnavailableError, InputError

BACKENDS = ("auto", "torch", "native", "triton")
PRECISIONS = {"torch": ("ieee",), "triton": ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")}


def choose_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that serves the kernel's products; a named one that cannot is an error."""
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}, expected one of {BACKENDS}")
    if backend == "auto":
        return "torch"  # on CUDA too, until triton has been measured there
    reason = None
    if backend == "native":
        reason = "it has no gram and no pairs_gram"
    elif backend == "triton":
        reason = why_not_triton(device, dtype)
    if reason:
        raise BackendUnavailableError(
            f"backend={backend!r} cannot serve: {reason}; use backend='auto'"
        )
    return backend


def products(backend: str, precision: str) -> tuple[Callable, Callable]:
    """(gram, pairs_gram) of a backend that `choose_backend` returned; only then is it imported."""
    if backend == "triton":
        from entk.ops.gram_triton import gram_triton as gram
        from entk.ops.pairs_gram_triton import pairs_gram_triton as pairs_gram

        return partial(gram, precision=precision), partial(pairs_gram, precision=precision)
    from entk.ops.gram import gram
    from entk.ops.pairs_gram import pairs_gram

    return gram, pairs_gram


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
