"""Eigenvalues and effective ranks against dense float64 ones."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import entk
from tests import oracle, tolerance
from tests.kernels import model_and_samples, plain, symmetric, with_eigenvalues

EPS = torch.finfo(torch.float64).eps


def close(found: Tensor, expected: Tensor, digits: float = 64 * EPS) -> bool:
    """Weyl: an eigenvalue moves by no more than the norm of the change of the matrix."""
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= digits * expected.abs().max())


@pytest.mark.parametrize("k", [None, 1, 3, 6])
def test_dense_forms(k):
    square, diagonal = symmetric(6, 6), symmetric(3, 6, 6)
    assert close(entk.spectrum(square, k=k), plain(square)[:k])
    assert close(entk.spectrum(square.numpy(), k=k), plain(square)[:k])
    assert close(entk.spectrum(square.view(3, 2, 3, 2), k=k), plain(square)[:k])
    assert close(entk.spectrum(diagonal, k=k), plain(diagonal)[:, :k])


def test_of_a_model():
    model, x = model_and_samples(6)
    truth = oracle.ntk(model, x)
    for outputs in ("all", "diagonal", "trace"):
        kernel = oracle.mode(truth, outputs)
        matrix = kernel.flatten(2).flatten(0, 1) if outputs == "all" else kernel
        found = entk.spectrum(entk.ntk(model, x, outputs=outputs))
        assert tolerance.error(found, plain(matrix)) <= tolerance.FLOAT64


@pytest.mark.parametrize("method", ["auto", "eigsh", "lobpcg"])
def test_largest_of_an_operator(method):
    model, x = model_and_samples()
    expected = plain(oracle.ntk(model, x).flatten(2).flatten(0, 1))[:5]
    found = entk.spectrum(entk.ntk_operator(model, x, batch=8), k=5, method=method)
    assert close(found, expected, tolerance.FLOAT64 if method != "lobpcg" else EPS**0.5)


def test_largest_of_a_float32_operator():
    model, x = model_and_samples()
    expected = plain(oracle.ntk(model, x).flatten(2).flatten(0, 1))[:3]
    eps = torch.finfo(torch.float32).eps
    found = entk.spectrum(entk.ntk_operator(model.float(), x.float()), k=3)
    assert close(found, expected, 64 * eps)


@pytest.mark.parametrize("method", ["dense", "eigsh", "lobpcg"])
@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace"])
def test_files(tmp_path, monkeypatch, outputs, method):
    monkeypatch.setattr("entk.source.BAND", 50)  # many blocks
    model, x = model_and_samples()
    kernel = oracle.mode(oracle.ntk(model, x), outputs)
    expected = plain(kernel.flatten(2).flatten(0, 1) if outputs == "all" else kernel)[..., :3]
    path = tmp_path / "k.h5"
    entk.write_ntk(path, model, x, outputs=outputs).close()
    limit = EPS**0.5 if method == "lobpcg" else tolerance.FLOAT64
    assert close(entk.spectrum(path, k=3, method=method), expected, limit)
    with entk.open_kernel(path) as file:
        assert close(entk.spectrum(file, k=3, method=method), expected, limit)


def test_large_matrices_are_not_taken_apart_for_a_few_eigenvalues(monkeypatch):
    k = symmetric(30, 30)
    monkeypatch.setattr(importlib.import_module("entk.spectrum"), "DENSE", 29)
    monkeypatch.delattr(torch.linalg, "eigvalsh")
    found = entk.spectrum(k, k=4)
    monkeypatch.undo()
    assert close(found, plain(k)[:4])


def test_the_same_every_time():
    model, x = model_and_samples()
    k = entk.ntk_operator(model, x)
    for method in ("eigsh", "lobpcg"):
        found = [entk.spectrum(k, k=3, method=method) for _ in range(2)]
        assert torch.equal(*found)


def test_float32_kernels_are_worked_on_in_float64():
    k = symmetric(40, 40).float()
    assert close(entk.spectrum(k), plain(k))
    assert close(entk.spectrum(k, k=2, method="eigsh"), plain(k)[:2], 1e-5)


def test_asymmetry_of_rounding_is_averaged_out():
    k = symmetric(8, 8)
    off = 1e-12 * torch.randn(8, 8, dtype=torch.float64)
    assert close(entk.spectrum(k + off), plain((k + off + (k + off).mT) / 2))


K = symmetric(12, 12)


@pytest.mark.parametrize(
    ("kernel", "options", "text"),
    [
        (K.tril(), {}, "is not symmetric"),
        (K[:5], {}, r"shape \(5, 12\), expected a square one"),
        (K.view(6, 2, 12, 1), {}, r"shape \(6, 2, 12, 1\), expected a square one"),
        (K * torch.nan, {}, "contains NaN or infinity"),
        (K * torch.inf, {"k": 2, "method": "eigsh"}, "contains NaN or infinity"),
        (K, {"method": "power"}, "method='power', expected one of"),
        (K, {"k": 0}, "k=0, expected None or a number of eigenvalues from 1 to 12"),
        (K, {"k": 13}, "k=13, expected"),
        (K, {"k": True}, "k=True, expected"),
        (K, {"method": "eigsh"}, "method='eigsh' needs k="),
        (K, {"k": 12, "method": "eigsh"}, "eigsh finds at most 11 of 12"),
        (K, {"k": 3, "method": "lobpcg"}, "five rows for each eigenvalue, got 12 for k=3"),
        ([1.0], {}, "the kernel is list"),
    ],
)
def test_refused(kernel, options, text):
    with pytest.raises(entk.InputError, match=text):
        entk.spectrum(kernel, **options)


def test_operators_refused():
    model, x = model_and_samples(4)
    k = entk.ntk_operator(model, x)
    for call, text in (
        (lambda: entk.spectrum(k), "an operator needs k="),
        (lambda: entk.spectrum(k, k=2, method="dense"), "an operator has no matrix"),
        (lambda: entk.spectrum(entk.ntk_operator(model, x, x), k=2), "two sets of samples"),
        (lambda: entk.spectral_density(entk.ntk_operator(model, x, x)), "two sets of samples"),
        (lambda: entk.effective_rank(k), "an operator has too many eigenvalues"),
    ):
        with pytest.raises(entk.InputError, match=text):
            call()


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(entk.BackendUnavailableError, match="pip install scipy, or take method='de"):
        entk.spectrum(K, k=2, method="eigsh")


def entropy(p):
    return math.exp(-sum(v * math.log(v) for v in p if v > 0))


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [5.0, 3.0, 0.0], [1e200, 3e199, 1e-9]])
def test_effective_ranks_by_their_formulas(values):
    p = [v / sum(values) for v in values]
    expected = {
        "entropy": entropy(p),
        "participation": 1 / sum(v * v for v in p),
        "stable": 1 / max(p),
    }
    values = torch.tensor(values, dtype=torch.float64)
    for kind, value in expected.items():
        assert entk.effective_rank(values, kind).item() == pytest.approx(value, rel=1e-13)
        assert entk.effective_rank(values.numpy(), kind).item() == pytest.approx(value, rel=1e-13)
        found = entk.effective_rank(torch.diag(values), kind)
        assert found.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("kind", ["entropy", "participation", "stable"])
def test_effective_rank_of_kernels(kind, tmp_path):
    model, x = model_and_samples(5)
    truth = oracle.ntk(model, x)
    entk.write_ntk(tmp_path / "k.h5", model, x).close()
    flat = truth.flatten(2).flatten(0, 1)
    expected = entk.effective_rank(plain(flat), kind)
    assert expected.shape == ()
    for kernel in (truth, flat, tmp_path / "k.h5"):
        assert entk.effective_rank(kernel, kind).item() == pytest.approx(expected.item(), rel=1e-8)
    diagonal = oracle.mode(truth, "diagonal")
    each = torch.stack([entk.effective_rank(k, kind) for k in diagonal])
    assert torch.allclose(entk.effective_rank(diagonal, kind), each, rtol=1e-12, atol=0)


def test_ranks_are_ordered_and_the_rank_for_projections():
    values = torch.rand(20, dtype=torch.float64)
    kinds = ("stable", "participation", "entropy")
    found = [entk.effective_rank(values, kind).item() for kind in kinds]
    assert 1 < found[0] < found[1] < found[2] < 20
    projection = with_eigenvalues(torch.tensor([1.0] * 4 + [0.0] * 5))
    for kind in kinds:
        assert entk.effective_rank(projection, kind).item() == pytest.approx(4, rel=1e-10)
        assert entk.effective_rank(projection.float(), kind).item() == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "kind", "text"),
    [
        (torch.ones(3), "rank", "kind='rank', expected one of"),
        (torch.tensor([1.0, -0.1]), "entropy", r"smallest eigenvalue is -1.000e-01"),
        (-torch.eye(3), "stable", "the smallest eigenvalue is -1.0"),
        (torch.zeros(3), "entropy", "all eigenvalues are zero"),
        (torch.zeros(2, 3, 3), "stable", "all eigenvalues are zero"),
        (torch.tensor([1.0, torch.nan]), "entropy", "eigenvalues contain NaN"),
        (torch.tensor([1, 2]), "entropy", "eigenvalues are torch.int64"),
        (torch.ones(0), "entropy", r"eigenvalues are torch.float32 \(0,\)"),
        (K.tril(), "entropy", "is not symmetric"),
    ],
)
def test_effective_rank_refused(kernel, kind, text):
    with pytest.raises(entk.InputError, match=text):
        entk.effective_rank(kernel, kind)


def test_eigsh_that_does_not_converge_says_so(monkeypatch):
    from scipy.sparse import linalg

    def one_round(*args, **options):
        return eigsh(*args, **{**options, "maxiter": 1, "ncv": 4})

    eigsh = linalg.eigsh
    monkeypatch.setattr(linalg, "eigsh", one_round)
    k = with_eigenvalues(torch.linspace(1, 2, 60))
    with pytest.raises(entk.InputError, match=r"eigsh found . of 3 eigenvalues"):
        entk.spectrum(k, k=3, method="eigsh")


def test_lobpcg_that_does_not_converge_says_so(monkeypatch):
    from scipy.sparse import linalg

    lobpcg = linalg.lobpcg
    monkeypatch.setattr(linalg, "lobpcg", lambda *a, **o: lobpcg(*a, **{**o, "maxiter": 1}))
    k = with_eigenvalues(torch.linspace(1, 2, 60)).numpy().astype(np.float64)
    with pytest.raises(entk.InputError, match="lobpcg stopped at a residual of"):
        entk.spectrum(k, k=3, method="lobpcg")
