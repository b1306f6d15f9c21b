"""How far a sketch is from the kernel: the formulas, what is measured, files, distances."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch import nn

import entk
from entk.assemble import Engine
from entk.factors import OUTPUTS
from entk.request import make_plan, prepare
from entk.sketch import ERROR, Sketch, product_probes, relative_error
from tests import oracle
from tests.cases import CASES
from tests.tolerance import FLOAT64, error

BY_NAME = {case.name: case for case in CASES}
SEEDS = 60


def dense_variance(a, b):
    """Of <A, r> <B, r>, all entries of r independent; A, B [..., C, K] (docs/science.md)."""
    squares = a.square().sum((-2, -1)) * b.square().sum((-2, -1))
    return squares + (a * b).sum((-2, -1)) ** 2 - 2 * (a * b).square().sum((-2, -1))


def product_variance(a, b):
    """The same with r = u v'."""

    def over(t, axis):
        return (t * t).sum(axis)

    ab, ba = a @ b.mT, a.mT @ b
    inner = (a * b).sum((-2, -1)) ** 2
    fourth = over(a, (-2, -1)) * over(b, (-2, -1)) + inner
    fourth = (
        fourth + 2 * over(ba, (-2, -1)) + 2 * over(ab, (-2, -1)) + 2 * (ab * ab.mT).sum((-2, -1))
    )
    for axis in (-1, -2):
        fourth = fourth - 2 * (over(a, axis) * over(b, axis)).sum(-1)
        fourth = fourth - 4 * ((a * b).sum(axis) ** 2).sum(-1)
    return fourth + 4 * (a * b).square().sum((-2, -1))


def variance_of_all(model, x, k):
    """Of every entry of the full kernel of x, from the float64 Jacobians."""
    target = prepare(model, x, None, "all", None)
    names, found = target.names, target.found
    jacobian = oracle.jacobian(model, x, names)
    total, kernel, squared, excess = 0, 0, 0, 0
    for s in found.served:
        j = (
            jacobian[s.name].flatten(3)
            if jacobian[s.name].dim() > 3
            else jacobian[s.name][..., None]
        )
        for part in j.unflatten(2, (s.groups, -1)).unbind(2):  # groups are independent as well
            a, b = part[:, :, None, None], part[None, None]
            inner = (a * b).sum((-2, -1))
            norm = part.square().sum((-2, -1))
            norms = norm[:, :, None, None] * norm
            own = product_variance if product_probes(s, k) else dense_variance
            excess = excess + own(a, b) - norms - inner**2
            kernel, total = kernel + inner, total + norm
    squared = total[:, :, None, None] * total
    return kernel, (squared + kernel**2 + excess) / k


def test_variance_by_going_over_all_signs():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    sides = [
        torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n))).double() for n in (2, 3, 6)
    ]
    r = {"product": torch.einsum("ic,jk->ijck", *sides[:2]).flatten(0, 1)}
    r["dense"] = sides[2].view(-1, 2, 3)
    for kind, formula in (("product", product_variance), ("dense", dense_variance)):
        found = (r[kind] * a).sum((1, 2)) * (r[kind] * b).sum((1, 2))
        assert found.mean().item() == pytest.approx((a * b).sum().item())
        assert found.var(unbiased=False).item() == pytest.approx(formula(a, b).item())
        bound = {"product": 9, "dense": 3}[kind] * a.square().sum() * b.square().sum()
        assert found.square().mean() <= bound


def samples(name: str, k: int, outputs: str = "all", by_layer: bool = False):
    """Of SEEDS sketches: (|S - K| / |K|)^2 and the square of the error that each measured."""
    model, x, _ = BY_NAME[name].make()
    truth = oracle.ntk(model, x, outputs=outputs)
    target = prepare(model, x, None, outputs, None)  # once: it takes longer than a sketch
    options = {"rates": "nominal", "memory": "1GB"}
    pairs = []
    for seed in range(SEEDS):
        plan = make_plan(target, sketch=Sketch(k, seed), **options)
        ((_, _, tile),) = Engine(target, plan, by_layer).tiles(plan.tiles())
        bar = relative_error(tile.pop(ERROR))
        pairs.append((error(sum(tile.values()), truth) ** 2, bar**2))
    return torch.tensor(pairs, dtype=torch.float64).T


def within(found: torch.Tensor, expected: float) -> bool:
    """Whether a mean is the expected one, up to four of its own standard errors."""
    return abs(found.mean().item() - expected) < 4 * (found.std() / math.sqrt(len(found))).item()


@pytest.mark.parametrize("name", ["mlp", "conv2d_groups", "layernorm", "one_weight_two_linears"])
def test_error_is_that_of_the_formula(name):
    """True and measured, for numbers of probes over a range of 16: they fall as 1 / sqrt(k)."""
    model, x, _ = BY_NAME[name].make()
    for k in (256, 4096):
        kernel, variance = variance_of_all(model, x, k)
        assert error(kernel, oracle.ntk(model, x)) < FLOAT64
        expected = (variance.sum() / kernel.square().sum()).item()
        true, measured = samples(name, k)
        assert within(true, expected)
        assert within(measured, expected)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_the_bar_covers_the_error(outputs):
    """Student's t with 7 degrees of freedom exceeds 2 with 9 %, in 60 draws at most 15 % mostly."""
    for name, by_layer in (("vgg", False), ("gpt_tied", True)):
        true, measured = samples(name, 1024, outputs, by_layer=by_layer)
        assert (true.sqrt() <= 2 * measured.sqrt()).double().mean() >= 0.85
        assert 0.5 < (true.mean() / measured.mean()).sqrt() < 2


def test_the_mean_over_seeds_is_the_kernel():
    """Of a weight that is tied to an embedding: cross terms too."""
    model, x, _ = BY_NAME["gpt_tied"].make()
    sketches = torch.stack(
        [entk.ntk(model, x, sketch=64, seed=s, rates="nominal") for s in range(SEEDS)]
    )
    deviation = (sketches.mean(0) - oracle.ntk(model, x)) / (sketches.std(0) / math.sqrt(SEEDS))
    assert deviation.abs().max() < 5.5  # 441 entries, Student with 59 degrees: 1 in 2000
    assert deviation.square().mean() < 2


def test_layers_of_their_own_are_the_better_estimate():
    layered, whole = (samples("resnet_a", 256, by_layer=b) for b in (True, False))
    assert layered[0].mean() < whole[0].mean()
    assert layered[1].mean() < whole[1].mean()


def test_lost_in_the_noise_and_nothing_at_all():
    wide = nn.Linear(2000, 1, bias=False).double()
    x = torch.eye(2000, dtype=torch.float64)[:1500]  # its kernel is the identity
    found = entk.sketch_error(wide, x, sketch=8, memory="1GB")
    assert found > 5
    silent = nn.Linear(3, 2).double()
    assert entk.sketch_error(silent, torch.zeros(4, 3).double(), sketch=8, params="weight") == 0


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("square", [True, False])
def test_file(tmp_path, outputs, by_layer, square):
    model, x, z = BY_NAME["vgg"].make(torch.float32)
    other = None if square else z
    plan = entk.plan_ntk(model, x, other, outputs=outputs, block=2, sketch=64, seed=4)
    options = {"outputs": outputs, "plan": plan, "by_layer": by_layer}
    expected = entk.ntk(model, x, other, **options)
    whole = sum(expected.values()) if by_layer else expected
    with entk.write_ntk(tmp_path / "k.h5", model, x, other, **options) as file:
        assert torch.equal(file[:], whole.reshape(file.shape))
        for layer in file.layers:
            assert torch.equal(file.layer(layer), expected[layer].reshape(file.shape))
        options = {"outputs": outputs, "by_layer": by_layer, "sketch": 64, "seed": 4}
        alone = entk.sketch_error(model, x, other, **options)
        assert file.sketch_error == pytest.approx(alone, rel=1e-3)
        assert file.provenance["request"]["sketch"] == 64
        assert file.provenance["request"]["seed"] == 4
        assert file.plan == plan
    with entk.write_ntk(tmp_path / "exact.h5", model, x, outputs=outputs) as file:
        assert file.sketch_error is None


class Stop(Exception):
    pass


def stop_after(count: int):
    def progress(done: int, _: int) -> None:
        if done == count:
            raise Stop

    return progress


def test_resume(tmp_path):
    model, x, _ = BY_NAME["vgg"].make(torch.float32)
    plan = entk.plan_ntk(model, x, sketch=64, seed=4, block=1)
    with entk.write_ntk(tmp_path / "straight.h5", model, x, plan=plan) as file:
        straight, bar = file[:], file.sketch_error
    path = tmp_path / "k.h5"
    with pytest.raises(Stop):
        entk.write_ntk(path, model, x, plan=plan, progress=stop_after(6))
    assert json.loads((tmp_path / "k.h5.parts/request.json").read_text())["request"]["sketch"] == 64
    for other in ({}, {"sketch": 128, "seed": 4}, {"sketch": 64}, {"sketch": 64, "seed": 5}):
        with pytest.raises(entk.ResumeError, match=r"another request: .*(sketch|seed)"):
            entk.write_ntk(path, model, x, **other)
    seen = []
    with entk.write_ntk(
        path, model, x, sketch=64, seed=4, progress=lambda done, _: seen.append(done)
    ) as file:
        assert seen[0] > 0  # tiles of the first call
        assert torch.equal(file[:], straight)
        assert file.sketch_error == bar
    with pytest.raises(entk.ResumeError, match="sketch, seed differ"):
        entk.write_ntk(path, model, x)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_distances_of_sketches(outputs):
    model, x, z = BY_NAME["vgg"].make()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(1)
    moved = {
        k: v * torch.exp(0.3 * torch.randn_like(v)) if v.is_floating_point() else v
        for k, v in start.items()
    }
    other = BY_NAME["vgg"].make()[0]
    other.load_state_dict(moved)
    options = {"outputs": outputs, "sketch": 64, "seed": 9}
    for second in (None, z):
        kernels = [entk.ntk(m, x, second, **options) for m in (model, other)]
        expected = entk.kernel_distance(*kernels)
        found = entk.kernel_distance(model, other, x, second, **options)
        assert found == pytest.approx(expected, rel=1e-9)
        assert entk.kernel_distance(model, model, x, second, **options) == 0
        matrix = entk.trajectory_distances(model, [start, moved], x, second, **options)
        assert matrix[0, 1].item() == pytest.approx(expected, rel=1e-9)


def test_distances_of_other_probes_are_refused():
    """A linearised model has no rules, hence dense probes throughout."""
    model, x, _ = BY_NAME["mlp"].make()
    linear = entk.linearize(model)
    assert entk.kernel_distance(model, linear, x) < 1e-20
    with pytest.raises(entk.InputError, match=r"parameter '.*' has other probes in model_a"):
        entk.kernel_distance(model, linear, x, sketch=64)
