import math

import mpmath
import pytest
import torch
from torch import nn

from twophase import config, metrics
from twophase.data import Dataset


def line_config(**chaos):
    return config.build({"chaos": {"alphas": 5, **chaos}})


def test_dissimilarity_of_known_angles():
    e = torch.eye(3, dtype=torch.float64)
    assert metrics.dissimilarity(e[0], 7 * e[0]) == 0
    assert metrics.dissimilarity(e[0], e[1]) == pytest.approx(1)
    assert metrics.dissimilarity(e[0], -3 * e[0]) == pytest.approx(2)
    assert metrics.dissimilarity(e[0], e[0] + e[1]) == pytest.approx(1 - 2**-0.5)


def test_dissimilarity_keeps_the_digits_of_a_small_angle():
    """1 - cos would be 0 in float64 from here on down."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1000, generator=generator, dtype=torch.float64)
    v = u + 1e-9 * torch.randn(1000, generator=generator, dtype=torch.float64)
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(x) for x in w.tolist()] for w in (u, v))
        exact = 1 - mpmath.fdot(a, b) / mpmath.sqrt(mpmath.fdot(a, a) * mpmath.fdot(b, b))
    assert 1e-19 < exact < 1e-17
    assert metrics.dissimilarity(u, v) == pytest.approx(float(exact), rel=1e-4)


def test_score_by_hand():
    out = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    found = metrics.score(out, torch.tensor([1, 0, 0]))
    assert found.loss == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3)
    assert found.error == pytest.approx(2 / 3)


ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("values", "linear", "mean", "raw"),
    [
        ([1, 2, 5, 2, 1], 4, 4, 5),
        ([1, 2, 3, 4, 5], 0, 2, 5),
        ([1, 0, 0, 0, 1], 0, 0, 1),
        ([0, 3, 0, 0, 4], 2, 2, 4),
    ],
)
def test_barrier_by_hand(values, linear, mean, raw):
    assert metrics.barrier(ALPHAS, values, "linear") == linear
    assert metrics.barrier(ALPHAS, values, "mean") == mean
    assert metrics.barrier(ALPHAS, values, "raw") == raw


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.5, 30.0, 90.0, 180.0])
def test_angle_inverts_the_distance(degrees):
    distance = 2 * math.sin(math.radians(degrees) / 2) ** 2  # 1 - cos, without its cancellation
    assert metrics.angle(distance) == pytest.approx(degrees, rel=1e-12)


def batch_normalised():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 2))


def test_reestimate_is_the_average_of_fixed_batches_and_keeps_momentum(monkeypatch):
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 5)
    model, x = batch_normalised(), torch.randn(10, 3)
    model[1].running_mean.fill_(7.0)
    metrics.reestimate(model, x)
    inner = model[0](x).detach()
    mean = (inner[:5].mean(0) + inner[5:].mean(0)) / 2
    var = (inner[:5].var(0) + inner[5:].var(0)) / 2
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)
    assert model[1].momentum == 0.1
    assert not model.training


def test_reestimate_leaves_out_a_last_batch_of_one_sample(monkeypatch):
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 5)
    model, x = batch_normalised(), torch.randn(11, 3)
    metrics.reestimate(model, x)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    metrics.reestimate(model, x[:10])
    assert all(torch.equal(first[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.FeatureAlphaDropout])
def test_reestimate_draws_no_masks(kind):
    model, x = nn.Sequential(kind(0.5), nn.BatchNorm2d(3)), torch.randn(40, 3, 2, 2)
    before = torch.get_rng_state()
    metrics.reestimate(model, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert model[1].running_mean == pytest.approx(x.mean((0, 2, 3)), abs=1e-6)
    assert not any(m.training for m in model.modules())


def test_reestimate_does_not_depend_on_what_was_there():
    model, x = batch_normalised(), torch.randn(10, 3)
    metrics.reestimate(model, x)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    model[1].running_var.fill_(3.0)
    metrics.reestimate(model, x)
    assert all(torch.equal(first[k], v) for k, v in model.state_dict().items())


def quadratic():
    """f(x) = (w x, 0): along a line between two w the loss is known in closed form."""
    model = nn.Linear(1, 2, bias=False)
    x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0])
    return model, Dataset(x, y, x, y, 2, 0)


def test_straight_line_by_hand():
    model, data = quadratic()
    one, two = ({"weight": torch.tensor([[w], [0.0]])} for w in (-2.0, 4.0))
    line = metrics.straight_line(model, one, two, data, line_config())
    assert line.alphas == ALPHAS
    weights = [-2.0, -0.5, 1.0, 2.5, 4.0]
    expected = [(math.log1p(math.exp(-w)) + math.log1p(math.exp(w))) / 2 for w in weights]
    assert [s.loss for s in line.train] == pytest.approx(expected)
    assert [s.loss for s in line.test] == pytest.approx(expected)
    assert [s.error for s in line.train] == [0.5] * 5


def test_line_between_equal_networks_is_one_point():
    model, data = quadratic()
    one = {"weight": torch.tensor([[2.0], [0.0]])}
    line = metrics.straight_line(model, one, dict(one), data, line_config())
    assert len(line.train) == len(line.test) == len(line.alphas) == 5
    assert len(set(line.train)) == 1


def test_batch_norm_on_the_line_is_the_configs_choice():
    torch.manual_seed(0)
    one, two = batch_normalised(), batch_normalised()
    x, y = torch.randn(12, 3), torch.arange(12) % 2
    data = Dataset(x, y, x, y, 2, 0)
    one[1].running_mean.fill_(0.3)
    two[1].running_var.fill_(2.0)
    ends = one.state_dict(), two.state_dict()
    lines = {
        choice: metrics.straight_line(one, *ends, data, line_config(batchnorm=choice))
        for choice in ("reestimate", "interpolate", "ends")
    }
    middle = {k: (ends[0][k] + ends[1][k]) / 2 for k in ends[0] if ends[0][k].is_floating_point()}
    for choice, line in lines.items():
        model = batch_normalised()
        model.load_state_dict(ends[0] | middle)
        if choice == "reestimate":
            metrics.reestimate(model, x)
        if choice == "ends":  # the middle belongs to the main run
            model.load_state_dict({k: ends[0][k] for k, _ in one.named_buffers()}, strict=False)
        assert line.train[2].loss == pytest.approx(metrics.score(metrics.logits(model, x), y).loss)
    assert len({line.train[2].loss for line in lines.values()}) == 3
    for model, place in ((one, 0), (two, -1)):  # at its ends the line has what training left there
        own = metrics.score(metrics.logits(model, x), y).loss
        assert lines["ends"].train[place].loss == pytest.approx(own)
        assert lines["interpolate"].train[place].loss == pytest.approx(own)


def test_straight_line_leaves_the_model_alone():
    model, data = quadratic()
    before = model.weight.detach().clone()
    ends = ({"weight": torch.full((2, 1), w)} for w in (0.0, 1.0))
    metrics.straight_line(model, *ends, data, line_config())
    assert torch.equal(model.weight, before)
