"""Tensors whose sign is not in memory yet, as of the imaginary part of a conjugate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk
from tests import oracle


def negated(t: torch.Tensor) -> torch.Tensor:
    """The same numbers."""
    return torch._neg_view(-t)


class Between(nn.Module):
    """Layers whose inputs, and the gradients at whose outputs, are negative views."""

    def __init__(self, first: nn.Module, last: nn.Module):
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x):
        h = self.first(negated(x)).relu()
        return self.last(negated(h).flatten(1))


NETWORKS = {
    "linear": (lambda: Between(nn.Linear(16, 192), nn.Linear(192, 12)), (16,)),
    "tokens": (lambda: Between(nn.Linear(16, 8), nn.Linear(96, 12)), (12, 16)),
    "conv": (lambda: Between(nn.Conv2d(3, 6, 3), nn.Linear(216, 12)), (3, 8, 8)),
    "norm": (lambda: Between(nn.LayerNorm(16), nn.Linear(192, 12)), (12, 16)),
}


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("strategy", ["rows", "pairs", "fused"])
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_between_negative_views(name, strategy, backend):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, x = make().double(), torch.randn(32, *shape, dtype=torch.float64)
    for outputs in ("all", "trace"):
        plan = entk.plan_ntk(model, x, outputs=outputs, strategy=strategy, backend=backend)
        found = entk.ntk(model, x, outputs=outputs, plan=plan)
        check(found, oracle.ntk(model, x, outputs=outputs))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_parameters_and_samples(backend, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Linear(512, 3)).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    expected = oracle.ntk(model, x)
    for layer in (model[0], model[2]):
        for name, p in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(negated(p.detach())))
    assert model[0].weight.is_neg()
    check(entk.ntk(model, negated(x), backend=backend), expected)
    with entk.write_ntk(tmp_path / "k.h5", model, negated(x), backend=backend) as file:
        check(file[:].view_as(expected), expected)


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).norm() <= 1e-12 * expected.norm()
