"""`gram_dot`: the three inner products that a kernel distance needs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from entk.errors import BackendUnavailableError, InputError
from entk.ops import native, why_not_triton

BACKENDS = ("auto", "torch", "native", "triton")
DTYPES = (torch.float32, torch.float64)


def gram_dot_torch(a: Tensor, b: Tensor) -> Tensor:
    """[<a,b>, <a,a>, <b,b>] as a float64 tensor [3], for a and b of one shape."""
    a, b = a.double(), b.double()
    return torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()])


def gram_dot(
    a: Float[Tensor, "R C"], b: Float[Tensor, "R C"], backend: str = "auto"
) -> Float64[Tensor, "3"]:
    """As `gram_dot_torch`, by the first backend that can serve: native (one pass), else torch.

    Bits of native and triton depend on shape and strides alone, not on threads; torch promises no
    such thing.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}, expected one of {BACKENDS}")
    if a.shape != b.shape or a.device != b.device:
        raise InputError(
            f"gram_dot got {tuple(a.shape)} on {a.device} and {tuple(b.shape)} on {b.device}, "
            "expected two tensors of one shape on one device"
        )
    if a.is_complex() or b.is_complex():
        raise InputError(f"gram_dot got {a.dtype} and {b.dtype}, expected real kernels")
    reason = None if backend == "torch" else _why_not(backend, a, b)
    if backend not in ("auto", "torch") and reason:
        raise BackendUnavailableError(
            f"backend={backend!r} cannot serve gram_dot: {reason}; use backend='auto'"
        )
    if backend == "torch" or reason:
        return gram_dot_torch(a, b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = _matrix(a.to(dtype)), _matrix(b.to(dtype))
    if backend == "triton":
        from entk.ops.gram_dot_triton import gram_dot_triton  # imports triton

        return gram_dot_triton(a.resolve_neg(), b.resolve_neg())
    return native.gram_dot_op(a, b)


def _why_not(backend: str, a: Tensor, b: Tensor) -> str | None:
    """Why triton, if it is named, or else native cannot serve."""
    if a.dtype not in DTYPES or b.dtype not in DTYPES:
        return f"it takes float32 and float64, got {a.dtype} and {b.dtype}"
    if a.device.type not in ("cpu", "cuda"):
        return f"it has no kernel for {a.device.type} tensors"
    if a.layout != torch.strided or b.layout != torch.strided:
        return f"it takes strided tensors, got {a.layout} and {b.layout}"
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return "it has no derivative and a kernel requires one"
    if backend == "triton":
        return why_not_triton(a.device, torch.promote_types(a.dtype, b.dtype))
    status = native.native_status() if a.device.type == "cpu" else native.native_cuda_status()
    return None if status == "ok" else status


def _matrix(t: Tensor) -> Tensor:
    """A 2-D view where the strides allow one, else a copy."""
    return torch.atleast_2d(t).flatten(0, -2)
