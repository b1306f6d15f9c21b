"""The one file that touches the extension `entk._native`; it registers its operators with torch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

try:
    import entk._native as _native
except ImportError as error:  # built without a compiler, or for another Python
    _native = None
    _import_error = f"{error}; reinstall entk with this Python"


def native_status() -> str:
    """ "ok", or why the CPU part of the extension is missing."""
    return "ok" if _native is not None else _reason("native", _import_error)


def native_cuda_status() -> str:
    """ "ok", or why the CUDA part of the extension cannot serve."""
    if _native is None:
        return native_status()
    if not _native.cuda:
        return _reason("cuda", "the extension was built without CUDA")
    return "ok" if torch.cuda.is_available() else "no CUDA device, or torch is built without CUDA"


def _reason(part: str, otherwise: str) -> str:
    """What the build noted about itself."""
    note = Path(__file__).parents[1] / "_build_info.json"
    found = json.loads(note.read_text()).get(part) if note.exists() else None
    return found if found not in (None, "ok") else otherwise


def _arguments(a: Tensor, b: Tensor) -> tuple:
    pointers = (a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride())
    return (*pointers, *a.shape, a.dtype == torch.float64)


if _native is not None:

    @torch.library.custom_op("entk::gram_dot", mutates_args=(), device_types="cpu")
    def gram_dot_op(a: Tensor, b: Tensor) -> Tensor:
        """As `gram_dot`, for two matrices of one shape and dtype, float32 or float64."""
        sums = _native.gram_dot(*_arguments(a, b), torch.get_num_threads())
        return torch.tensor(sums, dtype=torch.float64)

    @gram_dot_op.register_fake
    def _(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty(3, dtype=torch.float64)

    if _native.cuda:

        @gram_dot_op.register_kernel("cuda")
        def _(a: Tensor, b: Tensor) -> Tensor:
            with torch.cuda.device(a.device):
                scratch = a.new_empty(_native.gram_dot_cuda_scratch(), dtype=torch.float64)
                out = a.new_empty(3, dtype=torch.float64)
                stream = torch.cuda.current_stream().cuda_stream
                pointers = (scratch.data_ptr(), out.data_ptr(), stream)
                _native.gram_dot_cuda(*_arguments(a, b), *pointers)
            return out
