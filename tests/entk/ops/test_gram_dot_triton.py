"""Run in Triton's interpreter by test_triton_interpreter.py; on a GPU see tests/gpu."""

from __future__ import annotations

import os

import pytest
import torch

from entk.errors import BackendUnavailableError
from entk.ops.gram_dot import gram_dot
from tests.entk.ops.test_gram_dot import LAYOUTS, SHAPES, check
from tests.poison import poisoned

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)


def gram_dot_triton(a, b):
    return gram_dot(a, b, backend="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    a, b = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    check(gram_dot_triton(a, b), a, b)


@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_layouts(left, right):
    a, b = LAYOUTS[left](37, 301, torch.float32), LAYOUTS[right](37, 301, torch.float32)
    check(gram_dot_triton(a, b), a, b)


def test_nothing_around_is_read():
    a, b = torch.randn(35, 130), torch.randn(35, 130)
    check(gram_dot_triton(poisoned(a)[0], poisoned(b)[0]), a, b)
    check(gram_dot_triton(poisoned(a, (0,))[0], poisoned(b, (0,))[0]), a, b)


def test_more_tiles_than_programs(monkeypatch):
    monkeypatch.setattr("entk.ops.gram_dot_triton.PROGRAMS", 4)
    a, b = torch.randn(100, 200), torch.randn(100, 200)
    check(gram_dot_triton(a, b), a, b)
    check(gram_dot_triton(a.T, b.T), a, b)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (2, 3, 0), (3, 2, 3, 2)], ids=str)
def test_any_number_of_axes(shape):
    a, b = torch.randn(shape), torch.randn(shape)
    check(gram_dot_triton(a, b), a, b)


def test_mixed_dtypes_and_negated_views():
    a, b = torch.randn(9, 11), torch.randn(9, 11, dtype=torch.float64)
    check(gram_dot_triton(a, b), a, b)
    negated = torch.complex(a, -a).conj().imag
    assert negated.is_neg()
    check(gram_dot_triton(negated, a), a, a)


def test_nan_and_infinity_are_kept():
    a, b = torch.ones(30, 70), torch.ones(30, 70)
    a[-1, -1] = torch.nan
    assert gram_dot_triton(a, b).isnan().tolist() == [True, True, False]
    a[-1, -1] = torch.inf
    assert gram_dot_triton(a, b).isinf().tolist() == [True, True, False]


def test_same_bits_again():
    a, b = torch.randn(300, 70), torch.randn(300, 70)
    assert torch.equal(gram_dot_triton(a, b), gram_dot_triton(a, b))


def test_what_it_cannot_serve():
    a = torch.ones(2)
    with pytest.raises(BackendUnavailableError, match="'triton' cannot serve gram_dot: it takes"):
        gram_dot_triton(a.half(), a.half())
    with pytest.raises(BackendUnavailableError, match="it has no derivative"):
        gram_dot_triton(a.requires_grad_(), a)
