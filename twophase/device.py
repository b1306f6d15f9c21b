"""The state of a process in which the same computation has the same bits each time."""

from __future__ import annotations

import os

import torch

from twophase.errors import UserError


def prepare(device: str) -> None:
    """One thread; on "cuda" IEEE products and deterministic kernels, for the rest of the process.

    Sums split by threads would make the bits depend on the machine. Raises UserError: no CUDA.
    """
    check(device)
    torch.set_num_threads(1)
    if device == "cpu":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    for products in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        products.fp32_precision = "ieee"  # no TF32


def check(device: str) -> None:
    """Raises UserError: no CUDA."""
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(
            f"device={device!r}: torch {torch.__version__} sees no CUDA device; use device=cpu, or "
            "a machine and a torch that have one"
        )
