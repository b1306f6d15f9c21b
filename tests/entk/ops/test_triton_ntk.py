"""backend="triton" for whole kernels, in Triton's interpreter: see test_triton_interpreter.py."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS
from entk.ops import PRECISIONS
from tests import oracle, tolerance
from tests.cases import CASES

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)

BY_NAME = {case.name: case for case in CASES}
FEW = (*("mlp", "conv1d_same_even", "embedding_repeated", "two_lengths", "one_against_many"),)
REST = tuple(name for name in BY_NAME if name not in FEW)


def check(name, outputs, strategy):
    model, x, z = BY_NAME[name].make()
    for other in (None, z):
        options = {"outputs": outputs, "strategy": strategy, "block": 3, "backend": "triton"}
        plan = entk.plan_ntk(model, x, other, **options)
        assert plan.backend == "triton"
        found = entk.ntk(model, x, other, outputs=outputs, plan=plan)
        expected = oracle.ntk(model, x, other, outputs)
        assert tolerance.error(found, expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("strategy", ["rows", "pairs"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", FEW)
def test_float64(name, outputs, strategy):
    check(name, outputs, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["rows", "pairs"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", REST)
def test_float64_of_the_rest(name, outputs, strategy):
    check(name, outputs, strategy)


def small():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).eval()
    return model, torch.randn(4, 4)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_float32(outputs):
    model, x = small()
    exact = oracle.ntk(model, x, None, outputs)
    plain = oracle.ntk(model, x, None, outputs, dtype=torch.float32)
    found = entk.ntk(model, x, outputs=outputs, backend="triton")
    assert tolerance.error(found, exact) <= tolerance.limit(plain, exact)
    assert torch.equal(found, found.permute(2, 3, 0, 1) if outputs == "all" else found.mT)


@pytest.mark.parametrize("precision", PRECISIONS["triton"])
def test_precision_is_in_the_plan_and_in_the_file(precision, tmp_path):
    model, x = small()
    plan = entk.plan_ntk(model, x, backend="triton", precision=precision)
    assert plan.precision == precision
    assert entk.Plan.from_json(plan.to_json()) == plan
    assert plan.same_bits(plan)
    assert plan.same_bits(entk.plan_ntk(model, x, backend="triton")) == (precision == "ieee")
    with entk.write_ntk(tmp_path / "k.h5", model, x, backend="triton", precision=precision) as file:
        assert file.provenance["precision"] == precision
        assert file.provenance["backend"] == "triton"


def test_a_plan_of_another_precision_is_refused():
    model, x = small()
    plan = entk.plan_ntk(model, x, backend="triton", precision="tf32")
    with pytest.raises(entk.InputError, match="made for precision='tf32', this request has 'ieee'"):
        entk.ntk(model, x, plan=plan, precision="ieee")


def test_a_file_of_another_precision_is_refused(tmp_path):
    model, x = small()
    options = {"backend": "triton"}
    entk.write_ntk(tmp_path / "k.h5", model, x, precision="tf32", **options).close()
    with pytest.raises(entk.ResumeError, match="precision differ"):
        entk.write_ntk(tmp_path / "k.h5", model, x, **options)


def test_precisions_are_for_float32():
    model, x = small()
    with pytest.raises(entk.InputError, match="'tf32' is for float32 models, this one"):
        entk.ntk(model.double(), x.double(), backend="triton", precision="tf32")


def test_distance_of_models():
    model, x = small()
    other, _ = small()
    found = entk.kernel_distance(model, other, x, backend="triton", precision="bf16x6")
    expected = entk.kernel_distance(model, other, x)
    assert abs(found - expected) <= 1e-5
