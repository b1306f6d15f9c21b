"""Tiles, passes and parts of the outputs: any division gives the kernel, within the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import entk
from entk import assemble, tiling
from entk.assemble import WHOLE, Engine
from entk.request import prepare
from tests import oracle, tolerance
from tests.cases import CASES

BY_NAME = {case.name: case for case in CASES}
NAMES = ("mlp", "resnet_a", "gpt_tied", "conv2d_groups", "lstm", "vit")


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * 36, 6)).eval(), torch.randn(23, 3, 8, 8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", ["rows", "pairs", "fused"])
@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace", "sum"])
def test_passes_smaller_than_tiles(name, strategy, outputs):
    model, x, z = BY_NAME[name].make(torch.float64)
    plan = entk.plan_ntk(model, x, z, outputs=outputs, strategy=strategy, block=len(x))
    found = entk.ntk(model, x, z, outputs=outputs, plan=replace(plan, batch=2))
    truth = oracle.ntk(model, x, z, outputs=outputs)
    assert tolerance.error(found, truth) <= tolerance.FLOAT64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outputs", ["diagonal", "trace"])
@pytest.mark.parametrize("keep", [2, 3, 99])
def test_outputs_in_parts(name, outputs, keep):
    model, x, z = BY_NAME[name].make(torch.float64)
    for other in (None, z):
        plan = entk.plan_ntk(model, x, other, outputs=outputs, block=2)
        truth = oracle.ntk(model, x, other, outputs=outputs)
        for parts in (2, 3):
            parted = replace(plan, parts=parts, chunk=1, keep=keep)
            found = entk.ntk(model, x, other, outputs=outputs, plan=parted)
            assert tolerance.error(found, truth) <= tolerance.FLOAT64


@pytest.mark.parametrize("outputs", ["diagonal", "trace"])
def test_parts_in_any_order_of_tiles(outputs):
    """What a resume leaves to do comes out in the same bits."""
    model, x = network()
    plan = entk.plan_ntk(model, x, outputs=outputs, block=2)
    plan = replace(plan, parts=3, batch=1, keep=2)
    engine = Engine(prepare(model, x, None, outputs, None), plan)
    order = list(plan.tiles())
    straight = {(i, j): t[WHOLE] for i, j, t in engine.tiles(order)}
    assert list(straight) == sorted(order)
    for few in (order[5:9], order[::7], order[:1]):
        for i, j, tile in engine.tiles(few):
            assert torch.equal(tile[WHOLE], straight[i, j])


def test_parts_by_layer():
    model, x = network()
    plan = entk.plan_ntk(model, x, outputs="trace", block=5, by_layer=True)
    found = entk.ntk(model, x, outputs="trace", by_layer=True, plan=replace(plan, parts=6, batch=3))
    plain = entk.ntk(model, x, outputs="trace", by_layer=True)
    assert found.keys() == plain.keys()
    for name, kernel in plain.items():
        assert tolerance.error(found[name], kernel.double()) <= 8 * torch.finfo(x.dtype).eps


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("keep", [2, 3, 5, 12])
@pytest.mark.parametrize("square", [True, False])
def test_passes_are_as_foretold(monkeypatch, parts, keep, square):
    """The number of blocks that go through the model is what the plan is chosen by."""
    model, x = network()
    z = None if square else x[:9]
    plan = replace(entk.plan_ntk(model, x, z, outputs="trace", block=2), parts=parts, keep=keep)
    seen = []
    monkeypatch.setattr(assemble.Engine, "block", counted(assemble.Engine.block, seen))
    entk.ntk(model, x, z, outputs="trace", plan=plan)
    assert len(seen) == parts * tiling.captures(plan.blocks, keep, square, parts)


def counted(call, seen: list):
    def block(self, x):
        seen.append(len(x))
        return call(self, x)

    return block


def test_little_memory_takes_outputs_in_parts():
    """A trace or diagonal needs one output at a time, a full kernel all of them."""
    model, x = network()
    x = torch.randn(400, *x.shape[1:])
    budgets = dict.fromkeys(("trace", "diagonal"), "45MB") | {"all": "90MB"}
    for outputs, memory in budgets.items():
        plan = entk.plan_ntk(model, x, outputs=outputs, memory=memory)
        assert (plan.parts > 1) == (outputs != "all")
        assert plan.peak <= plan.memory
        assert ("in each of" in str(plan)) == (outputs != "all")
    large = entk.plan_ntk(model, x, outputs="trace", memory="8GB")
    assert (large.parts, large.batch) == (1, large.block)


def test_passes_are_smaller_than_tiles_where_activations_weigh_more_than_rows():
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4)).eval()
    plan = entk.plan_ntk(model, torch.randn(200, 3, 24, 24), memory="50MB")
    assert plan.batch < plan.block
    assert f"tiles of {plan.block} samples in passes of {plan.batch}," in str(plan)


def test_a_plan_is_the_same_each_time():
    model, x = network()
    plans = [entk.plan_ntk(model, x, outputs="trace", memory="45MB") for _ in range(3)]
    assert plans[0] == plans[1] == plans[2]
    assert not plans[0].same_bits(replace(plans[0], batch=1))
    assert not plans[0].same_bits(replace(plans[0], parts=2))


def test_finished_tiles_go_to_disk_before_a_long_pause(monkeypatch, tmp_path):
    """Where outputs come in parts, minutes may pass between one panel of tiles and the next."""
    model, x = network()
    plan = entk.plan_ntk(model, x, outputs="trace", block=4)
    plan = replace(plan, parts=6, chunk=1, keep=2)
    blocks, counts = assemble.Engine.block, iter(range(10**6))

    def block(self, samples):
        if next(counts) == 6 * sum(range(1, 5)) + 6:  # after the first part of the fifth panel
            raise KeyboardInterrupt
        return blocks(self, samples)

    monkeypatch.setattr(assemble.Engine, "block", block)
    with pytest.raises(KeyboardInterrupt):
        entk.write_ntk(tmp_path / "k.h5", model, x, outputs="trace", plan=plan)
    assert len(list((tmp_path / "k.h5.parts").glob("shard-*.h5"))) >= 4
    monkeypatch.setattr(assemble.Engine, "block", blocks)
    with entk.write_ntk(tmp_path / "k.h5", model, x, outputs="trace") as file:
        assert torch.equal(file[:], entk.ntk(model, x, outputs="trace", plan=plan))
