"""`memory=` is kept: the peak of a process, measured from outside entk."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import entk

CHILD = """
import sys, threading, time, torch, entk
from torch import nn

torch.set_num_threads(2)
which, memory, outputs = sys.argv[1:4]
sketch = int(sys.argv[4]) or None


def network():
    if which == "conv":
        layers, c = [], 3
        for width in (32, 32, 64, 64):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU()]
            c = width
        return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, 10))
    first, second = nn.Linear(768, 1024), nn.Linear(1024, 1024)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(1024, 10))


def resident():
    with open("/proc/self/status") as file:
        return next(int(l.split()[1]) * 1024 for l in file if l.startswith("VmRSS"))


torch.manual_seed(0)
model = network().eval()
x = torch.randn(40, *((3, 16, 16) if which == "conv" else (768,)))
entk.ntk(model, x[:2], outputs=outputs, sketch=sketch)  # libraries load and allocate their own
before, peak, running = resident(), [0], [True]


def watch():
    while running[0]:
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)


thread = threading.Thread(target=watch, daemon=True)
thread.start()
kernel = entk.ntk(model, x, outputs=outputs, memory=memory, sketch=sketch)
running[0] = False
thread.join()
plan = entk.plan_ntk(model, x, outputs=outputs, memory=memory, sketch=sketch)
print(max(peak[0], resident()) - before, plan.block, plan.keep, kernel.double().norm().item())
"""


def run(which: str, memory: str, outputs: str, sketch: int) -> tuple[int, int, int, float]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CHILD, which, memory, outputs, str(sketch)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    peak, block, keep, norm = done.stdout.split()
    return int(peak), int(block), int(keep), float(norm)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("which", "outputs", "sketch", "budgets"),
    [
        ("conv", "all", 0, ("100MB", "400MB")),
        ("dense", "diagonal", 0, ("60MB", "200MB")),
        ("conv", "all", 1024, ("100MB", "400MB")),
        ("dense", "sum", 1024, ("60MB", "200MB")),
    ],
)
def test_peak_stays_within_the_budget(which, outputs, sketch, budgets):
    """All features at once would take 40 x 10 x 65,000 x 4 B = 104 MB (conv); budgets agree."""
    found = [run(which, memory, outputs, sketch) for memory in budgets]
    for (peak, *_), memory in zip(found, budgets, strict=True):
        assert peak <= float(memory.removesuffix("MB")) * 1e6
    (*_, low), (*_, high) = found
    assert abs(low - high) <= 1e-5 * high


def test_nothing_of_a_finished_call_stays_in_memory():
    """Not even the output of an operation that keeps it for its own backward pass."""
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(weakref.ref(x))
            return x

    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.ReLU(), Watched(), nn.Sigmoid(), Watched(), nn.Flatten()),
        *(nn.LazyLinear(4), nn.Tanh(), Watched(), nn.Linear(4, 2), nn.Softmax(-1), Watched()),
    )
    x = torch.randn(6, 1, 5, 5)
    model(x)
    entk.ntk(model, x)
    entk.jacobian(model, x)
    entk.linearize(model)(x).sum().backward()
    assert len(seen) > 20
    assert [watched() for watched in seen if watched() is not None] == []
