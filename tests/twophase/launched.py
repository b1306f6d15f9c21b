"""A run of seconds, and what of two runs has to be the same."""

from pathlib import Path

import torch

from twophase import config, stages
from twophase.rundir import RunDir

TOML = """
name = "mini"
arms = ["constant"]
data = { source = "digits", train = 200, test = 100 }
model = { name = "mlp", widths = [8] }
training = { steps = 12, batch = 32 }
chaos = { t0 = [0, 4, 8], eps = 1e-3, draws = 1, alphas = 3 }
kernels = { probe = 4, outputs = "trace", steps = [0, 4, 8, 12] }
cone = { tau = [4], lags = [4] }
linear = { switch = [0, 8], arm = "constant" }
"""
RESULTS = ("checkpoints", "chaos", "kernels", "linear", "tables")


class Silent:
    def start(self, name, total, done): ...
    def step(self, count=1): ...
    def finish(self, name, seconds, skipped): ...


def plain(file: Path, folder: Path) -> RunDir:
    """The run of a file without a launcher, in this process."""
    run = RunDir.create(folder / "plain", config.build(config.read(file)))
    threads = torch.get_num_threads()
    for name in ("chaos", "cone", "linear"):
        stages.do(run, name, Silent(), 1, set())
    torch.set_num_threads(threads)
    return run


def different(run: RunDir, other: RunDir) -> list[str]:
    """Names of the result files that are not the same in both."""
    a, b = _results(run), _results(other)
    assert a
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def _results(run: RunDir) -> dict[str, bytes]:
    found = [p for name in RESULTS for p in (run.path / name).rglob("*") if p.is_file()]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in found}
