"""What a process has switched on around a call changes no number, and is as it was afterwards."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import entk
from entk.precision import computing
from entk.rates import measure_rates

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_threads_that_overlap_leave_the_precision_as_it_was():
    setting = torch.backends.cuda.matmul
    before, entered, left = setting.fp32_precision, threading.Event(), threading.Event()

    def first():
        with computing():
            entered.set()
            left.wait()

    thread = threading.Thread(target=first)
    setting.fp32_precision = "tf32"
    try:
        thread.start()
        entered.wait()
        with computing():
            left.set()
            thread.join()
            inside = setting.fp32_precision
        assert (inside, setting.fp32_precision) == ("ieee", "tf32")
    finally:
        setting.fp32_precision = before


def test_inside_inference_mode_and_of_what_was_made_there(tmp_path):
    expected, v = entk.ntk(mlp(), X), torch.ones(10)
    for model, x in ((mlp(), X), _made_in_inference_mode()):
        for inside in (True, False):
            with torch.inference_mode(inside):
                assert torch.equal(entk.ntk(model, x), expected)
                with entk.write_ntk(tmp_path / "k.h5", model, x) as file:
                    assert torch.equal(file[:], expected.view(10, 10))
                product = entk.ntk_operator(model, x) @ v
                assert torch.allclose(product, expected.view(10, 10) @ v, rtol=1e-4)
                states = [model.state_dict(), {k: 2 * t for k, t in model.state_dict().items()}]
                assert entk.trajectory_distances(model, states, x)[0, 1] > 0
                assert entk.linearize(model)(x).shape == (5, 2)


def _made_in_inference_mode() -> tuple:
    with torch.inference_mode():
        return mlp(), X.clone()


def test_weights_that_parametrizations_keep_are_not_taken():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
    expected, kept = entk.ntk(model, X), model[0].weight
    linear, operator = entk.linearize(model), entk.ntk_operator(model, X)
    with parametrize.cached():
        y = model(X)
        assert torch.equal(entk.ntk(model, X), expected)
        product = operator @ torch.ones(10)
        assert torch.allclose(linear(X), y)
        assert model[0].weight is model[0].weight
    assert model[0].weight is not kept
    assert torch.allclose(product, expected.view(10, 10).sum(1), rtol=1e-4)


MODEL, MANY, V = mlp(), torch.randn(1000, 3), torch.ones(10)
KERNEL, TARGETS = entk.ntk(MODEL, X), torch.eye(5)
SQUARE, KNOWN = KERNEL.view(10, 10), torch.ones(5)


@pytest.fixture(params=["meta", torch.float16, torch.bfloat16, torch.float64], ids=str)
def default(request):
    """A device where a tensor that was not asked for has no numbers, or another dtype."""
    dtype = torch.get_default_dtype()
    known = isinstance(request.param, torch.dtype)
    (torch.set_default_dtype if known else torch.set_default_device)(request.param)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(dtype)


def test_default_device_and_dtype_change_nothing(default, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measure_rates.cache_clear()
    assert torch.equal(entk.ntk(MODEL, X), KERNEL)
    assert entk.ntk(MODEL, MANY, outputs="sum").isfinite().all()
    with entk.write_ntk(tmp_path / "k.h5", MODEL, X, sketch=64) as file:
        assert 0 < file.sketch_error < 1
    assert torch.allclose(entk.ntk_operator(MODEL, X) @ V, SQUARE @ V, rtol=1e-4)
    assert entk.linearize(MODEL)(X).dtype == X.dtype
    assert entk.kernel_distance_matrix([SQUARE, 2 * SQUARE]).abs().max() < 1e-15
    assert entk.kernel_distance(SQUARE, 2 * SQUARE) == 0
    assert entk.cka(TARGETS, TARGETS) == pytest.approx(1)
    assert entk.alignment(TARGETS, TARGETS) == pytest.approx(1)
    entk.spectral_density(SQUARE)
    entk.spectrum(SQUARE)
    entk.kernel_regression(TARGETS, KNOWN, ridge=0.1)
    entk.linearised_predictions(TARGETS, KNOWN, times=[1.0])


class Remembering(nn.Linear):
    def forward(self, x):
        self.seen = super().forward(x)
        return self.seen.tanh()


@pytest.mark.parametrize("select", [None, [0]])
def test_what_a_forward_pass_left_in_the_model_is_in_no_way(select):
    model, options = Remembering(3, 2), {"select": select}
    seen = model(X) is not None and model.seen
    assert entk.ntk_operator(model, X, **options).shape[0] in (5, 10)
    assert entk.linearize(model, **options)(X).shape[0] == 5
    states = [model.state_dict(), {k: 2 * t for k, t in model.state_dict().items()}]
    assert entk.trajectory_distances(model, states, X, **options)[0, 1] > 0
    assert seen.grad_fn is not None
