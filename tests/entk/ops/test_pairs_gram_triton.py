"""Run in Triton's interpreter by test_triton_interpreter.py; on a GPU see tests/gpu."""

from __future__ import annotations

import os

import pytest
import torch

from entk.errors import InputError
from entk.factors import Factors, kernel_shape
from entk.ops import PRECISIONS, products
from tests.twins import MODES, SIZES, Size, check_pairs_gram, factors

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)


def pairs_gram_triton(x, z, out, outputs):
    products("triton", "ieee")[1](x, z, out, outputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
@pytest.mark.parametrize("outputs", MODES)
def test_sizes(outputs, lower, size):
    check_pairs_gram(SIZES[size], outputs, lower)


@pytest.mark.parametrize("size", ["plain", "one position", "two lengths", "tiles of outputs"])
@pytest.mark.parametrize("outputs", MODES)
def test_float64(outputs, size):
    check_pairs_gram(SIZES[size], outputs, dtype=torch.float64)


@pytest.mark.parametrize("size", ["plain", "one position", "one output", "two lengths"])
@pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
@pytest.mark.parametrize("outputs", MODES)
def test_tokens(outputs, lower, size):
    """Some of them -1, which is none and equals none."""
    check_pairs_gram(SIZES[size], outputs, lower, tokens=True)


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("size", ["plain", "groups", "one position"])
@pytest.mark.parametrize("layout", ["poisoned", "reversed"])
@pytest.mark.parametrize("outputs", MODES)
def test_layouts(outputs, layout, size, tokens):
    if tokens and SIZES[size].groups > 1:
        size = "plain"
    check_pairs_gram(SIZES[size], outputs, tokens=tokens, layout=layout)


@pytest.mark.parametrize("precision", PRECISIONS["triton"])
@pytest.mark.parametrize("outputs", MODES)
def test_precisions(outputs, precision):
    """Names only: see test_gram_triton.py."""
    check_pairs_gram(SIZES["plain"], outputs, precision=precision)


@pytest.mark.parametrize("outputs", MODES)
def test_offsets_of_64_bits(outputs, monkeypatch):
    """As for samples whose entries lie 2^31 apart."""
    monkeypatch.setattr("entk.ops.pairs_gram_triton._extent", lambda t: 2**31)
    check_pairs_gram(SIZES["two lengths"], outputs)


@pytest.mark.parametrize("empty", ["n", "m", "o", "groups", "c", "k", "t"])
@pytest.mark.parametrize("outputs", MODES)
def test_nothing_to_do(outputs, empty):
    size = Size(t=2, s=2)._replace(**{empty: 0})
    x = factors(size.n, size.o, size.groups, size.c, size.k, size.t)
    z = factors(size.m, size.o, size.groups, size.c, size.k, size.s)
    out = torch.ones(kernel_shape(size.n, size.m, size.o, outputs))
    pairs_gram_triton(x, z, out, outputs)
    assert (out == 1).all()


def test_same_bits_again():
    x = factors(3, 2, 1, 3, 5, 20)
    found = [torch.zeros(3, 2, 3, 2) for _ in range(2)]
    for out in found:
        pairs_gram_triton(x, x, out, "all")
    assert torch.equal(*found)


def test_errors():
    x = factors(2, 1, 1, 1, 1, 2)
    with pytest.raises(InputError, match="expected one device and one dtype"):
        pairs_gram_triton(x, Factors(x.a, x.g.double()), torch.zeros(2, 2), "trace")
