"""What must hold between kernels whatever the numbers are."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import entk
from entk.assemble import WHOLE, Engine
from entk.factors import OUTPUTS
from entk.request import prepare
from tests import tolerance
from tests.cases import CASES

NAMES = ("mlp", "resnet_a", "gpt_tied", "conv2d_groups", "lstm")
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_blocks_agree_within_rounding(outputs, dtype):
    model, x, z = BY_NAME["resnet_a"].make(dtype)
    whole = entk.ntk(model, x, z, outputs=outputs)
    for block in (1, 2, 3, 4):
        plan = entk.plan_ntk(model, x, z, outputs=outputs, block=block)
        found = entk.ntk(model, x, z, outputs=outputs, plan=plan)
        assert tolerance.error(found, whole.double()) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_order_of_tiles_changes_no_bit(name, outputs):
    model, x, _ = BY_NAME[name].make(torch.float32)
    plan = entk.plan_ntk(model, x, outputs=outputs, block=2)
    engine = Engine(prepare(model, x, None, outputs, None), plan)
    straight = {(i, j): t[WHOLE] for i, j, t in engine.tiles(plan.tiles())}
    order = list(plan.tiles())
    random.Random(0).shuffle(order)
    for few in (order[:3], order[3:], order[:1]):
        for i, j, tile in engine.tiles(few):
            assert torch.equal(tile[WHOLE], straight[i, j])


@pytest.mark.parametrize("keep", [2, 3, 4])
def test_blocks_kept_change_no_bit(keep):
    """Memory decides how many blocks are under way, not what comes out."""
    from dataclasses import replace

    model, x, z = BY_NAME["vgg"].make(torch.float32)
    x = torch.cat([x, x + 1])
    for other in (None, z):
        plan = entk.plan_ntk(model, x, other, block=2)
        found = entk.ntk(model, x, other, plan=replace(plan, keep=keep))
        assert torch.equal(found, entk.ntk(model, x, other, plan=replace(plan, keep=99)))


def test_lower_triangle_only_when_z_is_x():
    model, x, z = BY_NAME["mlp"].make()
    square = list(entk.plan_ntk(model, x, block=1).tiles())
    assert len(square) == 15
    assert all(j <= i for i, j in square)
    assert len(list(entk.plan_ntk(model, x, z, block=1).tiles())) == 15  # 5 x 3


@pytest.mark.parametrize("name", NAMES)
def test_identities(name):
    model, x, z = BY_NAME[name].make()
    full = entk.ntk(model, x, z)
    diagonal = entk.ntk(model, x, z, outputs="diagonal")
    close = {"rtol": 1e-9, "atol": 1e-9 * full.abs().max().item()}
    torch.testing.assert_close(entk.ntk(model, z, x), full.permute(2, 3, 0, 1), **close)
    torch.testing.assert_close(entk.ntk(model, x, z, outputs="trace"), diagonal.sum(0), **close)
    torch.testing.assert_close(entk.ntk(model, x, z, outputs="sum"), full.sum((1, 3)), **close)
    order = torch.randperm(len(x))
    torch.testing.assert_close(entk.ntk(model, x[order], z), full[order], **close)
    square = entk.ntk(model, x).flatten(2).flatten(0, 1)
    values = torch.linalg.eigvalsh(square)
    assert values.min() >= -1e-10 * values.max()


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_outputs_in_chunks(chunk):
    """Fewer outputs per backward pass: the same rows and factors."""
    from dataclasses import replace

    for name in ("resnet_b", "conv2d", "gpt"):
        model, x, _ = BY_NAME[name].make()
        for strategy in ("rows", "pairs"):
            plan = entk.plan_ntk(model, x, strategy=strategy)
            found = entk.ntk(model, x, plan=replace(plan, chunk=chunk))
            assert tolerance.error(found, entk.ntk(model, x, plan=plan)) <= 1e-14


def test_progress_is_told():
    model, x, _ = BY_NAME["mlp"].make()
    seen = []
    plan = entk.plan_ntk(model, x, block=2)
    entk.ntk(model, x, plan=plan, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 6) for k in range(1, 7)]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_long_sums_of_one_sign_do_not_drift(backend):
    """Millions of positive terms: in one chain of float32 sums three digits would be lost."""
    model = nn.Linear(1 << 21, 1, bias=False).eval()
    x = torch.rand(2, 1 << 21)
    exact = (x.double() @ x.double().T)[:, None, :, None]
    plan = entk.plan_ntk(model, x, strategy="rows", backend=backend)
    assert tolerance.error(entk.ntk(model, x, plan=plan), exact) <= 1e-5
