"""What is sent out: stages, and their jobs in groups that are worth a place in a queue."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from twophase import data as datasets
from twophase import device, stages, sweep, train
from twophase.bars import Bars
from twophase.config import Config
from twophase.data import Dataset
from twophase.errors import DivergedError, UserError
from twophase.parallel import map_jobs
from twophase.rundir import RunDir
from twophase.sweep import Sweep

TIMED = 12  # training steps, of at most
PATIENCE = 2.0  # seconds for those that count


@dataclass(frozen=True)
class Element:
    """A job, or an element of an array of them: text and numbers, as it is pickled.

    Files that exist are not made again, so that the same element goes on where it was.
    """

    path: str  # of a run or a sweep
    name: str  # a stage, or "points" of a sweep
    command: tuple[str, ...]  # what the user typed, for environment.json
    chosen: tuple[int, ...] = ()  # which jobs of the stage, which points

    def __call__(self) -> list[str]:
        """The lines that `twophase run` ends with, from the report."""
        sys.argv = ["twophase", *self.command]
        path = Path(self.path)
        if (path / sweep.FILE).exists():
            return self._of_sweep(Sweep.open(path))
        run = RunDir.open(path)
        if self.name not in stages.JOBS:
            with Bars() as bars:
                stages.do(run, self.name, bars, 1, set())
            return answers(run) if self.name == "report" else []
        device.prepare(run.config.device)
        stage = stages.JOBS[self.name]
        jobs = [stage.all(run)[k] for k in self.chosen]
        start = time.monotonic()
        missing = [job for job in jobs if not stage.done(run, job)]
        map_jobs(stage.function, run, missing, 1, lambda: None)
        seconds = round(time.monotonic() - start, 3)
        run.log("element", stage=self.name, jobs=len(missing), seconds=seconds)
        return []

    def _of_sweep(self, found: Sweep) -> list[str]:
        if self.name == "report":
            from twophase import report_sweep  # matplotlib takes a second

            return lines(report_sweep.of_sweep(found), found.path)
        runs = list(found.runs().values())
        for k in self.chosen:
            if sweep.state(runs[k]) == "open":
                sweep.follow(runs[k], 1)
        return []

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again after preemption and at the time limit.

        SLURM ends the job as soon as it is queued again, and would end `scontrol requeue` with it,
        which submitit takes for a failure: what it starts from here on does not hear SIGTERM.
        """
        from submitit.helpers import DelayedSubmission

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return DelayedSubmission(self)


def answers(run: RunDir) -> list[str]:
    found = run.load_json(run.path / "report.json")["answers"]
    return [*(f"{a['question']}: {a['word']}" for a in found), f"report: {run.report}"]


def lines(found: list, path: Path) -> list[str]:
    """Answers over several runs, and where the page is."""
    return [*(f"{a.question}: {a.word}" for a in found), f"report: {path / 'report.html'}"]


class Part(NamedTuple):
    """One submission: a job, or an array of them."""

    name: str
    about: str
    elements: list[Element]


def of_run(run: RunDir, step: float | None, make: Callable[..., list[list[int]]]) -> list[Part]:
    """What is missing of a run. `step`: seconds of a training step, if given; make: `grouped`."""
    path, command = str(run.path), tuple(sys.argv[1:])
    parts = []
    if not stages.complete(run, "train"):
        about = f"{run.config.training.steps} steps of the main run"
        parts.append(Part("train", about, [Element(path, "train", command)]))
    samples = _samples(run.config)
    step = step or step_seconds([run], samples)
    for name, stage in stages.JOBS.items():
        jobs = stage.all(run)
        missing = [k for k, job in enumerate(jobs) if not stage.done(run, job)]
        seconds = [step * steps(run.config, samples, name, jobs[k]) for k in missing]
        groups = [tuple(missing[i] for i in group) for group in make(seconds)]
        elements = [Element(path, name, command, group) for group in groups]
        if elements:
            unit = {"chaos": "jobs of twins", "kernels": "kernels", "linear": "switched runs"}[name]
            parts.append(Part(name, _about(len(missing), unit, elements, seconds), elements))
    about = "tables, cone and report"
    return [*parts, Part("report", about, [Element(path, "report", command)])]


def of_sweep(found: Sweep, step: float | None, make: Callable[..., list[list[int]]]) -> list[Part]:
    """What is missing of a sweep, the whole of a point by one element."""
    path, command = str(found.path), tuple(sys.argv[1:])
    runs = sweep.points(found)
    missing = [k for k, run in enumerate(runs) if sweep.state(run) == "open"]
    samples = _samples(found.base)
    step = step or step_seconds(runs, samples)
    seconds = [step * whole(runs[k].config, samples) for k in missing]
    groups = [tuple(missing[i] for i in group) for group in make(seconds)]
    elements = [Element(path, "points", command, group) for group in groups]
    report = Part("report", "one report over all points", [Element(path, "report", command)])
    if not elements:
        return [report]
    return [Part("points", _about(len(missing), "points", elements, seconds), elements), report]


def _about(count: int, unit: str, elements: list[Element], seconds: list[float]) -> str:
    each = sum(seconds) / len(elements) / 60
    return f"{count} {unit}, {each:.1f} minutes in each of {len(elements)} by their training steps"


def grouped(seconds: Sequence[float], least: float, most: int | None = None) -> list[list[int]]:
    """Indices in order, each group of at least so many seconds, and at most so many groups.

    The rest that is shorter joins the last group.
    """
    if most:
        least = max(least, sum(seconds) / most)
    groups: list[list[int]] = []
    total = least
    for k, cost in enumerate(seconds):
        if (total >= least and sum(seconds[k:]) >= least) or not groups:
            groups.append([])
            total = 0.0
        groups[-1].append(k)
        total += cost
    return groups


def steps(config: Config, data: Dataset, name: str, job: tuple) -> float:
    """Training steps that a job is worth: of twins and switched runs their own.

    A kernel counts a pass for each output of each probe sample, as many as a batch has one step.
    Measuring comes on top, so that an element takes rather longer than it is said to.
    """
    last, batch = config.training.steps, config.training.batch
    if name == "chaos":
        t0, draws = job
        parted = max(t0, train.split_step(config))
        of_one = (parted - t0) + len(config.arms) * (last - parted)
        return of_one * (len(draws) + config.in_lockstep)
    if name == "linear" and job[0] != "regression":
        return last - job[1]
    outputs = 1 if config.kernels.outputs == "sum" else data.classes
    samples = config.linear.regression if name == "linear" else config.kernels.probe
    return samples * outputs / batch


def whole(config: Config, data: Dataset) -> float:
    """Training steps of a point of a sweep, its main run among them."""
    parted = train.split_step(config)
    main = parted + len(config.arms) * (config.training.steps - parted)
    jobs = [(n, job) for n, stage in stages.JOBS.items() for job in stage.module.jobs(config)]
    return main + sum(steps(config, data, name, job) for name, job in jobs)


def step_seconds(runs: Iterable[RunDir], samples: Dataset) -> float:
    """Of a training step: as the first run has it that has been trained, else timed here."""
    runs = list(runs)
    for run in runs:
        record = run.path / "environment.json"
        if record.exists() and stages.complete(run, "train"):
            seconds = run.load_json(record).get("stage_seconds", {}).get("train")
            if seconds:
                return seconds / train.progress(run)[1]
    return timed(runs[0].config, samples)


def timed(config: Config, samples: Dataset) -> float:
    """The median of a few steps from the start, after one that is not counted."""
    if config.device != "cpu":
        raise UserError(
            f"device={config.device!r}: how long a training step takes there is not known here; "
            "say so with --step-seconds"
        )
    device.prepare("cpu")
    state = train.initial(config, samples)
    model = train.network(config, samples, state).train()
    marks = [time.monotonic()]
    stop = min(TIMED, config.training.steps)
    try:
        for _ in train.run_sgd(model, config, samples, config.arms[0], state, 0, stop):
            marks.append(time.monotonic())
            if len(marks) > 2 and marks[-1] - marks[1] > PATIENCE:
                break
    except DivergedError:  # a result of the run, not of its timing
        marks.append(time.monotonic())
    each = [after - before for before, after in pairwise(marks)]
    return median(each[1:] or each)


def _samples(config: Config) -> Dataset:
    return datasets.load(config.model_copy(update={"device": "cpu"}))
