"""Training on CUDA, alone and in lockstep; run by `make gpu`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twophase import config, data, device, lockstep, train
from twophase.perturb import perturb

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
MODELS = [
    ["model.name=mlp", "model.widths=[32]"],
    ["model.widths=[8, 16]"],
    ["model.name=vgg16-dropout"],
]


@pytest.fixture(autouse=True)
def _deterministic():
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    device.prepare("cuda")
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(threads)


@pytest.fixture(params=MODELS, ids=["mlp", "thin-resnet", "vgg16-dropout"])
def built(request, tmp_path):
    """40 samples in batches of 16, so that the last of an epoch is a short one."""
    generator, arrays = np.random.default_rng(0), {}
    for part, n in (("train", 40), ("test", 8)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(n) % 4
    np.savez(tmp_path / "noise.npz", **arrays)
    values = {
        "device": "cuda",
        "data": {"source": str(tmp_path / "noise.npz"), "augment": "crop-flip"},
        "training": {"steps": 20, "batch": 16, "rate": 0.01, "milestones": [12]},
        "chaos": {"t0": [0], "eps": 1e-3},
        "kernels": {"steps": [0], "probe": 4},
        "cone": {"tau": [], "lags": []},
        "linear": {"switch": []},
    }
    return config.build(values, request.param)


@pytest.fixture
def samples(built):
    return data.load(built)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_in_pieces_or_at_once_is_the_same(built, samples):
    start = train.initial(built, samples)
    whole = train.advance(built, samples, "schedule", start, 0, (7, 20))
    assert same(train.advance(built, samples, "schedule", whole[7], 7, (20,))[20], whole[20])


def test_lockstep_in_pieces_or_at_once_is_the_same(built, samples):
    """Eager first steps and replayed graphs mix in another way."""
    start = train.initial(built, samples)
    states = [start, start, perturb(built, samples, start, 0, 1)]
    whole = lockstep.advance(built, samples, "schedule", states, 0, (7, 20))
    parts = [lane[7] for lane in whole]
    rest = lockstep.advance(built, samples, "schedule", parts, 7, (20,))
    assert all(same(a[20], b[20]) for a, b in zip(whole, rest, strict=True))


@pytest.mark.parametrize("lanes", [2, 3, 8])
def test_copies_are_equal_bit_for_bit(built, samples, lanes):
    start = train.initial(built, samples)
    states = [perturb(built, samples, start, 0, d) for d in range(lanes)]
    for place in {1, lanes - 1}:
        found = lockstep.advance(
            built, samples, "constant", [*states[:place], start, *states[place + 1 :]], 0, (20,)
        )
        assert same(found[0][20], found[place][20])


def test_lanes_are_runs_of_their_own_to_rounding(built, samples):
    """After four steps, against what moving each weight by one float does (as on the CPU)."""
    start = train.initial(built, samples)
    (lane,) = lockstep.advance(built, samples, "constant", [start], 0, (4,))
    alone = train.advance(built, samples, "constant", start, 0, (4,))[4]
    ulp = config.build(built.model_dump(mode="json"), ["chaos.kind=ulp"])
    moved = perturb(ulp, samples, start, 0, 1)
    moved = train.advance(built, samples, "constant", moved, 0, (4,))[4]
    reach, off = (
        max((s[k].double() - alone[k].double()).abs().max().item() for k in alone)
        for s in (moved, lane[4])
    )
    assert reach > 0
    assert off <= 30 * 4 * reach
