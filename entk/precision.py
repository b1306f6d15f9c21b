"""The state in which kernels are computed, whatever the process has switched on elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.utils import parametrize

from entk.errors import InputError
from entk.ops import PRECISIONS

_entering = threading.Lock()
_inside: set[object] = set()  # the calls that compute now, in whichever thread
_outside = ExitStack()  # puts the settings back


def _settings() -> tuple:
    b = torch.backends
    return (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn)


def _set(where: object, name: str, value: object) -> None:
    _outside.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)


@contextmanager
def _process_wide() -> Iterator[None]:
    """Settings that threads share: first in changes them, last out puts them back."""
    call = object()
    try:
        with _entering:
            _inside.add(call)
            if len(_inside) == 1:
                for s in _settings():
                    _set(s, "fp32_precision", "ieee")
                _set(parametrize, "_cache_enabled", 0)  # weights kept are those of another state
                if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
                    _outside.enter_context(torch.compiler.set_stance("force_eager"))
        yield
    finally:
        with _entering:
            _inside.discard(call)
            if not _inside:
                _outside.close()


@contextmanager
def computing() -> Iterator[None]:
    """Grad and no inference mode, IEEE products (no TF32, no autocast), compiled parts eager."""
    with ExitStack() as stack:
        stack.enter_context(_process_wide())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
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
