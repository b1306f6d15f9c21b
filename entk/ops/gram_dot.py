"""`gram_dot`: the three inner products that a kernel distance needs."""

from __future__ import annotations

import torch
from torch import Tensor

from entk.errors import BackendUnavailableError, InputError
from entk.ops import native

BACKENDS = ("auto", "torch", "native")
DTYPES = (torch.float32, torch.float64)


def gram_dot_torch(a: Tensor, b: Tensor) -> Tensor:
    """[<a,b>, <a,a>, <b,b>] as a float64 tensor [3], for a and b of one shape."""
    a, b = a.double(), b.double()
    return torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()])


def gram_dot(a: Tensor, b: Tensor, backend: str = "auto") -> Tensor:
    """As `gram_dot_torch`, by the first backend that can serve: native (one pass), else torch."""
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}, expected one of {BACKENDS}")
    if a.shape != b.shape or a.device != b.device:
        raise InputError(
            f"gram_dot got {tuple(a.shape)} on {a.device} and {tuple(b.shape)} on {b.device}, "
            "expected two tensors of one shape on one device"
        )
    reason = _why_not_native(a, b)
    if backend == "native" and reason:
        raise BackendUnavailableError(f"backend='native' cannot serve: {reason}; use 'auto'")
    if backend == "torch" or reason:
        return gram_dot_torch(a, b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return native.gram_dot_op(_matrix(a.to(dtype)), _matrix(b.to(dtype)))


def _why_not_native(a: Tensor, b: Tensor) -> str | None:
    if a.dtype not in DTYPES or b.dtype not in DTYPES:
        return f"it takes float32 and float64, got {a.dtype} and {b.dtype}"
    if a.device.type not in ("cpu", "cuda"):
        return f"it has no kernel for {a.device.type}"
    status = native.native_status() if a.device.type == "cpu" else native.native_cuda_status()
    return None if status == "ok" else status


def _matrix(t: Tensor) -> Tensor:
    """A 2-D view where the strides allow one, else a copy."""
    if t.dim() == 2:
        return t
    return t.reshape(-1, t.shape[-1]) if t.dim() > 2 else t.reshape(1, -1)
