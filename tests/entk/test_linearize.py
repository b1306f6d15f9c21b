"""`entk.linearize`: f(x; w0) + J(x; w0) (w - w0), with J from the plain loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import entk
from tests import oracle, tolerance
from tests.cases import CASES, fn, of

BY_NAME = {case.name: case for case in CASES}


def mlp(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype).eval()


def move(linear: nn.Module, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """Change the parameters at random; what was added to each."""
    steps = {name: scale * torch.randn_like(p) for name, p in linear.named_parameters()}
    with torch.no_grad():
        for name, p in linear.named_parameters():
            p += steps[name]
    return steps


@pytest.mark.parametrize("name", BY_NAME)
def test_taylor_of_first_order(name):
    model, x, _ = BY_NAME[name].make()
    linear = entk.linearize(model)
    with torch.no_grad():
        at_origin, outputs = linear(x), model(x)
    # some forward-mode rules round otherwise than the plain operation
    assert at_origin.shape == outputs.shape
    assert tolerance.error(at_origin, outputs) <= tolerance.FLOAT64
    jacobian = oracle.jacobian(model, x)
    steps = move(linear)
    change = sum(j.flatten(2) @ steps[n].flatten() if j.dim() > 2 else j * steps[n]
                 for n, j in jacobian.items())  # fmt: skip
    with torch.no_grad():
        found = linear(x)
    assert tolerance.error(found, outputs + change.view_as(outputs)) <= tolerance.FLOAT64


@pytest.mark.parametrize("name", ["mlp", "resnet_b", "embedding_padding"])
def test_without_offset_it_is_the_tangent_alone(name):
    """Forward mode and, where a padding index forbids it, reverse mode."""
    model, x, _ = BY_NAME[name].make()
    linear = entk.linearize(model, offset=False)
    with torch.no_grad():
        assert not linear(x).any()
    steps, jacobian = move(linear), oracle.jacobian(model, x)
    change = sum(j.flatten(2) @ steps[n].flatten() for n, j in jacobian.items())
    with torch.no_grad():
        assert tolerance.error(linear(x).flatten(1), change) <= tolerance.FLOAT64
    assert "offset=False" in repr(linear)


def test_no_change_is_bit_exact():
    model, x = mlp(torch.float32), torch.randn(5, 4)
    assert torch.equal(entk.linearize(model)(x), model(x))


@pytest.mark.parametrize("name", ["mlp", "resnet_b", "gpt_tied", "raw_scale"])
def test_gradient_is_the_jacobian_at_the_origin(name):
    model, x, _ = BY_NAME[name].make()
    expected = oracle.jacobian(model, x)
    linear = entk.linearize(model)
    move(linear)
    parameters = dict(linear.named_parameters())
    y = linear(x).flatten(1)
    for o in range(y.shape[1]):
        grads = torch.autograd.grad(y[:, o].sum(), list(parameters.values()), retain_graph=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            assert tolerance.error(grad, expected[parameter][:, o].sum(0)) <= tolerance.FLOAT64


def test_kernel_is_the_models_and_stays():
    model, x = mlp(), torch.randn(4, 4, dtype=torch.float64)
    linear = entk.linearize(model)
    expected = oracle.ntk(model, x)
    for _ in range(2):
        assert tolerance.error(entk.ntk(linear, x), expected) <= tolerance.FLOAT64
        move(linear)


def test_gradient_descent_follows_the_kernel():
    """For L = |f - y|^2 / 2 one step changes f by -rate K (f - y), exactly."""
    model, x = mlp(), torch.randn(5, 4, dtype=torch.float64)
    y, rate = torch.randn(5, 2, dtype=torch.float64), 0.02
    kernel = oracle.ntk(model, x).flatten(2).flatten(0, 1)
    linear = entk.linearize(model)
    optimizer = torch.optim.SGD(linear.parameters(), lr=rate)
    expected = model(x).detach()
    for _ in range(5):
        optimizer.zero_grad()
        ((linear(x) - y).square().sum() / 2).backward()
        optimizer.step()
        expected = expected - rate * (kernel @ (expected - y).flatten()).view_as(y)
    with torch.no_grad():
        assert tolerance.error(linear(x), expected) <= tolerance.FLOAT64


def test_the_model_is_copied_not_touched():
    model, x, _ = BY_NAME["resnet_a"].make()
    before = copy.deepcopy(model.state_dict())
    linear = entk.linearize(model)
    outputs = linear(x).detach()
    move(linear)
    linear.train()
    linear(x).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    fresh = linear(x).detach()
    assert not torch.equal(fresh, outputs)  # it moved
    assert fresh.abs().sum() > 0  # but not with the model


def counting(self, x: torch.Tensor) -> torch.Tensor:
    """Writes into its samples and into a buffer."""
    self.calls += 1
    return self.f(x.mul_(2)) * self.calls


def test_samples_and_buffers_are_left_alone():
    model = fn(counting, f=of(nn.Linear, 4, 2))().double().eval()
    model.register_buffer("calls", torch.zeros(1, dtype=torch.float64))
    x = torch.randn(5, 4, dtype=torch.float64)
    before, linear = x.clone(), entk.linearize(model)
    found = [linear(x).detach() for _ in range(2)]
    assert torch.equal(x, before)
    expected = model(x.clone()).detach()
    assert tolerance.error(found[0], expected) <= tolerance.FLOAT64
    assert torch.equal(*found)


def test_a_backward_pass_without_a_derivative_is_named():
    model = fn(lambda s, x: s.e((x > 0).long()), e=of(nn.EmbeddingBag, 2, 3))().eval()
    with pytest.raises(entk.UnsupportedModelError, match="'_embedding_bag_backward' is not impl"):
        entk.linearize(model)(torch.randn(5, 4))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error:
        entk.linearize(mlp())(torch.randn(5, 3, dtype=torch.float64))
    assert not isinstance(error.value, entk.EntkError)  # the model's own, as it is


def test_parameters_have_the_models_names():
    model, _, _ = BY_NAME["gpt_tied"].make()
    linear = entk.linearize(model)
    assert [n for n, _ in linear.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(p.requires_grad for p in linear.parameters())


@pytest.mark.parametrize("wanted", [["2.bias"], ["0.weight", "2.weight"]])
def test_named_parameters_move_and_the_others_do_not(wanted):
    model, x = mlp().requires_grad_(False), torch.randn(5, 4, dtype=torch.float64)
    linear = entk.linearize(model, params=wanted)
    assert [n for n, _ in linear.named_parameters()] == wanted
    jacobian = oracle.jacobian(model, x, wanted)
    steps = move(linear)
    change = sum(jacobian[n].flatten(2) @ steps[n].flatten() for n in wanted)
    with torch.no_grad():
        assert tolerance.error(linear(x), model(x) + change) <= tolerance.FLOAT64


def test_frozen_parameters_do_not_move():
    model, _, _ = BY_NAME["frozen"].make()
    moving = [n for n, _ in entk.linearize(model).named_parameters()]
    assert moving == ["b.weight", "b.bias"]


def test_saved_and_loaded():
    model, x = mlp(), torch.randn(5, 4, dtype=torch.float64)
    linear = entk.linearize(model)
    move(linear)
    other = entk.linearize(mlp())
    move(other)
    other.load_state_dict(linear.state_dict())
    assert torch.equal(other(x), linear(x))
    assert torch.equal(copy.deepcopy(linear)(x), linear(x))


def test_dtype_moves_with_it():
    model, x = mlp(), torch.randn(5, 4)
    linear = entk.linearize(model).float()
    assert linear(x).dtype == torch.float32
    assert tolerance.error(linear(x), model(x.double())) <= 1e-6


def test_training_mode_is_ignored_inside():
    model, x, _ = BY_NAME["dropout_eval"].make()
    linear = entk.linearize(model).train()
    assert torch.equal(linear(x), linear(x))
    model.train()
    with pytest.raises(entk.ModelStateError, match=r"layer '1' \(Dropout\) is in training mode"):
        entk.linearize(model)


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (lambda x: x, {}, "model is function, expected a torch.nn.Module"),
        (nn.Tanh(), {}, "no trainable parameter"),
        (nn.Linear(2, 2), {"params": ["wieght"]}, "params= names 'wieght'"),
        (nn.Linear(2, 2), {"params": []}, "params= is empty"),
        (nn.Linear(2, 2).half(), {}, "'weight' is torch.float16, expected float32 or float64"),
    ],
    ids=["function", "no_parameters", "unknown_name", "no_names", "half"],
)
def test_refused(model, options, text):
    with pytest.raises(entk.InputError, match=text):
        entk.linearize(model, **options)
