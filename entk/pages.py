"""Large buffers on huge pages: a fifth of the page faults that a block of samples would take."""

from __future__ import annotations

import ctypes
import sys

from torch import Tensor

LEAST = 4 << 20  # bytes
PAGE = 4096
MADV_HUGEPAGE = 14  # of Linux' <sys/mman.h>

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uninitialised, of the dtype and device of `like`; the kernel may ignore the hint."""
    t = like.new_empty(shape)
    size = t.numel() * t.element_size()
    if _libc is not None and t.device.type == "cpu" and size >= LEAST:
        start = -(-t.data_ptr() // PAGE) * PAGE
        length = (t.data_ptr() + size - start) // PAGE * PAGE
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return t
