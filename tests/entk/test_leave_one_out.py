"""Each sample's prediction by all others, against regression without it."""

from __future__ import annotations

import pytest
import torch

import entk
from tests import tolerance
from tests.entk.test_regression import FORMS, N, O, kernels, targets


@pytest.mark.parametrize("form", FORMS)
def test_leave_one_out_is_regression_without_the_sample(form):
    train, _, full, _ = kernels(form)
    y = targets(N, O)
    found = entk.kernel_regression(train, y, ridge=0.3, leave_one_out=True).left_out
    assert found.shape == (N, O)
    for n in range(N):
        rows = torch.tensor([r for r in range(N * O) if r // O != n])
        k = full[rows][:, rows] + 0.3 * torch.eye(len(rows)).double()
        dual = torch.linalg.solve(k, y.flatten()[rows])
        expected = full[n * O : (n + 1) * O][:, rows] @ dual
        limit = 64 * torch.linalg.cond(k).item() * torch.finfo(torch.float64).eps
        assert tolerance.error(found[n], expected) <= limit
    assert entk.kernel_regression(train, y, ridge=0.3).left_out is None


def test_one_output_without_its_axis():
    k, y = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([3.0, 5.0])
    found = entk.kernel_regression(k, y, leave_one_out=True).left_out
    assert torch.allclose(found, torch.tensor([2.5, 1.5]))  # half of the other one's target
