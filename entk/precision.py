"""The state in which kernels are computed, whatever the process has switched on elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from entk.errors import InputError
from entk.ops import PRECISIONS


def _settings() -> tuple:
    b = torch.backends
    return (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn)


@contextmanager
def computing() -> Iterator[None]:
    """Grad mode, IEEE products (no TF32, no autocast), compiled parts eager; then as before."""
    settings = _settings()
    before = [s.fp32_precision for s in settings]
    with ExitStack() as stack:
        for s, value in zip(settings, before, strict=True):
            stack.callback(setattr, s, "fp32_precision", value)
            s.fp32_precision = "ieee"
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.enable_grad())
        yield


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
