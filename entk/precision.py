"""The state in which kernels are computed, whatever the process has switched on elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from entk.errors import InputError

PRECISIONS = (None, "ieee")


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


def check_precision(precision: str | None) -> str:
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}, expected None or 'ieee'")
    return "ieee"
