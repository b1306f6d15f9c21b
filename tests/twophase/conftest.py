import numpy as np
import pytest
import torch

from twophase import config, data, stages
from twophase.rundir import RunDir


class Silent:
    """A bar that nobody sees; it counts the steps of each stage."""

    def __init__(self):
        self.counts, self.totals, self.finished = {}, {}, {}

    def start(self, name, total, done):
        self.name, self.totals[name], self.counts[name] = name, total, done

    def step(self, count=1):
        self.counts[self.name] += count

    def finish(self, name, seconds, skipped):
        self.finished[name] = "skipped" if skipped else "worked"


@pytest.fixture(autouse=True)
def _threads():
    """One thread, as in a stage: with more, a step has other bits. Other tests keep theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A .npz of 40 + 20 noisy 8 x 8 images in 4 classes, each class a bright quarter."""
    generator = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 40), ("test", 20)):
        y = generator.permutation(np.arange(n) % 4)
        x = generator.integers(0, 120, (n, 8, 8), dtype=np.uint8)
        for image, label in zip(x, y, strict=True):
            row, column = divmod(int(label), 2)
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 100
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    path = tmp_path_factory.mktemp("samples") / "quarters.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def values(samples):
    """A whole run of seconds: two arms that part at step 12, a twin on either side of it."""
    return {
        "name": "tiny",
        "data": {"source": str(samples), "label_noise": 0.2, "augment": "shift"},
        "model": {"widths": [3, 4]},
        "training": {"steps": 20, "batch": 16, "milestones": [12]},
        "chaos": {"t0": [0, 6, 16], "t1": [8, 14], "draws": 1, "alphas": 3, "eps": 1e-3}
        | {"growth": 4, "align": "weights"},
        "kernels": {"steps": [0, 5, 10, 20], "probe": 5},
        "cone": {"tau": [0, 5], "lags": [5]},
        "linear": {"switch": [0, 10], "variants": ["taylor", "nonlinear-frozen"], "regression": 6},
    }


@pytest.fixture(scope="session")
def tiny(values):
    return config.build(values)


@pytest.fixture(scope="session")
def dataset(tiny):
    return data.load(tiny)


@pytest.fixture(scope="session")
def perform():
    """perform(run, stage, ...): do these and what they need in this process; the bar they saw."""

    def perform(run, *names, workers=1):
        bar, done = Silent(), set()
        for name in names:
            stages.do(run, name, bar, workers, done)
        return bar

    return perform


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory, perform):
    """A run with every stage but the report done; not to be written to."""
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "tiny", tiny)
    threads = torch.get_num_threads()
    perform(run, "chaos", "cone", "linear")
    torch.set_num_threads(threads)
    return run
