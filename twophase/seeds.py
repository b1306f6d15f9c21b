"""One named generator per use of randomness, a function of the run's seed and nothing else.

Data order, augmentation, noise and perturbations are keyed by epoch or step, so the state of every
generator at any step can be rebuilt from (seed, step): twins share them, and a resumed run too.
"""

from __future__ import annotations

import hashlib

import torch


def number(seed: int, *name: str | int) -> int:
    """A 63-bit seed for the use called `name`."""
    text = "/".join(str(part) for part in (seed, *name))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator for the use called `name`."""
    return torch.Generator().manual_seed(number(seed, *name))
