"""The state in which kernels are computed, whatever the process has switched on elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from entk.errors import InputError
from entk.ops import PRECISIONS


def _settings() -> tuple:
    b = torch.backends
    return (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn)


@contextmanager
def computing() -> Iterator[None]:
    """Grad mode, and IEEE products: no TF32, no bfloat16 inside float32; restored at the end."""
    settings = _settings()
    before = [s.fp32_precision for s in settings]
    try:
        for s in settings:
            s.fp32_precision = "ieee"
        with torch.enable_grad():
            yield
    finally:
        for s, value in zip(settings, before, strict=True):
            s.fp32_precision = value


def check_precision(precision: str | None, backend: str, dtype: torch.dtype) -> str:
    """The precision of a backend's products; None stands for IEEE, which all of them have."""
    if precision is None:
        return "ieee"
    if precision not in PRECISIONS[backend]:
        raise InputError(
            f"precision={precision!r} with backend={backend!r}, expected None or one of "
            f"{PRECISIONS[backend]}; backend='triton' has {PRECISIONS['triton']}"
        )
    if precision != "ieee" and dtype != torch.float32:
        raise InputError(f"precision={precision!r} is for float32 models, this one is {dtype}")
    return precision
