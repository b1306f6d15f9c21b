"""The paper's runs in pieces: what is asked of twophase, and that a piece ends in time."""

import argparse
import sys
import time
from pathlib import Path

import pytest

from benchmarks import paper_scale
from twophase import config, grid
from twophase.presets import PRESETS


@pytest.mark.parametrize("model", paper_scale.MODELS)
@pytest.mark.parametrize(("whole", "steps"), [(False, 10000), (True, 62560)])
def test_a_command_is_a_sweep_that_twophase_takes(model, whole, steps):
    options = argparse.Namespace(
        data="cifar10.npz",
        seeds="0,1",
        device="cuda",
        workers=2,
        whole=whole,
        set=[],
        out=Path("out"),
    )
    words = paper_scale.command(model, options)
    sets = tuple(words[i + 1] for i, word in enumerate(words) if word == "--set")
    base = config.build(PRESETS[words[4]], sets)
    assert (base.training.steps, base.device) == (steps, "cuda")
    assert all(base.rate("schedule", step) == 0.1 for step in (0, 9999))  # up to the first drop
    points = grid.points(base, grid.parse((words[words.index("--grid") + 1],)))
    assert [point.seed for point in points.values()] == [0, 1]


def test_a_piece_ends_in_time_and_a_whole_one_with_its_status():
    start = time.monotonic()
    assert paper_scale.run([sys.executable, "-c", "import time; time.sleep(60)"], 1.0) is None
    assert time.monotonic() - start < 15
    assert paper_scale.run([sys.executable, "-c", "raise SystemExit(3)"], 60.0) == 3
