"""`entk.ntk_operator`: K V, Jᵀ w and J u against the plain Jacobian."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import entk
from tests import oracle, tolerance
from tests.cases import CASES, fn, of

BY_NAME = {case.name: case for case in CASES}


def rows(jacobian: dict[str, Tensor]) -> Tensor:
    """[N*O, P]"""
    return torch.cat([j.reshape(*j.shape[:2], -1) for j in jacobian.values()], 2).flatten(0, 1)


def mlp(dtype=torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype).eval()
    return model, torch.randn(7, 4, dtype=dtype), torch.randn(5, 4, dtype=dtype)


@pytest.mark.parametrize("name", BY_NAME)
def test_product_is_that_of_the_kernel(name):
    model, x, z = BY_NAME[name].make()
    one, two = (rows(oracle.jacobian(model, t)) for t in (x, z))
    k = entk.ntk_operator(model, x, z, batch=2)
    assert k.shape == (len(one), len(two))
    v = torch.randn(len(two), 2, dtype=torch.float64)
    w = torch.randn(len(one), dtype=torch.float64)
    assert tolerance.error(k @ v, one @ (two.mT @ v)) <= tolerance.FLOAT64
    assert tolerance.error(k.T @ w, two @ (one.mT @ w)) <= tolerance.FLOAT64


def skipping(self, x: Tensor) -> Tensor:
    """Forward mode goes through no_grad, reverse mode does not."""
    with torch.no_grad():
        scale = self.g(x)
    return self.f(x) * scale


def doubled(self, x: Tensor) -> Tensor:
    h = self.f(x)
    if h.requires_grad:
        h.register_hook(lambda g: 2 * g)
    return h.tanh()


UNUSUAL = {
    "no_grad": fn(skipping, f=of(nn.Linear, 4, 2), g=of(nn.Linear, 4, 2)),
    "hook": fn(doubled, f=of(nn.Linear, 4, 2)),
    "checkpoint": fn(
        lambda s, x: checkpoint(s.g, checkpoint(s.f, x, use_reentrant=False), use_reentrant=False),
        f=of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()).requires_grad_(False)),
        g=of(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))),
    ),
    "writes_into_samples": fn(lambda s, x: s.f(x.mul_(2)), f=of(nn.Linear, 4, 2)),
    "fused_attention": fn(
        lambda s, x: F.scaled_dot_product_attention(s.f(x)[:, None], s.f(x)[:, None], x[:, None]),
        f=of(nn.Linear, 4, 4),
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_models(name):
    model = UNUSUAL[name]().double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = x.clone()
    for params in (None, [name for name, _ in model.named_parameters()]):
        expected = oracle.ntk(model, x, params=params).flatten(2).flatten(0, 1)
        v = torch.randn(len(expected), dtype=torch.float64)
        found = entk.ntk_operator(model, x, params=params) @ v
        assert tolerance.error(found, expected @ v) <= tolerance.FLOAT64
    assert torch.equal(x, before)


@pytest.mark.parametrize("batch", [None, 1, 3, 7, 100])
def test_batches(batch):
    model, x, _ = mlp()
    expected = oracle.ntk(model, x).flatten(2).flatten(0, 1)
    k = entk.ntk_operator(model, x, batch=batch)
    assert tolerance.error(k @ torch.eye(21).double(), expected) <= tolerance.FLOAT64


class Counted(nn.Module):
    """Counts passes, and the samples of the largest."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 3)
        self.seen: list[int] = []

    def __deepcopy__(self, memo):  # the operator's copy counts here too
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return torch.tanh(self.f(x))


def test_passes_are_counted():
    """One forward for the backward passes of a batch, one forward derivative for each column."""
    model, x = Counted().eval(), torch.randn(7, 4)
    k = entk.ntk_operator(model, x, batch=3)
    model.seen.clear()
    k @ torch.randn(21, 5)
    assert model.seen == [3, 3, 1] + [3] * 5 + [3] * 5 + [1] * 5


def test_jacobian_from_both_sides():
    model, x, z = mlp()
    jacobian = oracle.jacobian(model, z)
    k = entk.ntk_operator(model, x, z, batch=2).T
    w = torch.randn(15, 2, dtype=torch.float64)
    found = k.jacobian_transpose(w)
    single = k.jacobian_transpose(w[:, 1])
    for name, j in jacobian.items():
        expected = torch.einsum("r...,rk->k...", j.flatten(0, 1), w)
        assert tolerance.error(found[name], expected) <= tolerance.FLOAT64
        assert tolerance.error(single[name], expected[1]) <= tolerance.FLOAT64
    u = {name: torch.randn(2, *j.shape[2:], dtype=torch.float64) for name, j in jacobian.items()}
    flat = torch.cat([t.flatten(1) for t in u.values()], 1)
    expected = rows(jacobian) @ flat.mT
    assert tolerance.error(k.jacobian_product(u), expected) <= tolerance.FLOAT64
    single = k.jacobian_product({name: t[0] for name, t in u.items()})
    assert tolerance.error(single, expected[:, 0]) <= tolerance.FLOAT64


def test_float32():
    model, x, z = mlp(torch.float32)
    truth = oracle.ntk(model, x, z).flatten(2).flatten(0, 1)
    plain = oracle.ntk(model, x, z, dtype=torch.float32).flatten(2).flatten(0, 1)
    v = torch.randn(15, 4)
    k = entk.ntk_operator(model, x, z)
    assert k.dtype == torch.float32
    found, limit = k @ v, tolerance.limit(plain @ v, truth @ v.double())
    assert tolerance.error(found, truth @ v.double()) <= limit


def test_arrays_in_arrays_out():
    model, x, z = mlp()
    k = entk.ntk_operator(model, x, z)
    v = torch.randn(15, 2, dtype=torch.float64)
    assert np.array_equal(k @ v.numpy(), (k @ v).numpy())
    assert (k @ v[:, 0].numpy()).shape == (21,)
    assert np.array_equal(k @ np.asfortranarray(v.numpy()), (k @ v).numpy())


def test_scipy():
    from scipy.sparse.linalg import cg

    model, x, z = mlp()
    k = entk.ntk_operator(model, x, z)
    expected = oracle.ntk(model, x, z).flatten(2).flatten(0, 1)
    made = k.to_scipy()
    assert made.shape == (21, 15)
    assert made.dtype == np.float64
    for found, truth in ((made, expected), (made.H, expected.mT)):
        for v in (torch.randn(truth.shape[1]), torch.randn(truth.shape[1], 3)):
            v = v.double()
            product = torch.from_numpy(found @ v.numpy())
            assert product.shape == (truth @ v).shape
            assert tolerance.error(product, truth @ v) <= tolerance.FLOAT64
    y, square = np.ones(21), entk.ntk_operator(model, x).to_scipy()
    ridge = square + 0.1 * _identity(21)
    solution, failed = cg(ridge, y, rtol=1e-12, maxiter=500)
    assert failed == 0
    assert np.linalg.norm(ridge @ solution - y) <= 1e-11 * np.linalg.norm(y)


def _identity(n: int):
    from scipy.sparse.linalg import aslinearoperator

    return aslinearoperator(np.eye(n))


def test_without_scipy(monkeypatch):
    model, x, _ = mlp()
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(entk.BackendUnavailableError, match="pip install scipy"):
        entk.ntk_operator(model, x).to_scipy()


def test_named_parameters():
    model, x, z = mlp()
    expected = oracle.ntk(model, x, z, params=["2.bias", "0.weight"]).flatten(2).flatten(0, 1)
    k = entk.ntk_operator(model, x, z, params=["2.bias", "0.weight"])
    assert tolerance.error(k @ torch.eye(15).double(), expected) <= tolerance.FLOAT64


def test_the_model_may_change_afterwards():
    model, x, _ = mlp()
    v = torch.randn(21, dtype=torch.float64)
    k = entk.ntk_operator(model, x)
    before = k @ v
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model.train()
    assert torch.equal(k @ v, before)
    assert all(p.grad is None for p in model.parameters())


def test_symmetric_if_z_is_left_out():
    model, x, z = mlp()
    assert entk.ntk_operator(model, x).symmetric
    assert entk.ntk_operator(model, x).T.shape == (21, 21)
    assert not entk.ntk_operator(model, x, z).symmetric
    assert entk.ntk_operator(model, x, z).T.shape == (15, 21)
    assert repr(entk.ntk_operator(model, x, z)).startswith("NTKOperator(shape=(21, 15)")


V = torch.randn(21, dtype=torch.float64)


@pytest.mark.parametrize(
    ("v", "text"),
    [
        ([1.0] * 21, "v is list, expected a tensor or a real array"),
        (np.array(["a"] * 21), "v is ndarray, expected a tensor or a real array"),
        (V[:20], r"v has shape \(20,\), expected \[21\] or \[21, k\]: .* 7 x 3"),
        (V[:, None, None], r"v has shape \(21, 1, 1\)"),
        (torch.zeros(21, 0).double(), r"v has shape \(21, 0\)"),
        (V.float(), "v is torch.float32 on cpu but the operator is torch.float64"),
        (V * torch.nan, "v contains NaN or infinity"),
        ((V / 0).numpy(), "v contains NaN or infinity"),
    ],
)
def test_refused_columns(v, text):
    model, x, _ = mlp()
    with pytest.raises(entk.InputError, match=text):
        entk.ntk_operator(model, x) @ v


def test_refused_directions():
    k = entk.ntk_operator(nn.Linear(3, 2), torch.randn(4, 3))
    good = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    for u, text in (
        ({"weight": good["weight"]}, r"u has \['weight'\], expected a tensor for each of"),
        (good["weight"], "u has Tensor, expected"),
        ({**good, "bias": torch.randn(3)}, r"u\['bias'\] has shape \(3,\), expected \(2,\)"),
        ({**good, "weight": torch.randn(1, 2, 3)}, r"u\['bias'\] has shape \(2,\), expected"),
        ({**good, "bias": torch.randn(2).double()}, r"u\['bias'\] is torch.float64"),
    ):
        with pytest.raises(entk.InputError, match=text):
            k.jacobian_product(u)


def of_linear(forward) -> nn.Module:
    return fn(forward, f=of(nn.Linear, 4, 2))()


@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (lambda x: x, {}, entk.InputError, "model is function"),
        (nn.Linear(4, 2), {"batch": 0}, entk.InputError, "batch=0, expected a positive number"),
        (nn.Linear(4, 2), {"params": ["w"]}, entk.InputError, "params= names 'w'"),
        (nn.Linear(4, 2).double(), {}, entk.InputError, "x is torch.float32 but"),
        (nn.Sequential(nn.Linear(4, 2), nn.Dropout()), {}, entk.ModelStateError, "call model.eval"),
        (of_linear(lambda s, x: F.dropout(s.f(x))), {}, entk.ModelStateError, "dropout is called"),
        (of_linear(lambda s, x: s.f(x - x.mean(0))), {}, entk.UnsupportedModelError, "mixes"),
        (of_linear(lambda s, x: s.f(x).sum()), {}, entk.InputError, "one row per sample"),
    ],
    ids=["function", "batch", "name", "dtype", "training", "random", "mixing", "reduced"],
)
def test_refused_models(model, options, error, text):
    with pytest.raises(error, match=text):
        entk.ntk_operator(model, torch.randn(5, 4), **options)


def test_a_backward_pass_without_a_derivative():
    model = fn(lambda s, x: s.e((x > 0).long()), e=of(nn.EmbeddingBag, 2, 3))().eval()
    said = r"cannot be differentiated, which J v needs \(the derivative for '_embedding_bag_back"
    with pytest.raises(entk.UnsupportedModelError, match=said):
        entk.ntk_operator(model, torch.randn(5, 4))


def test_samples_that_overflow_are_named():
    model, x, _ = mlp()
    x = x.repeat(5, 1)
    x[1, 0] = torch.nan  # not among the few that are looked at first
    k = entk.ntk_operator(model, x, batch=35)
    with pytest.raises(entk.InputError, match="not finite for 1 of 35 samples, the first at index"):
        k @ torch.randn(105, dtype=torch.float64)
