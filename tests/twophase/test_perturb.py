import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from twophase import config, metrics, train
from twophase.errors import UserError
from twophase.perturb import deviations, direction, parameters, perturb

KINDS = ("gaussian", "layerwise", "one-weight", "gradient")


@pytest.fixture(scope="module")
def state(tiny, dataset):
    return train.advance(tiny, dataset, "constant", train.initial(tiny, dataset), 0, (2,))[2]


def built(values, **chaos):
    return config.build({**values, "chaos": {**values["chaos"], **chaos}})


def moved(one, other, names):
    u, v = (metrics.parameter_vector(s, names) for s in (one, other))
    return u, v - u


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["total-l2", "per-coordinate", "relative"])
def test_perturbation_has_the_size_that_was_asked(values, dataset, state, kind, scale):
    c = built(values, kind=kind, scale=scale, eps=0.01)
    names = parameters(c, dataset)
    twin = perturb(c, dataset, state, 2, 1)
    u, change = moved(state, twin, names)
    d = torch.cat([v.flatten() for v in direction(c, dataset, state, 2, 1).values()])
    expected = {"total-l2": 0.01, "per-coordinate": 0.01 * d.norm(), "relative": 0.01 * u.norm()}
    assert change.norm().item() == pytest.approx(float(expected[scale]), rel=1e-4)
    cosine = F.cosine_similarity(change, d, dim=0).item()
    assert cosine == pytest.approx(1, abs=1e-5)  # float32 rounds each sum
    rest = state.keys() - set(names)
    assert all(torch.equal(twin[k], state[k]) for k in rest)
    assert any(k.startswith("momentum.") for k in rest)


def test_directions_of_unit_entries_have_unit_entries(values, dataset, state):
    """Within 5 deviations for a Gaussian one; exactly for the gradient."""
    count = sum(state[n].numel() for n in parameters(built(values), dataset))
    for kind, slack in (("gaussian", 5 / math.sqrt(2 * count)), ("gradient", 1e-9)):
        parts = direction(built(values, kind=kind), dataset, state, 2, 1).values()
        rms = math.sqrt(sum(v.square().sum().item() for v in parts) / count)
        assert rms == pytest.approx(1, rel=slack)


def test_gradient_is_that_of_a_batch_and_leads_uphill(values, dataset, state):
    c = built(values, kind="gradient", eps=1e-3)
    twin = perturb(c, dataset, state, 2, 1)
    names = parameters(c, dataset)
    _, change = moved(state, twin, names)
    model = train.network(c, dataset, state).train()
    F.cross_entropy(model(dataset.x_train), dataset.y_train).backward()
    whole = torch.cat([p.grad.double().flatten() for p in model.parameters()])
    # 16 of 40 samples and all of them: not the same direction, and far from a random one
    assert 0.3 < F.cosine_similarity(change, whole, dim=0).item() < 0.999
    other = perturb(c, dataset, state, 2, 2)
    assert not torch.equal(other["model.fc.weight"], twin["model.fc.weight"])


def test_one_weight_moves_one_weight(values, dataset, state):
    c = built(values, kind="one-weight", eps=0.5)
    names = parameters(c, dataset)
    places, signs = set(), set()
    for draw in range(1, 31):
        _, change = moved(state, perturb(c, dataset, state, 2, draw), names)
        (place,) = change.nonzero().tolist()
        places.add(place[0])
        signs.add(change[place[0]].sign().item())
        assert change.abs().max().item() == pytest.approx(0.5, rel=1e-5)
    assert len(places) > 20
    assert signs == {-1.0, 1.0}


def test_ulp_moves_every_parameter_to_a_neighbour(values, dataset, state):
    c = built(values, kind="ulp")
    twin = perturb(c, dataset, state, 2, 1)
    up = 0
    for n in parameters(c, dataset):
        infinity = torch.tensor(float("inf"))
        above, below = (torch.nextafter(state[n], s * infinity) for s in (1, -1))
        assert ((twin[n] == above) | (twin[n] == below)).all()
        up += (twin[n] == above).sum().item()
    count = sum(state[n].numel() for n in parameters(c, dataset))
    assert abs(up - count / 2) < 5 * math.sqrt(count) / 2


def test_layers_are_moved_by_their_scale_at_initialisation(values, dataset, state):
    c = built(values, kind="layerwise")
    first = train.initial(c, dataset)
    scales = deviations({n: first[n] for n in parameters(c, dataset)})
    parts = direction(c, dataset, state, 2, 1)
    for n, part in parts.items():
        if part.numel() > 50:
            rms = part.square().mean().sqrt().item()
            assert rms == pytest.approx(scales[n], rel=5 / math.sqrt(2 * part.numel()))


def test_constant_tensors_take_the_scale_of_the_next():
    first = {
        "weight": torch.tensor([1.0, -1.0]),
        "scale": torch.ones(3),
        "shift": torch.zeros(3),
        "next": torch.tensor([2.0, -2.0]),
        "last": torch.zeros(1),
    }
    assert deviations(first) == {"weight": 1, "scale": 2, "shift": 2, "next": 2, "last": 2}
    assert deviations({"a": torch.zeros(2)}) == {"a": 1}


@pytest.mark.parametrize("kind", [*KINDS, "ulp"])
def test_draws_and_steps_have_directions_of_their_own(values, dataset, state, kind):
    c = built(values, kind=kind)
    names = parameters(c, dataset)
    keys = [(0, 1), (0, 2), (6, 1), (0, 1)]
    found = [moved(state, perturb(c, dataset, state, *key), names)[1] for key in keys]
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    control = perturb(c, dataset, state, 0, 0)
    assert control.keys() == state.keys()
    assert all(torch.equal(control[k], state[k]) for k in state)


def test_a_gradient_of_zero_has_no_direction(values, dataset, state):
    """All samples of one class, and a network that is sure of it."""
    c = built(values, kind="gradient")
    sure = {**state, "model.fc.bias": torch.tensor([1e30, 0.0, 0.0, 0.0])}
    one = replace(dataset, y_train=torch.zeros_like(dataset.y_train))
    with pytest.raises(UserError, match="the gradient at t0=2 is 0, which has no direction"):
        perturb(c, one, sure, 2, 1)


class Tied(nn.Module):
    """Two layers with one weight, one that is frozen, and one that nothing goes through."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight
        self.last, self.unused = nn.Linear(64, 4).requires_grad_(False), nn.Linear(1, 1)

    def forward(self, x):
        return self.last(self.two(self.one(x.flatten(1)).relu()))


@pytest.mark.parametrize("kind", [*KINDS, "ulp"])
def test_what_moves_is_the_network_with_tied_weights_and_without_frozen_ones(values, dataset, kind):
    c, own = built(values, kind=kind), replace(dataset, build=Tied)
    start = train.initial(c, own)
    twin = train.network(c, own, perturb(c, own, start, 2, 1)).state_dict()
    names = [n.removeprefix("model.") for n in parameters(c, own)]
    assert names == ["one.weight", "one.bias", "two.bias", "unused.weight", "unused.bias"]
    _, v = moved(train.weights(start), twin, names)
    if kind == "ulp":
        assert (v != 0).all()
    else:
        assert v.norm() == pytest.approx(c.chaos.eps, rel=1e-3)
    if kind != "one-weight":
        assert not torch.equal(twin["two.weight"], start["model.two.weight"])
    assert torch.equal(twin["two.weight"], twin["one.weight"])
    assert torch.equal(twin["last.weight"], start["model.last.weight"])
