"""Work sent out through submitit: arrays of jobs on SLURM, or processes of this machine."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from twophase import elements, jobs
from twophase.disk import alone
from twophase.elements import Part
from twophase.errors import UserError
from twophase.rundir import RunDir
from twophase.sweep import Sweep

if TYPE_CHECKING:
    from submitit import Job

REQUEUED = 20  # times after the time limit; preemption is not counted
FLAGS = {"requeue": True, "kill-on-invalid-dep": "yes"}  # of sbatch

Launcher = Annotated[
    Literal["slurm", "local"] | None,
    tyro.conf.arg(metavar="slurm|local", help_behavior_hint=""),
]
Flag = tyro.conf.FlagCreatePairsOff[Annotated[bool, tyro.conf.arg(help_behavior_hint="")]]
Seconds = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Slurm = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(metavar="KEY=VALUE", help_behavior_hint=""),
]


@dataclass(frozen=True)
class Launch:
    """How work is sent out."""

    launcher: Launcher = None
    """Send the work out with submitit, to SLURM or to processes here; results are the same."""
    wait: Flag = False
    """With slurm: stay until all is done, and show how far it is; local always does."""
    job_minutes: float = 10.0
    """Jobs are grouped so that an element of an array is expected to take at least this."""
    step_seconds: Seconds = None
    """Seconds of a training step where jobs run; if left out the run's own, or timed here."""
    slurm: Slurm = ()
    """Parameter of submitit's SlurmExecutor, as in --slurm partition=gpu; may be repeated."""

    def check(self) -> None:
        if self.launcher is None and (self.wait or self.step_seconds is not None):
            raise UserError("--wait and --step-seconds need --launcher slurm or local")
        if self.slurm and self.launcher != "slurm":
            raise UserError("--slurm needs --launcher slurm")
        for name, value in (("job-minutes", self.job_minutes), ("step-seconds", self.step_seconds)):
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"--{name} {value}: expected a finite number, at least 0")
        for text in self.slurm:
            _parameter(text)
        if self.launcher:
            jobs.submitit()


def launch(target: RunDir | Sweep, options: Launch, workers: int) -> list[str]:
    """Send out what is missing, unless it is under way; the last lines of the run, if waited for.

    One process at a time submits; the folder is free again while jobs of SLURM are waited for.

    Raises JobFailedError: a job that was waited for; UserError: a parameter, or no such queue.
    """
    lines: list[str] = []
    ids = jobs.at_work(target.path)
    if not ids:
        with alone(target.path):
            ids = jobs.at_work(target.path)  # another command may have been faster
            lines = [] if ids else _submit(target, options, workers)
    if ids:
        print(f"{len(ids)} jobs are queued or running and nothing is submitted: {', '.join(ids)}")
    if options.launcher == "slurm" and options.wait:
        return jobs.wait("jobs", jobs.recorded(target.path))
    return lines


def _submit(target: RunDir | Sweep, options: Launch, workers: int) -> list[str]:
    """Every part after those that it needs; `local` waits for each before the next."""
    most = workers if options.launcher == "local" else None
    make = partial(elements.grouped, least=60 * options.job_minutes, most=most)
    plan = elements.of_run if isinstance(target, RunDir) else elements.of_sweep
    parts = plan(target, options.step_seconds, make)
    logs = target.path / "logs"
    folder = logs / f"{len(list(logs.glob('*'))) + 1:03d}"
    folder.mkdir(parents=True)
    sent: list[jobs.Named] = []
    lines: list[str] = []
    for part in parts:
        # an array needs the training alone, the report all
        needed = {job.job_id for name, job in sent if part.name == "report" or name == "train"}
        made = _send(_executor(folder, options, target, part.name, needed), part)
        sent += [(part.name, job) for job in made]
        jobs.record(target.path, folder, options.launcher, sent)
        last = f" to {made[-1].job_id}" if len(made) > 1 else ""
        print(f"{part.name}: job {made[0].job_id}{last}: {part.about}", flush=True)
        if options.launcher == "local":
            lines = jobs.wait(part.name, sent[-len(made) :])
    return lines


def _executor(
    folder: Path, options: Launch, target: RunDir | Sweep, name: str, needed: set[str]
) -> Any:
    config = target.config if isinstance(target, RunDir) else target.base
    given = {f"slurm_{key}": value for key, value in map(_parameter, options.slurm)}
    flags = given.pop("slurm_additional_parameters", {})
    if needed:  # of an array the whole
        ids = sorted({job_id.split("_")[0] for job_id in needed})
        given["slurm_dependency"] = ":".join(["afterok", *ids])
    try:
        executor = jobs.submitit().AutoExecutor(
            folder,
            cluster=options.launcher,
            slurm_max_num_timeout=REQUEUED,
            local_max_num_timeout=REQUEUED,
        )
        executor.update_parameters(
            name=f"twophase-{name}",
            timeout_min=240 if options.launcher == "slurm" else 7 * 24 * 60,
            cpus_per_task=1,
            mem_gb=8,
            gpus_per_node=None if config.device == "cpu" else 1,
            slurm_additional_parameters={**FLAGS, **flags},
            **given,
        )
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--launcher {options.launcher}: {str(error).splitlines()[0]}") from None
    return executor


def _parameter(text: str) -> tuple[str, Any]:
    """KEY=VALUE; a value is a number, a list or else as JSON has it, or text."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UserError(f"--slurm {text!r}: expected KEY=VALUE, as in partition=gpu")
    with suppress(ValueError):
        value = json.loads(value)
    if key == "time" and not isinstance(value, int):
        raise UserError(f"--slurm {text!r}: expected whole minutes, as in time=240")
    if key == "dependency":
        raise UserError("--slurm dependency: the jobs depend on one another; leave it out")
    return key, value


def _send(executor: Any, part: Part) -> list[Job]:
    from submitit.core.utils import FailedJobError

    try:
        return executor.submit_array(part.elements)
    except FailedJobError as error:
        said = [line for line in str(error).splitlines() if line.strip()][-1]
        raise UserError(f"{part.name} was not submitted: {said}") from None
