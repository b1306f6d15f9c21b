"""Work sent out through submitit: arrays of jobs on SLURM, or processes of this machine."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from twophase import elements
from twophase.bars import Bars
from twophase.disk import write_atomic
from twophase.elements import Part
from twophase.errors import JobFailedError, UserError
from twophase.rundir import RunDir
from twophase.sweep import Sweep

if TYPE_CHECKING:
    from submitit import Job

FILE = "jobs.json"
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
            _submitit()


def launch(target: RunDir | Sweep, options: Launch, workers: int) -> list[str]:
    """Send out what is missing, unless it is under way; the last lines of the run, if waited for.

    Raises JobFailedError: a job that was waited for; UserError: a parameter, or no such queue.
    """
    at_work = _at_work(target.path)
    if at_work:
        ids = ", ".join(at_work)
        print(f"{len(at_work)} jobs are queued or running and nothing is submitted: {ids}")
        if options.launcher == "local" or not options.wait:
            return []
        jobs = [job for _, job in recorded(target.path)]
        return _wait("jobs", jobs)
    most = workers if options.launcher == "local" else None
    make = partial(elements.grouped, least=60 * options.job_minutes, most=most)
    plan = elements.of_run if isinstance(target, RunDir) else elements.of_sweep
    return _submit(target, options, plan(target, options.step_seconds, make))


def _submit(target: RunDir | Sweep, options: Launch, parts: list[Part]) -> list[str]:
    """Every part after those that it needs; `local` waits for each before the next."""
    logs = target.path / "logs"
    folder = logs / f"{len(list(logs.glob('*'))) + 1:03d}"
    folder.mkdir(parents=True)  # fails where another process submits at the same moment
    sent: list[tuple[str, Job]] = []
    lines: list[str] = []
    for part in parts:
        # an array needs the training alone, the report all
        needed = {job.job_id for name, job in sent if part.name == "report" or name == "train"}
        jobs = _send(_executor(folder, options, target, part.name, needed), part)
        sent += [(part.name, job) for job in jobs]
        _record(target.path, folder, options.launcher, sent)
        last = f" to {jobs[-1].job_id}" if len(jobs) > 1 else ""
        print(f"{part.name}: job {jobs[0].job_id}{last}: {part.about}", flush=True)
        if options.launcher == "local":
            lines = _wait(part.name, jobs)
    if options.launcher == "slurm" and options.wait:
        lines = _wait("jobs", [job for _, job in sent])
    return lines


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher needs submitit: pip install 'entk[slurm]'") from None
    return submitit


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
        executor = _submitit().AutoExecutor(
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


def _record(path: Path, folder: Path, launcher: str, sent: Sequence[tuple[str, Job]]) -> None:
    """jobs.json: the last submission."""
    jobs = [{"id": job.job_id, "name": name} for name, job in sent]
    found = {"launcher": launcher, "logs": str(folder.relative_to(path)), "jobs": jobs}
    write_atomic(path / FILE, json.dumps(found, indent=1).encode())


def recorded(path: Path) -> list[tuple[str, Job]]:
    """(name, job) of the last submission of a run or a sweep; none: an empty list."""
    file = path / FILE
    if not file.exists():
        return []
    submitit = _submitit()
    try:
        found = json.loads(file.read_text())
        kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[found["launcher"]]
        return [(job["name"], kind(path / found["logs"], job["id"])) for job in found["jobs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error!r}); see which jobs are there, and remove it"
        ) from None


def check_idle(path: Path) -> None:
    """Raises UserError: jobs that were sent out are at work there."""
    at_work = _at_work(path)
    if at_work:
        raise UserError(
            f"{path}: {len(at_work)} jobs of an earlier command are queued or running "
            f"({', '.join(at_work[:4])}); wait for them, or cancel them first"
        )


def _at_work(path: Path) -> list[str]:
    """Ids of the jobs of the last submission that have not ended."""
    return [job.job_id for _, job in recorded(path) if not settled(job)]


def state(job: Job) -> str:
    """ "done", "failed", or what the queue says of a job that has left no result."""
    if job.paths.result_pickle.exists():
        return "failed" if job.exception() else "done"
    if isinstance(job, _submitit().LocalJob):
        return "running" if _alive(job) else "ended without a result"
    return job.state.lower()


def settled(job: Job) -> bool:
    """Whether a job of an earlier command has ended; without accounting SLURM may not know."""
    if isinstance(job, _submitit().LocalJob):
        return state(job) != "running"
    return job.done()


def _alive(job: Job) -> bool:
    """Submitit knows only the processes of its own; a number may be another process by now."""
    if getattr(job, "_process", None) is not None:
        return not job.done()
    command = ["ps", "-ww", "-o", "command=", "-p", job.job_id]
    found = subprocess.run(command, capture_output=True, text=True).stdout
    return str(job.paths.folder) in found


def _wait(name: str, jobs: Sequence[Job]) -> list[str]:
    """Until all have ended, and what the last one returned.

    Raises JobFailedError at the first that failed; jobs of this machine end with it.
    """
    from submitit.helpers import as_completed

    local = isinstance(jobs[0], _submitit().LocalJob)
    start = time.monotonic()
    try:
        with Bars() as bars:
            bars.start(name, len(jobs), 0)
            for job in as_completed(jobs, poll_frequency=0.2 if local else 10):
                _check(name, job)
                bars.step()
            bars.finish(name, time.monotonic() - start, skipped=False)
    except BaseException:
        for job in jobs if local else ():
            job.cancel()
        raise
    return jobs[-1].result()


def _check(name: str, job: Job) -> None:
    error = job.exception()
    if error is None:
        return
    files = [file for file in (job.paths.stderr, job.paths.stdout) if file.exists()]
    lines = [line for line in files[0].read_text().splitlines() if line.strip()] if files else []
    said = lines[-1] if lines else str(error).splitlines()[0]
    where = files[0] if files else job.paths.stderr
    raise JobFailedError(f"job {job.job_id} ({name}) {state(job)}: {said} ({where})")
