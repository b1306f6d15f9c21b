"""The spectral density by stochastic Lanczos quadrature against all eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch

import entk
from entk.density import lanczos
from tests import oracle, tolerance
from tests.kernels import model_and_samples, plain, symmetric, with_eigenvalues

EPS = torch.finfo(torch.float64).eps
K = symmetric(12, 12)


def test_lanczos_keeps_its_basis_orthogonal():
    """K = Q T Q' with all steps taken, though eigenvalues converge long before."""
    k = with_eigenvalues(torch.logspace(0, -9, 40))
    start = torch.randn(40, 2, dtype=torch.float64)
    start /= start.norm(dim=0)
    diagonal, beside = lanczos(lambda v: k @ v, start, 40)
    t = torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    for found in plain(t):
        assert (found - plain(k)).abs().max() <= 40 * 8 * EPS


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 7])
def test_quadrature_is_exact_for_polynomials(degree):
    """v' K^d v for degrees below twice the steps."""
    k = symmetric(30, 30)
    density = entk.spectral_density(
        k, steps=4, probes=3, generator=torch.Generator().manual_seed(5)
    )
    signs = torch.randint(2, (30, 3), generator=torch.Generator().manual_seed(5), dtype=k.dtype)
    v = (2 * signs - 1) / math.sqrt(30)
    expected = (v * (torch.linalg.matrix_power(k, degree) @ v)).sum(0)
    found = (density.weights * density.nodes**degree).sum(1)
    assert tolerance.error(found, expected) <= tolerance.FLOAT64
    mean, error = density.mean(lambda t: t**degree)
    assert mean == pytest.approx(expected.mean().item(), abs=1e-10 * expected.abs().max().item())
    spread = expected.std().item() / math.sqrt(3)
    assert error == pytest.approx(spread, abs=1e-10 * expected.abs().max().item())


def test_density_of_a_model():
    """Traces of functions within their standard error, from an operator, a file and a tensor."""
    model, x = model_and_samples()
    kernel = oracle.ntk(model, x)
    values = plain(kernel.flatten(2).flatten(0, 1))
    density = entk.spectral_density(entk.ntk_operator(model, x), steps=30, probes=30)
    assert density.size == 40
    assert density.probes == 30
    assert density.nodes.shape == density.weights.shape == (30, 30)
    assert torch.allclose(density.weights.sum(1), torch.ones(30).double(), rtol=0, atol=1e-12)
    for f in (lambda t: t, lambda t: t.square(), lambda t: 1 / (t + 0.1)):
        mean, error = density.mean(f)
        assert 0 < error < 0.2 * mean
        assert abs(mean - f(values).mean().item()) <= 4 * error
    at, width = torch.linspace(0, values[0].item(), 25), values[0].item() / 10
    found, error = density.smoothed(at, width)
    bumps = torch.distributions.Normal(values, width).log_prob(at.double()[:, None]).exp().mean(1)
    assert ((found - bumps).abs() <= 4 * error).float().mean() >= 0.9
    again = entk.spectral_density(kernel, steps=30, probes=30).mean(lambda t: t.sqrt())
    assert again == pytest.approx(density.mean(lambda t: t.clamp(min=0).sqrt()), rel=1e-4)


def test_density_of_few_distinct_eigenvalues():
    """Krylov spaces end early; what is left over has no weight and harms no logarithm."""
    k = with_eigenvalues(torch.tensor([1.0] * 10 + [2.0] * 10 + [4.0] * 20))
    density = entk.spectral_density(k, steps=12, probes=6)
    heavy = density.weights > 1e-12
    assert (heavy.sum(1) == 3).all()
    assert (density.nodes[heavy].view(6, 3) - torch.tensor([1.0, 2.0, 4.0])).abs().max() <= 1e-10
    mean, error = density.mean(torch.log2)
    assert abs(mean - 1.25) <= 4 * error
    exact = entk.spectral_density(2 * torch.eye(5), steps=9, probes=2)
    assert exact.nodes.shape == (2, 5)  # no more steps than rows
    assert exact.mean(torch.log2) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_one_probe_has_no_error_bar():
    assert entk.spectral_density(K, probes=1).mean(lambda t: t)[1] == math.inf


@pytest.mark.parametrize(
    ("kernel", "options", "text"),
    [
        (K, {"steps": 0}, "steps=0, expected a positive integer"),
        (K, {"probes": 1.5}, "probes=1.5, expected a positive integer"),
        (K.tril(), {}, "is not symmetric"),
        (K * torch.nan, {}, "contains NaN or infinity"),
        (symmetric(2, 4, 4), {}, r"shape \(2, 4, 4\), expected \[N, N\]"),
    ],
)
def test_density_refused(kernel, options, text):
    with pytest.raises(entk.InputError, match=text):
        entk.spectral_density(kernel, **options)


def test_width_refused():
    with pytest.raises(entk.InputError, match="width=0, expected a positive number"):
        entk.spectral_density(K).smoothed(torch.zeros(1), 0)
