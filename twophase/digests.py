"""SHA-256 of tensors, of which no whole copy is made."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

ROWS = 1024  # of a tensor whose bytes are not in order, copied at a time


def digest(tensors: dict[str, Tensor], head: str = "", end: str = "") -> str:
    """Over names, dtypes, shapes and bytes in the order of the names; `end` after each form."""
    found = hashlib.sha256(head.encode())
    for name, t in sorted(tensors.items()):
        found.update(f"{name} {t.dtype} {tuple(t.shape)}{end}".encode())
        for part in torch.atleast_1d(t.detach()).split(ROWS):
            found.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
