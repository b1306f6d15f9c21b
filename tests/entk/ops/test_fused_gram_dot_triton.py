"""Run in Triton's interpreter by test_triton_interpreter.py; on a GPU see tests/gpu."""

from __future__ import annotations

import os

import pytest
import torch

import entk
from entk.errors import InputError
from entk.factors import kernel_shape
from entk.ops.fused_gram_dot import fused_gram_dot
from entk.ops.fused_gram_dot_triton import fused_gram_dot_triton
from tests.cases import CASES
from tests.twins import MODES, check_fused_gram_dot

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, (1,)), (5, 3, 2, (7, 40)), (13, 11, 3, (1100, 3, 16))])
@pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
@pytest.mark.parametrize("outputs", MODES)
def test_sizes(outputs, lower, size, dtype):
    check_fused_gram_dot(size, outputs, lower, dtype)


@pytest.mark.parametrize("layout", ["reversed", "negated", "poisoned"])
def test_layouts(layout):
    check_fused_gram_dot((7, 5, 3, (40, 6)), "all", False, layout=layout)


@pytest.mark.parametrize("outputs", MODES)
def test_without_rows(outputs):
    """All of both kernels comes from the starts."""
    starts = [torch.randn(kernel_shape(5, 4, 2, outputs)) for _ in range(2)]
    found = fused_gram_dot_triton([], [], starts, outputs)
    torch.testing.assert_close(found, fused_gram_dot([], [], starts, outputs))


def test_nothing_to_do():
    j = torch.ones(0, 2, 3)
    starts = (torch.ones(0, 2, 0, 2),) * 2
    assert fused_gram_dot_triton([(j, j)], [(j, j)], starts, "all").tolist() == [0, 0, 0]


def test_same_bits_again():
    j, starts = torch.randn(40, 2, 60), (torch.zeros(40, 40),) * 2
    found = [fused_gram_dot_triton([(j, j)], [(j, j)], starts, "trace") for _ in range(2)]
    assert torch.equal(*found)
    assert found[0][0] == found[0][1] == found[0][2]


def test_errors():
    j, starts = torch.ones(2, 1, 3), (torch.zeros(2, 2),) * 2
    with pytest.raises(InputError, match=r"fused_gram_dot got tensors on .* expected one device"):
        fused_gram_dot_triton([(j, j.double())], [], starts, "trace")


@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace", "sum"])
@pytest.mark.parametrize(
    ("name", "strategy"), [("linear_tokens", "rows"), ("two_lengths", None), ("batchnorm1d", None)]
)
def test_distance_of_models(name, strategy, outputs):
    (one, x, z), (two, _, _) = BY_NAME[name].make(), BY_NAME[name].make()
    with torch.no_grad():
        for p in two.parameters():
            p.add_(0.1 * torch.randn_like(p))
    for other in (None, z):
        options = {"outputs": outputs, "strategy": strategy, "block": 2}
        found = entk.kernel_distance(one, two, x, other, backend="triton", **options)
        kernels = [entk.ntk(m, x, other, outputs=outputs, backend="torch") for m in (one, two)]
        assert found == pytest.approx(entk.kernel_distance(*kernels), rel=1e-9)
