"""What can serve on this machine."""

from __future__ import annotations

import torch

from entk.ops import why_not_triton
from entk.ops.native import native_cuda_status, native_status


def backends() -> dict[str, str]:
    """{backend: "ok" or why not}; `backend="auto"` takes the first that can serve a request.

    >>> import entk
    >>> entk.backends()["torch"]
    'ok'
    """
    return {
        "torch": "ok",
        "native": native_status(),
        "native-cuda": native_cuda_status(),
        "triton": _triton_status(),
    }


def _triton_status() -> str:
    if not torch.cuda.is_available():
        return "no CUDA device, or torch is built without CUDA"
    return why_not_triton(torch.device("cuda"), torch.float32) or "ok"
