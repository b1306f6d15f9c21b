"""Sketches are what they say: J R R' J' / k with signs R that numpy finds too, in every case."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import entk
import entk.sketch
from benchmarks.cases import FULL
from entk.factors import OUTPUTS
from entk.request import make_plan, prepare
from entk.sketch import Projector, Sketch, mix, product_probes, signs
from entk.tiling import RESERVE
from tests import oracle
from tests.cases import CASES
from tests.tolerance import FLOAT64, error

BY_NAME = {case.name: case for case in CASES}
K = 64


def splitmix(z: np.ndarray) -> np.ndarray:
    """The finaliser on unsigned numbers."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def expected_signs(seed: int, side: str, name: str, count: int, k: int) -> torch.Tensor:
    """[count, k] as entk/sketch.py describes them, in numpy."""
    digest = hashlib.sha256(f"{seed} {side} {name}".encode()).digest()
    key, gamma = np.frombuffer(digest[:8], "<u8"), np.uint64(0x9E3779B97F4A7C15)
    row = splitmix(np.arange(count, dtype=np.uint64)[:, None] * gamma + key)
    i = np.arange(k, dtype=np.uint64)
    word = splitmix(row + (i // np.uint64(64) + np.uint64(1)) * gamma)
    bit = word >> (i % np.uint64(64)) & np.uint64(1)
    return torch.from_numpy(1 - 2 * bit.astype(np.float64))


def probes(served, shape: torch.Size, k: int, seed: int = 0) -> torch.Tensor:
    """R [P, k] of one parameter."""
    name = served.name
    if not product_probes(served, k):
        return expected_signs(seed, "entry", name, served.size, k)
    u = expected_signs(seed, "first axis", name, shape[0], k)
    each = shape[0] // served.groups  # rows of a group
    own = shape[1:].numel()
    v = expected_signs(seed, "other axes", name, served.groups * own, k)
    v = v.view(served.groups, 1, own, k).expand(-1, each, -1, -1).reshape(shape[0], own, k)
    return (u[:, None] * v).flatten(0, 1)


def sketched_oracle(model, x, z=None, outputs="all", k=K, seed=0, params=None):
    """The definition: J R / sqrt(k) from the float64 loop."""
    target = prepare(model, x, z, outputs, params)
    names, found = target.names, target.found
    one = oracle.jacobian(model, x, names)
    two = one if z is None else oracle.jacobian(model, z, names)
    phi = [0, 0]
    for s in found.served:
        shape = one[s.name].shape[2:]
        r = probes(s, shape, k, seed) / math.sqrt(k)
        for side, j in enumerate((one, two)):
            phi[side] = phi[side] + j[s.name].reshape(*j[s.name].shape[:2], -1) @ r
    return oracle.mode(torch.einsum("noi,mqi->nomq", *phi), outputs)


def test_the_hash_is_splitmix64():
    """The published sequence of seed 1234567."""
    gamma = 0x9E3779B97F4A7C15 - (1 << 64)
    found = mix(torch.arange(1, 6) * gamma + 1234567)
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    known += [4593380528125082431, 16408922859458223821]
    assert [v % (1 << 64) for v in found.tolist()] == known


def test_signs_are_the_same_in_any_piece_and_dtype():
    index = torch.arange(50)
    key = Projector(Sketch(200, 3))._key("a.weight", "entry")
    whole = signs(key, index, 0, 200, torch.float64)
    assert torch.equal(whole, expected_signs(3, "entry", "a.weight", 50, 200))
    assert set(whole.unique().tolist()) == {-1, 1}
    for start, stop in ((0, 1), (63, 65), (64, 128), (70, 200)):
        part = signs(key, index[7:].flip(0), start, stop, torch.float32)
        assert torch.equal(part.double(), whole[7:, start:stop].flip(0))


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_case_is_its_definition(case, square):
    """With the signs known nothing is random: equal up to rounding, tied weights too."""
    model, x, z = case.make()
    other = None if square else z
    found = entk.ntk(model, x, other, sketch=K, rates="nominal")
    assert error(found, sketched_oracle(model, x, other)) < FLOAT64


def test_both_kinds_of_probes_are_met():
    kinds = set()
    for case in CASES:
        model, x, _ = case.make()
        plan = entk.plan_ntk(model, x, sketch=K, rates="nominal")
        kinds |= {(c.strategy, re.sub(r"\W.*", "", c.rule)) for c in plan.layers}
    expected = {("sketch", rule) for rule in ("linear", "conv", "embedding")}
    assert expected < kinds
    assert {("dense", "conv"), ("dense", "linear"), ("dense", "torch"), ("none", "none")} < kinds


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", ["vgg", "gpt_tied", "conv2d_groups", "weight_norm", "unused"])
def test_modes_and_layers_are_those_of_one_sketch(name, outputs):
    model, x, z = BY_NAME[name].make()
    for other in (None, z):
        options = {"outputs": outputs, "sketch": K, "seed": 5, "rates": "nominal"}
        found = entk.ntk(model, x, other, **options)
        assert error(found, sketched_oracle(model, x, other, outputs, seed=5)) < FLOAT64
        layers = entk.ntk(model, x, other, by_layer=True, **options)
        for layer, kernel in layers.items():
            own = [n for n, _ in model.named_parameters() if (n.rpartition(".")[0] or n) == layer]
            alone = entk.ntk(model, x, other, params=own, **options)
            assert error(kernel, alone) < FLOAT64


@pytest.mark.parametrize("name", ["vgg", "gpt_tied", "resnet_b", "lstm", "prelu"])
def test_blocks_rounds_and_slabs_have_no_say(name, monkeypatch):
    model, x, _ = BY_NAME[name].make()
    whole = entk.ntk(model, x, sketch=192)
    again = entk.ntk(model, torch.cat([x, x[:2]]), x, sketch=192)
    assert error(again[: len(x)], whole) < FLOAT64  # a rectangle is a part of the square
    assert torch.equal(whole, whole.permute(2, 3, 0, 1))
    plan = entk.plan_ntk(model, x, sketch=192, block=2)
    assert plan.blocks[0] > 1
    assert error(entk.ntk(model, x, plan=plan), whole) < FLOAT64
    monkeypatch.setattr(entk.sketch, "SCRATCH", 500)
    monkeypatch.setattr(entk.sketch, "SLAB", 7)
    assert error(entk.ntk(model, x, sketch=192), whole) < FLOAT64


def test_few_outputs_at_a_time():
    """A budget that does not hold the gradients of all outputs at once."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), *pool, nn.Linear(64, 12)).double()
    x = torch.randn(8, 2, 42, 42, dtype=torch.float64)
    plan = entk.plan_ntk(model, x, sketch=K, memory="900MB", block=8)
    for chunk in (12, 1, 5, 7):
        found = entk.ntk(model, x, plan=replace(plan, chunk=chunk))
        assert error(found, sketched_oracle(model, x)) < FLOAT64
    budget = int(0.9 * plan.peak / (1 - RESERVE))
    least = entk.plan_ntk(model, x, sketch=K, memory=budget, block=8)
    assert least.chunk < plan.chunk == 12


def test_float32_has_the_same_probes():
    model, x, _ = BY_NAME["vgg"].make(torch.float32)
    found = entk.ntk(model, x, sketch=K)
    assert found.dtype == torch.float32
    jacobians = [oracle.jacobian(model, x, dtype=d) for d in (torch.float32, torch.float64)]
    plain, truth = (torch.cat([j.flatten(2) for j in each.values()], 2) for each in jacobians)
    kernel = sketched_oracle(model, x)
    # d(phi phi') = 2 |phi| |d phi|, of which |phi|^2 is the kernel's trace
    limit = 2 * error(plain, truth) * torch.einsum("nono->", kernel) / kernel.norm()
    assert error(found, kernel) < 2 * limit


@pytest.mark.parametrize(
    ("sketch", "seed", "message"),
    [
        (0, 0, "sketch=0, expected a multiple of 8"),
        (100, 0, "sketch=100, expected a multiple of 8"),
        (64.0, 0, "sketch=64.0, expected a multiple of 8"),
        (True, 0, "sketch=True, expected a multiple of 8"),
        (64, "a", "seed='a', expected a whole number"),
        (None, 3, "seed=3 without sketch="),
    ],
)
def test_refused(sketch, seed, message):
    model, x, _ = BY_NAME["mlp"].make()
    for call in (entk.ntk, entk.plan_ntk, entk.sketch_error):
        with pytest.raises(entk.InputError, match=re.escape(message)):
            call(model, x, sketch=sketch, seed=seed)


def test_options_that_do_not_go_together():
    model, x, _ = BY_NAME["mlp"].make()
    with pytest.raises(entk.InputError, match="strategy='rows' has no say with sketch="):
        entk.plan_ntk(model, x, sketch=K, strategy="rows")
    with pytest.raises(entk.InputError, match="sketch=None, expected a number of projections"):
        entk.sketch_error(model, x, sketch=None)
    plan = entk.plan_ntk(model, x, sketch=K)
    for other in ({"sketch": 2 * K}, {"sketch": K, "seed": 1}):
        with pytest.raises(entk.InputError, match="the plan was made for sketch=Sketch"):
            entk.ntk(model, x, plan=plan, **other)
    exact = entk.plan_ntk(model, x)
    with pytest.raises(entk.InputError, match="the plan was made for sketch=None"):
        entk.ntk(model, x, plan=exact, sketch=K)
    assert torch.equal(entk.ntk(model, x, plan=plan), entk.ntk(model, x, plan=plan, sketch=K))


def test_the_plan_says_so():
    model, x, _ = BY_NAME["vgg"].make()
    plan = entk.plan_ntk(model, x, sketch=K, seed=2, rates="nominal")
    text = str(plan)
    assert text.startswith("sketch=64, seed=2 of eNTK [5, 4, 5, 4]")
    assert re.search(r"\n8\.weight +linear +sketch ", text)
    assert re.search(r"\nproducts of sketches +rows +1\.54e\+04 ", text)  # 15 pairs, 4 x 4, 64
    assert entk.Plan.from_json(plan.to_json()) == plan
    linear = next(c for c in plan.layers if c.name == "8.weight")  # K = 24, C = 4, T = 1, O = 4
    assert linear.flops == 5 * 64 * (4 * 4 + 24 + 1 + 2 * 4)
    layered = entk.plan_ntk(model, x, sketch=K, rates="nominal", by_layer=True)
    assert layered.product.flops == 4 * plan.product.flops
    assert plan.seconds == pytest.approx(
        plan.capture_seconds + sum(c.seconds for c in plan.layers) + plan.product.seconds
    )


def test_the_table_of_costs():
    """The one in docs/science.md; the samples are one and the same, for costs see shapes only."""
    model, x, _ = next(case for case in FULL if case.network == "VGG-16").make()
    x = x[:1].expand(10000, *x.shape[1:])
    target = prepare(model, x, None, "all", None)
    options = {"memory": "64GB", "backend": "torch", "rates": "nominal", "streamed": True}
    page = (Path(__file__).parents[2] / "docs" / "science.md").read_text()
    for n in (100, 1000, 10000):
        cells = []
        for sketch in (None, Sketch(256), Sketch(1024), Sketch(4096)):
            plan = make_plan(replace(target, x=x[:n]), sketch=sketch, **options)
            work, moved = (sum(getattr(c, what) for c in plan.costs) for what in ("flops", "bytes"))
            cells.append(f"{work:.1e}, {moved:.1e} B")
        assert f"| {n} | {' | '.join(cells)} |\n" in page
