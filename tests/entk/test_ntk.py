"""`entk.ntk` against the float64 loop: every case, output mode and strategy."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import entk
from entk.factors import OUTPUTS
from tests import oracle, tolerance
from tests.cases import CASES

BY_NAME = {case.name: case for case in CASES}


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def truth(name: str, square: bool, dtype=torch.float64) -> torch.Tensor:
    model, x, z = BY_NAME[name].make()
    if dtype == torch.float32:
        model, x, z = model.float(), x.to(_like(x, dtype)), z.to(_like(z, dtype))
        return oracle.ntk(model, x, None if square else z, dtype=dtype)
    return oracle.ntk(model, x, None if square else z)


def _like(t: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if t.is_floating_point() else t.dtype


@pytest.mark.parametrize("strategy", ["rows", "pairs", "fused"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_float64(name, outputs, strategy):
    model, x, z = BY_NAME[name].make()
    for square, other in ((True, None), (False, z)):
        plan = entk.plan_ntk(model, x, other, outputs=outputs, strategy=strategy, block=2)
        found = entk.ntk(model, x, other, outputs=outputs, plan=plan)
        expected = oracle.mode(truth(name, square), outputs)
        assert found.shape == expected.shape
        assert tolerance.error(found, expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("strategy", ["rows", "pairs"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_the_definitions(name, outputs, strategy):
    """The PyTorch backend, which serves where the extension is missing."""
    model, x, z = BY_NAME[name].make()
    options = {"outputs": outputs, "strategy": strategy, "backend": "torch", "block": 3}
    plan = entk.plan_ntk(model, x, z, **options)
    found = entk.ntk(model, x, z, outputs=outputs, plan=plan)
    expected = oracle.mode(truth(name, False), outputs)
    assert tolerance.error(found, expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("strategy", ["rows", "pairs", "fused"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_float32(name, outputs, strategy):
    """At most twice the error of the plain loop on the same numbers, and exactly symmetric."""
    model, x, _ = BY_NAME[name].make()
    model, x = model.float(), x.to(_like(x, torch.float32))
    exact = oracle.mode(_truth_of_float32(name), outputs)
    plain = oracle.mode(truth(name, True, torch.float32), outputs)
    plan = entk.plan_ntk(model, x, outputs=outputs, strategy=strategy, block=2)
    found = entk.ntk(model, x, outputs=outputs, plan=plan)
    assert found.dtype == torch.float32
    assert tolerance.error(found, exact) <= tolerance.limit(plain, exact)
    assert torch.equal(found, found.permute(2, 3, 0, 1) if outputs == "all" else found.mT)


@cache
def _truth_of_float32(name: str) -> torch.Tensor:
    """The float64 kernel of the model and samples after rounding them to float32."""
    model, x, _ = BY_NAME[name].make()
    return oracle.ntk(model.float(), x.to(_like(x, torch.float32)))


@pytest.mark.parametrize("name", BY_NAME)
def test_planned(name):
    """The planner's own choice, one tile, is exact as well, and exactly symmetric."""
    model, x, z = BY_NAME[name].make()
    found = entk.ntk(model, x)
    assert tolerance.error(found, truth(name, True)) <= tolerance.FLOAT64
    assert torch.equal(found, found.permute(2, 3, 0, 1))
    assert tolerance.error(entk.ntk(model, x, z), truth(name, False)) <= tolerance.FLOAT64


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_by_layer(name, outputs):
    model, x, z = BY_NAME[name].make()
    expected = oracle.ntk_by_layer(model, x, z, outputs)
    found = entk.ntk(model, x, z, outputs=outputs, by_layer=True)
    assert found.keys() == expected.keys()
    whole = oracle.mode(truth(name, False), outputs)
    for layer, kernel in expected.items():
        # against the whole: the exact kernel of a bias before a normalisation is zero
        assert (found[layer] - kernel).norm() <= tolerance.FLOAT64 * whole.norm()
    assert tolerance.error(sum(found.values()), whole) <= tolerance.FLOAT64


@pytest.mark.parametrize("wanted", [["a.weight"], ["b.bias", "a.bias"], ["a.weight", "b.weight"]])
def test_named_parameters_frozen_ones_too(wanted):
    model, x, z = BY_NAME["frozen"].make()
    for other in (None, z):
        expected = oracle.ntk(model, x, other, params=wanted)
        assert tolerance.error(entk.ntk(model, x, other, params=wanted), expected) <= 1e-10
    assert not model.a.weight.requires_grad


class Breaking(torch.nn.Module):
    """Refuses the sample that begins with 100; has everything that must be left alone."""

    def __init__(self):
        super().__init__()
        self.f, self.norm = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)
        self.frozen = torch.nn.Linear(3, 2).requires_grad_(False)

    def forward(self, x):
        if (x[:, 0] == 100).any():
            raise ArithmeticError("no such sample")
        return self.frozen(self.norm(self.f(x)))


def everything(model: torch.nn.Module) -> list:
    """Bits, flags, gradients and hooks."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found: list = [(n, id(t), t._version, t.requires_grad, t.tolist()) for n, t in tensors]
    found += [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    for name, module in model.named_modules():
        found.append((name, module.training, *(list(getattr(module, h)) for h in hooks)))
        found.append(sorted(module.__dict__))
    return found


@pytest.mark.parametrize("broken", [False, True])
def test_everything_is_left_alone(broken):
    """After success, and after an error in the middle of the third block."""
    model, x = Breaking().eval(), torch.randn(20, 4)  # the plan does not look at sample 4
    model.f.register_forward_hook(lambda module, arguments, output: None)
    model(x).sum().backward()
    if broken:
        x[4, 0] = 100
    before, random, grad = everything(model), torch.get_rng_state(), torch.is_grad_enabled()
    samples = x.clone()
    plan = entk.plan_ntk(model, x, block=2)
    if broken:
        with pytest.raises(ArithmeticError, match="no such sample"):
            entk.ntk(model, x, plan=plan)
    else:
        entk.ntk(model, x, plan=plan)
    assert everything(model) == before
    assert torch.equal(x, samples)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled() == grad


def test_number_of_cases():
    assert len(BY_NAME) == len(CASES) >= 80
