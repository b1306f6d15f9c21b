import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from twophase import config, growth, models, train
from twophase.perturb import parameters, perturb


@pytest.fixture(scope="module")
def double(values):
    """A config, its data and start in float64, where rounding is far below the perturbation."""
    from twophase import data

    c = config.build(
        {**values, "model": {"name": "mlp", "widths": [6]}},
        ["chaos.growth=8", "chaos.eps=1e-7", "chaos.align=none"],
    )
    d = data.load(c)
    d = type(d)(d.x_train.double(), d.y_train, d.x_test.double(), d.y_test, d.classes, d.flipped)
    state = {k: v.double() for k, v in train.initial(c, d).items()}
    return c, d, state


@pytest.fixture
def _double(monkeypatch):
    build = models.build
    monkeypatch.setattr(models, "build", lambda *a: build(*a).double())


@pytest.mark.usefixtures("_double")
def test_tangent_is_what_a_small_difference_grows_to(double):
    c, d, state = double
    twin = perturb(c, d, state, 0, 1)
    rows = growth.follow(c, d, "constant", state, twin, 0)
    assert [r["step"] for r in rows] == list(range(9))
    assert rows[0]["l2"] == rows[0]["tangent"] == pytest.approx(1e-7, rel=1e-6)
    for row in rows:
        assert row["tangent"] == pytest.approx(row["l2"], rel=1e-4)
    assert rows[-1]["l2"] != pytest.approx(rows[0]["l2"], rel=1e-3)


@pytest.mark.usefixtures("_double")
def test_tangent_is_the_derivative_of_the_optimisers_map(double):
    """Against the Jacobian of three steps of SGD with momentum, written out and differentiated."""
    c, d, state = double
    names = parameters(c, d)
    model = train.network(c, d, state).train()
    shapes = [state[n].shape for n in names]
    sizes = [s.numel() for s in shapes]

    def three_steps(w):
        b = torch.zeros_like(w)
        for step in range(3):
            rows = train.batch_indices(len(d.x_train), 16, c.seed, step)
            x = train.augment(d.x_train[rows], c.data, c.seed, step)

            def loss(v, x=x, rows=rows):
                parts = [p.view(s) for p, s in zip(v.split(sizes), shapes, strict=True)]
                tree = {n.removeprefix("model."): p for n, p in zip(names, parts, strict=True)}
                out = torch.func.functional_call(model, tree, (x,))
                return F.cross_entropy(out, d.y_train[rows])

            t = c.training
            b = t.momentum * b + torch.func.grad(loss)(w) + t.weight_decay * w
            w = w - c.rate("constant", step) * b
        return w

    w = torch.cat([state[n].flatten() for n in names])
    v = torch.randn(len(w), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, expected = torch.func.jvp(three_steps, (w,), (v,))
    parts = [p.view(s).clone() for p, s in zip(v.split(sizes), shapes, strict=True)]
    moving = growth.tangent(c, d, "constant", model, parts, 0)
    run = train.run_sgd(model, c, d, "constant", {}, 0, 3)
    found = []
    for _ in range(3):
        found.append(next(moving))
        next(run)
    assert found[-1] == pytest.approx(expected.norm().item(), rel=1e-9)


def test_twins_are_those_of_the_training_loop(tiny, dataset):
    """Distances at the end are those of two runs of their own; buffers and all."""
    state = train.initial(tiny, dataset)
    twin = perturb(tiny, dataset, state, 0, 1)
    rows = growth.follow(tiny, dataset, "constant", state, twin, 0)
    ends = [train.advance(tiny, dataset, "constant", s, 0, (4,))[4] for s in (state, twin)]
    names = parameters(tiny, dataset)
    u, v = (torch.cat([s[n].double().flatten() for n in names]) for s in ends)
    assert rows[-1]["step"] == 4
    assert rows[-1]["l2"] == pytest.approx((u - v).norm().item(), rel=1e-12)


def test_a_run_that_ends_first_ends_the_record(tiny, dataset):
    state = train.initial(tiny, dataset)
    rows = growth.follow(tiny, dataset, "constant", state, perturb(tiny, dataset, state, 18, 1), 18)
    assert [r["step"] for r in rows] == [18, 19, 20]


def test_no_difference_stays_none(tiny, dataset):
    state = train.initial(tiny, dataset)
    rows = growth.follow(tiny, dataset, "constant", state, perturb(tiny, dataset, state, 0, 0), 0)
    assert {(r["l2"], r["tangent"]) for r in rows} == {(0.0, 0.0)}
    assert growth.exponent(rows, "l2") is None


def test_exponent_of_a_known_growth():
    rows = [{"step": 5 + k, "l2": 1e-7 * math.exp(0.25 * k)} for k in range(9)]
    assert growth.exponent(rows, "l2") == pytest.approx(0.25)
    assert growth.exponent(rows[:1], "l2") is None


@pytest.mark.usefixtures("_double")
def test_long_growth_does_not_overflow(double):
    """A rate at which the map of a quadratic triples the difference at each step."""
    c, d, state = double
    fast = config.build(c.model_dump(mode="json"), ["training.rate=50.0", "training.steps=2000"])
    model = train.network(c, d, state).train()
    v = [torch.randn(p.shape, dtype=torch.float64) for p in model.parameters()]
    found = list(islice(growth.tangent(fast, d, "constant", model, v, 0), 400))
    assert all(math.isfinite(size) for size in found)
    assert found[-1] > 1e20
