"""Made-up kernels, and a model with samples, for tests of what is done with a kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gram(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    """A positive definite kernel of features with a mean."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, 9, generator=generator, dtype=dtype) + 0.5
    return torch.tensordot(rows, rows, dims=([-1], [-1]))


def symmetric(*shape: int, seed: int = 0) -> Tensor:
    """Eigenvalues of both signs."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (k + k.mT) / 2


def with_eigenvalues(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator).double())
    k = q * values.double() @ q.mT
    return (k + k.mT) / 2


def plain(k: Tensor) -> Tensor:
    """Eigenvalues in descending order."""
    return torch.linalg.eigvalsh(k.double()).flip(-1)


def model_and_samples(n: int = 20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double().eval()
    return model, torch.randn(n, 4, dtype=torch.float64)
