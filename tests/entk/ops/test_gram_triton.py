"""Run in Triton's interpreter by test_triton_interpreter.py; on a GPU see tests/gpu."""

from __future__ import annotations

import os

import pytest
import torch

from entk.errors import BackendUnavailableError, InputError
from entk.factors import kernel_shape
from entk.ops import PRECISIONS, products
from tests import emulation, tolerance
from tests.twins import LAYOUTS, MODES, check_gram

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)

# N, M, O, P: one entry; odd sizes; more than one tile and chunk; whole tiles and chunks
SIZES = [(1, 1, 1, 1), (5, 3, 2, 7), (13, 11, 3, 1100), (32, 64, 1, 1024)]
SMALL = (7, 5, 3, 40)


def gram_triton(j, k, out, outputs, lower=False, precision="ieee"):
    products("triton", precision)[0](j, k, out, outputs, lower=lower)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
@pytest.mark.parametrize("outputs", MODES)
def test_sizes(outputs, lower, size, dtype):
    check_gram(size, outputs, lower, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
@pytest.mark.parametrize("outputs", MODES)
def test_layouts(outputs, lower, layout):
    check_gram(SMALL, outputs, lower, layout=layout)


@pytest.mark.parametrize("precision", PRECISIONS["triton"])
@pytest.mark.parametrize("outputs", MODES)
def test_precisions(outputs, precision):
    """The interpreter multiplies in float32 whatever is asked; the instructions are in
    test_triton_compile.py, and what they give in tests/gpu."""
    check_gram(SMALL, outputs, False, precision=precision)


@pytest.mark.parametrize("rows", range(1, 8))
def test_the_triangle_of_tiles(rows):
    """Every tile that touches the lower triangle is added once, no other is: 32 rows a tile."""
    j = torch.ones(32 * rows - 5, 1, 2)
    out = torch.zeros(len(j), len(j))
    gram_triton(j, j, out, "trace", lower=True)
    index = torch.arange(len(j)) // 32
    assert torch.equal(out, 2.0 * (index[:, None] >= index))


def test_large_tiles():
    """More than FULL tiles of 64: the first entry of the table."""
    j = torch.randn(64 * 15 + 1, 1, 3)
    out = torch.zeros(len(j), len(j))
    gram_triton(j, j, out, "trace", lower=True)
    torch.testing.assert_close(out.tril(), (j[:, 0] @ j[:, 0].T).tril())
    assert out[0, 63] != 0  # within the first tile of 64


def test_float64_sums_of_float32():
    j, k = torch.randn(4, 2, 9), torch.randn(3, 2, 9)
    out = torch.full((4, 3), 1e10, dtype=torch.float64)
    gram_triton(j, k, out, "trace")
    assert tolerance.error(out - 1e10, emulation.gram(j, k, "trace", "ieee")) <= 1e-5


@pytest.mark.parametrize("size", [(0, 3, 2, 4), (3, 0, 2, 4), (3, 2, 0, 4), (3, 2, 2, 0)], ids=str)
@pytest.mark.parametrize("outputs", MODES)
def test_nothing_to_do(outputs, size):
    n, m, o, p = size
    out = torch.ones(kernel_shape(n, m, o, outputs))
    gram_triton(torch.ones(n, o, p), torch.ones(m, o, p), out, outputs)
    assert (out == 1).all()


def test_same_bits_again():
    j = torch.randn(40, 2, 60)
    found = [torch.zeros(40, 40) for _ in range(2)]
    for out in found:
        gram_triton(j, j, out, "trace", lower=True)
    assert torch.equal(*found)


def test_errors():
    j, out = torch.ones(2, 1, 3), torch.zeros(2, 2)
    with pytest.raises(InputError, match="precision='fp8', expected one of"):
        gram_triton(j, j, out, "trace", precision="fp8")
    with pytest.raises(InputError, match=r"float32.*float64.*expected one device and one dtype"):
        gram_triton(j, j.double(), out, "trace")
    with pytest.raises(BackendUnavailableError, match=r"and float64, got torch\.float16"):
        gram_triton(j.half(), j.half(), out, "trace")
