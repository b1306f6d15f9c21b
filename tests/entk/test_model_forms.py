"""What may be passed as a model: functions of parameters, compiled modules, mixed precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entk
from entk.factors import OUTPUTS
from tests import oracle, tolerance
from tests.cases import fn, of, raw

N, M = 5, 3


def two_layers(params, x, gain=None):
    h = torch.tanh(F.linear(x, params["in"]["w"], params["in"]["b"]))
    h = h if gain is None else h * gain
    return F.linear(h, params["out.w"]) * params["scale"]


PARAMS = {
    "in": {"w": torch.randn(5, 4).double(), "b": torch.randn(5).double()},
    "out.w": torch.randn(2, 5).double(),
    "scale": torch.tensor(1.5).double(),
    "steps": torch.tensor(3),  # not of floating point: no parameter
}


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_function_of_parameters(outputs):
    model = fn(
        lambda s, x: F.linear(torch.tanh(F.linear(x, s.w, s.b)), s.v) * s.scale,
        w=raw(5, 4), b=raw(5), v=raw(2, 5), scale=of(lambda: nn.Parameter(torch.tensor(1.5))),
    )().double()  # fmt: skip
    with torch.no_grad():
        model.w.copy_(PARAMS["in"]["w"])
        model.b.copy_(PARAMS["in"]["b"])
        model.v.copy_(PARAMS["out.w"])
    x, z = torch.randn(N, 4).double(), torch.randn(M, 4).double()
    found = entk.ntk(two_layers, x, z, params=PARAMS, outputs=outputs)
    assert tolerance.error(found, oracle.ntk(model, x, z, outputs)) <= tolerance.FLOAT64


def test_a_function_elsewhere(tmp_path):
    x = torch.randn(N, 4).double()
    kernel = entk.ntk(two_layers, x, params=PARAMS)
    assert set(entk.jacobian(two_layers, x, params=PARAMS)) == {"in.w", "in.b", "out.w", "scale"}
    with entk.write_ntk(tmp_path / "k.h5", two_layers, x, params=PARAMS) as file:
        assert file.provenance["request"]["model"] == "two_layers"
    linear = entk.linearize(two_layers, params=PARAMS)
    assert torch.equal(linear(x), two_layers(PARAMS, x))
    assert tolerance.error(entk.ntk(linear, x), kernel) <= tolerance.FLOAT64
    gain = torch.ones(N, 5).double()
    assert torch.equal(entk.ntk(two_layers, {"x": x, "gain": gain}, params=PARAMS), kernel)
    assert not any(t.requires_grad for t in (PARAMS["in"]["w"], PARAMS["scale"]))


def test_compiled():
    """The original is what is followed, under the names that it has."""
    model = fn(lambda s, x: s.head(torch.tanh(s.hidden(x))), hidden=of(nn.Linear, 4, 5), head=of(nn.Linear, 5, 2))()  # fmt: skip
    x = torch.randn(N, 4)
    kernel = entk.ntk(model, x)
    plan = entk.plan_ntk(torch.compile(model), x, strict=True)
    assert [c.name for c in plan.layers] == [n for n, _ in model.named_parameters()]
    assert torch.equal(entk.ntk(torch.compile(model), x), kernel)
    model.hidden = torch.compile(model.hidden)
    assert torch.equal(entk.ntk(model, x), kernel)


def test_inside_autocast():
    """Around the call it is switched off; inside the model those parts have no rule."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(N, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = entk.ntk(model, x)
    assert torch.equal(found, entk.ntk(model, x))
    mixed = fn(half, f=of(nn.Linear, 4, 5), g=of(nn.Linear, 5, 2))()
    rules = {c.name: c.rule for c in entk.plan_ntk(mixed, x).layers}
    assert rules["g.weight"] == "linear"
    assert rules["f.weight"].startswith("torch.func")
    expected = oracle.ntk(mixed, x, dtype=torch.float32).double()
    # one rounding to bfloat16 of what is the same otherwise
    assert tolerance.error(entk.ntk(mixed, x), expected) <= torch.finfo(torch.bfloat16).eps


def half(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = torch.tanh(self.f(x))
    return self.g(h.to(self.g.weight.dtype))


X = torch.randn(N, 4)
REFUSED = {
    "function_alone": (two_layers, X, {}, "model is function, expected a torch.nn.Module, or a"),
    "empty_params": (two_layers, X, {"params": {}}, "params= is an empty dict"),
    "params": (two_layers, X, {"params": {"in": {"w": 3}}}, "params= has int at 'in.w'"),
    "keys": (two_layers, X, {"params": {1: X}}, "params= has the key 1, expected names"),
    "twice": (two_layers, X, {"params": {"a": {"b": X}, "a.b": X}}, "'a.b' twice"),
    "script": (torch.jit.trace(nn.Linear(4, 2), torch.ones(1, 4)), X, {}, "model is TorchScript"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, x, options, text = REFUSED[name]
    with pytest.raises(entk.InputError, match=text):
        entk.ntk(model, x, **options)


def test_strict():
    model = fn(lambda s, x: s.f(x) / s.scale.exp(), f=of(nn.Linear, 4, 2), scale=raw(1))()
    x = torch.randn(N, 4)
    entk.plan_ntk(model, x, strict=True, params=["f.weight", "f.bias"])
    with pytest.raises(
        entk.UnsupportedModelError, match=r"strict=True, but 1 of 3 .*torch.func: scale \(used"
    ):
        entk.ntk(model, x, strict=True)


def test_states_of_a_function():
    """Each is a dict as the function takes it, nested or not."""
    x = torch.randn(N, 4).double()
    states = [
        PARAMS,
        {**PARAMS, "out.w": -PARAMS["out.w"]},
        {**PARAMS, "in": {"w": PARAMS["in"]["w"] * 2, "b": PARAMS["in"]["b"]}},
    ]
    found = entk.trajectory_distances(two_layers, states, x, params=PARAMS)
    expected = entk.kernel_distance_matrix([entk.ntk(two_layers, x, params=s) for s in states])
    assert torch.allclose(found, expected, atol=1e-12)
    assert found[0, 2] > 1e-4
    with pytest.raises(entk.InputError, match="state 1 does not fit"):
        entk.trajectory_distances(two_layers, [PARAMS, {"in": PARAMS["in"]}], x, params=PARAMS)
    with pytest.raises(entk.InputError, match=r"two torch\.nn\.Modules"):
        entk.kernel_distance(two_layers, two_layers, x, params=PARAMS)
