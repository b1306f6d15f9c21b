"""The stages of a run: each a function of the config and earlier files, skipped when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from twophase import belongs, chaos, cone, device, environment, kernels, linear, train
from twophase.errors import UserError
from twophase.parallel import map_jobs
from twophase.rundir import RunDir


class Bar(Protocol):
    """Progress of one stage."""

    def start(self, name: str, total: int, done: int) -> None: ...
    def step(self, count: int = 1) -> None: ...
    def finish(self, name: str, seconds: float, skipped: bool) -> None: ...


@dataclass(frozen=True)
class Stage:
    """What a stage leaves behind and how it gets there."""

    outputs: Callable[[RunDir], list[Path]]  # all of them exist: the stage is done
    work: Callable[[RunDir, Bar, int], None]
    needs: tuple[str, ...] = ()


def _train_files(run: RunDir) -> list[Path]:
    config = run.config
    arms = [arm for arm in config.arms if arm != "own"]  # a study's checkpoints are the caller's
    return [run.checkpoint(arm, s) for arm in arms for s in config.checkpoints]


def _train(run: RunDir, bar: Bar, workers: int) -> None:
    done, total = train.progress(run)
    bar.start("train", total, done)
    train.stage(run, belongs.begin(run), lambda step: bar.step())


@dataclass(frozen=True)
class Jobs:
    """The independent jobs of a stage, each with files of its own, and tables made from all."""

    module: ModuleType  # jobs(config), collect(run)
    files: Callable[..., list[Path]]  # of (run, *job)
    function: Callable[..., None]  # of (run, data, *job)

    def all(self, run: RunDir) -> list[tuple]:
        return self.module.jobs(run.config)

    def done(self, run: RunDir, job: tuple) -> bool:
        return all(path.exists() for path in self.files(run, *job))


def _parallel(name: str) -> Callable[[RunDir, Bar, int], None]:
    def work(run: RunDir, bar: Bar, workers: int) -> None:
        jobs = JOBS[name].all(run)
        missing = [job for job in jobs if not JOBS[name].done(run, job)]
        bar.start(name, len(jobs), len(jobs) - len(missing))
        map_jobs(JOBS[name].function, run, missing, workers, bar.step)
        JOBS[name].module.collect(run)

    return work


def _switched(run: RunDir, *job) -> list[Path]:
    return [run.switched(*job)]


JOBS = {
    "chaos": Jobs(chaos, chaos.files, chaos.follow),
    "kernels": Jobs(kernels, kernels.files, kernels.measure),
    "linear": Jobs(linear, _switched, linear.follow),
}


def _cone(run: RunDir, bar: Bar, workers: int) -> None:
    bar.start("cone", 1, 0)
    cone.stage(run)
    bar.step()


def _report(run: RunDir, bar: Bar, workers: int) -> None:
    from twophase import report  # matplotlib takes a second, and only this stage needs it

    bar.start("report", 1, 0)
    report.write(run)
    bar.step()


STAGES: dict[str, Stage] = {
    "train": Stage(lambda run: [*_train_files(run), run.table("train")], _train),
    "chaos": Stage(
        lambda run: [
            *(path for job in chaos.jobs(run.config) for path in chaos.files(run, *job)),
            *(run.table(t) for t in chaos.TABLES),
        ],
        _parallel("chaos"),
        ("train",),
    ),
    "kernels": Stage(
        lambda run: [
            *(path for job in kernels.jobs(run.config) for path in kernels.files(run, *job)),
            *(run.table(t) for t in kernels.TABLES),
        ],
        _parallel("kernels"),
        ("train",),
    ),
    "cone": Stage(
        lambda run: [run.table(t) for t in cone.TABLES],
        _cone,
        ("kernels",),
    ),
    "linear": Stage(
        lambda run: [
            *(run.switched(*job) for job in linear.jobs(run.config)),
            *(run.table(t) for t in linear.TABLES),
        ],
        _parallel("linear"),
        ("train",),
    ),
    "report": Stage(
        lambda run: [run.report, run.path / "report.json"],
        _report,
        ("chaos", "cone", "linear"),
    ),
}


def complete(run: RunDir, name: str) -> bool:
    return all(path.exists() for path in STAGES[name].outputs(run))


def do(run: RunDir, name: str, bar: Bar, workers: int, done: set[str]) -> None:
    """A stage and whatever it needs, in order; finished ones are only named."""
    if "own" in run.config.arms:
        raise UserError(f"{run.path} is of a run that was trained elsewhere; use twophase.Study")
    for earlier in STAGES[name].needs:
        if earlier not in done:
            do(run, earlier, bar, workers, done)
    done.add(name)
    if complete(run, name):
        if not environment.recorded(run, name):
            environment.record(run, name, 0.0)
        bar.finish(name, 0.0, skipped=True)
        return
    device.prepare(run.config.device)
    start = time.monotonic()
    run.log("start", stage=name)
    STAGES[name].work(run, bar, workers)
    seconds = time.monotonic() - start
    environment.record(run, name, seconds)
    run.log("done", stage=name, seconds=round(seconds, 3))
    bar.finish(name, seconds, skipped=False)
