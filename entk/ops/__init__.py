"""Arithmetic on tensors: one file per operation, the PyTorch definition in it."""

from __future__ import annotations

from entk.errors import BackendUnavailableError, InputError

BACKENDS = ("auto", "torch", "native", "triton")
KERNEL_BACKENDS = ("torch",)  # those that serve gram and pairs_gram


def choose_backend(backend: str) -> str:
    """The backend that serves the kernel's products; a named one that cannot is an error."""
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}, expected one of {BACKENDS}")
    if backend == "auto":
        return KERNEL_BACKENDS[0]
    if backend not in KERNEL_BACKENDS:
        raise BackendUnavailableError(
            f"backend={backend!r} has no gram or pairs_gram yet, only {KERNEL_BACKENDS}; use "
            "backend='auto'"
        )
    return backend
