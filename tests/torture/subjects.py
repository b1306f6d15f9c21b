"""What is tortured: a kernel file, the stages of a run, a sweep, a recorder and a study."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

import entk
import twophase
from entk import shards
from twophase import cli, config, environment, plots_sweep, report, stages, study
from twophase.data import load

STAGES = ("train", "chaos", "kernels", "cone", "linear", "report")
MAY_DIFFER = ("log.jsonl", ".lock")
STILL = SimpleNamespace(monotonic=lambda: 0.0)  # a clock that stands: records of time are equal


@dataclass(frozen=True)
class Subject:
    """`work(folder)` does all, or goes on; `before` has what earlier work left there."""

    name: str
    work: Callable[[Path], None]
    before: Callable[[Path], None] = lambda folder: None


def samples(folder: Path) -> Path:
    """24 + 12 images of 4 x 4 in 3 classes."""
    generator = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 24), ("test", 12)):
        y = np.arange(n) % 3
        x = generator.integers(0, 120, (n, 4, 4), dtype=np.uint8)
        x[np.arange(n), y] += 100
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    path = folder / "images.npz"
    np.savez(path, **arrays)
    return path


def values(source: Path) -> dict:
    return {
        "name": "tiny",
        "data": {"source": str(source), "augment": "shift"},
        "model": {"widths": [2]},
        "training": {"steps": 6, "batch": 8, "milestones": [4], "save_every": 2},
        "chaos": {"t0": [0, 3], "t1": [5], "draws": 1, "alphas": 3, "eps": 1e-3},
        "kernels": {"steps": [0, 3, 6], "probe": 3},
        "cone": {"tau": [0], "lags": [3]},
        "linear": {"switch": [3], "variants": ["taylor"]},
    }


def deterministic() -> None:
    """In this process and its children: no times in files, the commit not asked for, and a shard
    after every tile."""
    torch.set_num_threads(1)
    stages.time = study.time = STILL
    environment._commit = lambda: "torture"
    shards.SHARD_SECONDS = -1
    for name in set(report.FIGURES) - {"chaos", "training"}:  # drawing is what takes long
        del report.FIGURES[name]
    plots_sweep.FIGURES |= dict.fromkeys(list(plots_sweep.FIGURES)[1:], lambda *given: [])


def kernel(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(3, 3)
    plan = entk.plan_ntk(model, x, block=1, memory="64MB", rates="nominal")
    entk.write_ntk(folder / "k.h5", model, x, plan=plan).close()


def command(*arguments: str) -> Callable[[Path], None]:
    """twophase ARGUMENTS, with FOLDER for the folder's path."""

    def work(folder: Path) -> None:
        cli.main([a.replace("FOLDER", str(folder)) for a in arguments])

    return work


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def loop(data, recorder=None, start: int = 0, stop: int = 4, state: dict | None = None) -> dict:
    """Someone's own training: {"model", "optimizer"} after `stop` steps."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(start, stop + 1):
        if recorder is not None:
            recorder(step, model, optimizer=optimizer)
        if step < stop:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
            optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def subjects(home: Path) -> list[Subject]:
    """In `home`, which is not tortured, their inputs and what goes before each stage is kept."""
    file = home / "tiny.toml"
    source = samples(home)
    built = config.build(values(source))
    file.write_text(config.dump(built))
    data = load(built)

    def record(folder: Path) -> None:
        loop(data, twophase.Recorder(folder / "checkpoints", steps=range(5)))

    def analyse(folder: Path) -> None:
        train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
        saved = home / "recorder" / "checkpoints"
        settings = ("chaos.t0=[1]", "kernels.probe=3")
        own = twophase.Study(
            folder / "run",
            saved,
            network,
            train=train,
            test=test,
            settings=settings,
        )
        own.cone()
        own.twins(lambda state, start, stop: loop(data, None, start, stop, state))
        own.report()

    found = [Subject("kernel", kernel), Subject("recorder", record)]
    for i, stage in enumerate(STAGES):
        work = command(stage, str(file), "--out", "FOLDER/run", "--workers", "1")
        before = (lambda folder: None) if i == 0 else _copy(home / STAGES[i - 1])
        found.append(Subject(stage, work, before))
    sweep = ("sweep", str(file), "--grid", "seed=0,1", "--out", "FOLDER/sweep", "--workers", "1")
    return [
        *found,
        Subject("study", analyse),
        Subject("sweep", command(*sweep)),
    ]


def _copy(source: Path) -> Callable[[Path], None]:
    return lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes but for those that may differ."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in MAY_DIFFER)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
