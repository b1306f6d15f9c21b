"""`entk.jacobian` against one `torch.autograd.grad` per sample and output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS
from tests import oracle, tolerance
from tests.cases import CASES

BY_NAME = {case.name: case for case in CASES}


pytestmark = pytest.mark.usefixtures("one_thread")


def norm(jacobian: dict[str, torch.Tensor]) -> float:
    return torch.cat([j.flatten() for j in jacobian.values()]).norm().item()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_output(name):
    model, x, _ = BY_NAME[name].make()
    expected = oracle.jacobian(model, x)
    found = entk.jacobian(model, x)
    assert list(found) == list(expected)
    for parameter, j in expected.items():
        assert found[parameter].shape == j.shape
        # against all of J: the exact gradient of a bias before a normalisation is zero
        assert (found[parameter] - j).norm() <= tolerance.FLOAT64 * norm(expected)


@pytest.mark.parametrize("name", BY_NAME)
def test_summed_outputs(name):
    model, x, _ = BY_NAME[name].make()
    expected = oracle.jacobian(model, x)
    found = entk.jacobian(model, x, outputs="sum")
    assert list(found) == list(expected)
    for parameter, j in expected.items():
        assert found[parameter].shape == j.sum(1).shape
        assert (found[parameter] - j.sum(1)).norm() <= tolerance.FLOAT64 * norm(expected)


@pytest.mark.parametrize("name", ["mlp", "resnet_a", "gpt_tied", "lstm", "batchnorm2d"])
def test_float32(name):
    model, x, _ = BY_NAME[name].make(torch.float32)
    exact, plain = oracle.jacobian(model, x), oracle.jacobian(model, x, dtype=torch.float32)
    found = entk.jacobian(model, x)

    def flat(jacobian):
        return torch.cat([j.flatten() for j in jacobian.values()])

    assert flat(found).dtype == torch.float32
    limit = tolerance.limit(flat(plain), flat(exact))
    assert tolerance.error(flat(found), flat(exact)) <= limit


def test_linear_by_hand():
    """f = W x + b: d f_o / d W[c,k] = [o = c] x_k and d f_o / d b[c] = [o = c]."""
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = entk.jacobian(nn.Linear(3, 2).eval(), x)
    weight = torch.zeros(2, 2, 2, 3)
    for o in range(2):
        weight[:, o, o] = x
    assert torch.equal(found["weight"], weight)
    assert torch.equal(found["bias"], torch.eye(2).expand(2, 2, 2))


@pytest.mark.parametrize("wanted", [["2.bias"], ["2.weight", "0.weight"], {"0.bias"}])
def test_named_parameters(wanted):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double().eval()
    model[0].requires_grad_(False)
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = oracle.jacobian(model, x, wanted)
    found = entk.jacobian(model, x, params=wanted)
    assert list(found) == list(expected)  # in the model's order, frozen ones if named
    for parameter, j in expected.items():
        assert tolerance.error(found[parameter], j) <= tolerance.FLOAT64
    assert not model[0].weight.requires_grad


def test_unused_parameter_gets_zeros():
    model, x, _ = BY_NAME["unused"].make()
    found = entk.jacobian(model, x)
    assert found["b.weight"].shape == (5, 2, 3, 3)
    assert not found["b.weight"].any()


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", ["mlp", "conv2d_groups", "gpt_tied", "gru"])
def test_products_of_jacobians_are_the_kernel(name, outputs):
    model, x, z = BY_NAME[name].make()
    one, two = entk.jacobian(model, x), entk.jacobian(model, z)
    j, k = (torch.cat([p.flatten(2) for p in jac.values()], 2) for jac in (one, two))
    full = torch.einsum("nop,mqp->nomq", j, k)
    found = entk.ntk(model, x, z, outputs=outputs)
    assert tolerance.error(found, oracle.mode(full, outputs)) <= tolerance.FLOAT64


def test_result_is_detached():
    model, x, _ = BY_NAME["raw_scale"].make()
    assert not any(j.requires_grad for j in entk.jacobian(model, x).values())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"outputs": "trace"}, "outputs='trace', expected one of"),
        ({"params": ["wieght"]}, "params= names 'wieght', which the model does not have"),
        ({"params": []}, "params= is empty"),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(entk.InputError, match=text):
        entk.jacobian(nn.Linear(4, 2).eval(), torch.randn(3, 4), **options)


def test_training_mode_is_refused():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    with pytest.raises(entk.ModelStateError, match=r"layer '1' \(BatchNorm1d\) is in training"):
        entk.jacobian(model, torch.randn(3, 4))
