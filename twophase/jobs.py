"""Jobs that were sent out: which they are, what became of them, and waiting for them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from twophase.bars import Bars
from twophase.disk import write_atomic
from twophase.errors import JobFailedError, UserError

if TYPE_CHECKING:
    from submitit import Job

Named = tuple[str, "Job"]  # the part that it belongs to, and the job

FILE = "jobs.json"
GRACE = 30.0  # seconds that a job's result may take to be seen: shared disks show files late
ANSWER = 60.0  # seconds that SLURM may take to answer
CHATTER = ("srun: ", "submitit ")  # lines of a log that follow those that say why it ended
DONE, UNKNOWN = "done", "unknown"
GONE, LEFT = "ended without a result", "left the queue without a result"
# as SLURM calls jobs that it will not start again; all others are in its queue
ENDED = {"completed", "cancelled", "failed", "timeout", "out of memory", "node fail", "preempted"}
ENDED |= {"boot fail", "deadline", "revoked", GONE, LEFT}


class State(NamedTuple):
    """Of a job: "done" or "failed" by its result, else as SLURM or the processes here have it."""

    word: str
    over: bool


def submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher needs submitit: pip install 'entk[slurm]'") from None
    return submitit


def record(path: Path, folder: Path, launcher: str, sent: Sequence[Named]) -> None:
    """jobs.json: the last submission."""
    jobs = [{"id": job.job_id, "name": name} for name, job in sent]
    found = {"launcher": launcher, "logs": str(folder.relative_to(path)), "jobs": jobs}
    write_atomic(path / FILE, json.dumps(found, indent=1).encode())


def recorded(path: Path) -> list[Named]:
    """(name, job) of the last submission of a run or a sweep; none: an empty list."""
    file = path / FILE
    if not file.exists():
        return []
    kinds = {"slurm": submitit().SlurmJob, "local": submitit().LocalJob}
    try:
        found = json.loads(file.read_text())
        kind = kinds[found["launcher"]]
        return [(job["name"], kind(path / found["logs"], job["id"])) for job in found["jobs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error!r}); see which jobs are there, and remove it"
        ) from None


def at_work(path: Path) -> list[str]:
    """Ids of the jobs of the last submission that have not ended."""
    jobs = [job for _, job in recorded(path)]
    found = zip(jobs, states(jobs), strict=True)
    return [job.job_id for job, state in found if not state.over]


def check_idle(path: Path) -> None:
    """Raises UserError: jobs that were sent out are at work there."""
    found = at_work(path)
    if found:
        raise UserError(
            f"{path}: {len(found)} jobs of an earlier command are queued or running "
            f"({', '.join(found[:4])}); wait for them, or cancel them first"
        )


def states(jobs: Sequence[Job]) -> list[State]:
    """Of each job; SLURM is asked once for all that are not done.

    It is asked before the results are looked at: a job writes its result, then it ends. One that
    left an error and is queued again has not ended.
    """
    for folder in {job.paths.folder for job in jobs}:
        with suppress(OSError):  # NFS lists a folder anew once it has changed
            folder.chmod(folder.stat().st_mode)
    words = _words([job for job in jobs if _result(job) != DONE])
    return [_state(_result(job), words.get(job.job_id, UNKNOWN)) for job in jobs]


def wait(name: str, sent: Sequence[Named]) -> list[str]:
    """Until all have ended, and what the last one returned.

    Raises JobFailedError: at the first that failed, or that has ended and shows no result for
    GRACE seconds. Jobs of this machine end with it.
    """
    jobs = [job for _, job in sent]
    local = isinstance(jobs[0], submitit().LocalJob)
    start = time.monotonic()
    try:
        with Bars() as bars:
            bars.start(name, len(jobs), 0)
            _until_done(sent, bars, *((0.0, 0.2) if local else (GRACE, 10.0)))
            bars.finish(name, time.monotonic() - start, skipped=False)
    except BaseException:
        for job in jobs if local else ():
            job.cancel()
        raise
    return jobs[-1].result()


def _until_done(sent: Sequence[Named], bars: Bars, grace: float, every: float) -> None:
    left = list(sent)
    since: dict[str, float] = {}  # when a job was first seen to have ended, and not to be done
    while left:
        now = time.monotonic()
        found = zip(left, states([job for _, job in left]), strict=True)
        rest = [(*named, state) for named, state in found if state.word != DONE]
        bars.step(len(left) - len(rest))
        left = [(name, job) for name, job, _ in rest]
        lost = [(name, job, state.word) for name, job, state in rest if state.over]
        since = {job.job_id: since.get(job.job_id, now) for _, job, _ in lost}  # not those requeued
        if any(_result(job) or now - since[job.job_id] >= grace for _, job, _ in lost):
            name, job, word = lost[0]  # those that need it, and left the queue with it, come later
            raise JobFailedError(f"job {job.job_id} ({name}) {word}: {_last_words(job)}")
        if left:
            time.sleep(every)


def _last_words(job: Job) -> str:
    """The last line of its log, and where that is; slurmstepd writes there why it ended a job."""
    for file in (job.paths.stderr, job.paths.stdout):
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        said = [line for line in lines if line.strip() and not line.startswith(CHATTER)]
        if said:
            return f"{said[-1]} ({file})"
    return f"it has no log ({job.paths.stderr})"


def _result(job: Job) -> str:
    """What its result says; none: empty."""
    if not job.paths.result_pickle.exists():
        return ""
    return "failed" if job.exception() else DONE


def _state(result: str, word: str) -> State:
    if result == DONE or (result and (word in ENDED or word == UNKNOWN)):
        return State(result, True)
    return State(word, word in ENDED)


def _words(jobs: Sequence[Job]) -> dict[str, str]:
    """{id: what is said of it}, of jobs of one launcher."""
    if not jobs:
        return {}
    if isinstance(jobs[0], submitit().LocalJob):
        return {job.job_id: "running" if _alive(job) else GONE for job in jobs}
    folder = jobs[0].paths.folder
    queue = _queue({os.getuid(), *([folder.stat().st_uid] if folder.exists() else [])})
    if queue is None:
        return {}
    forgotten = [job.job_id for job in jobs if job.job_id not in queue]
    return dict.fromkeys(forgotten, LEFT) | _accounts(forgotten) | queue


def _queue(users: set[int]) -> dict[str, str] | None:
    """{id: state} of all jobs of some users; SLURM remembers for some minutes how one ended.

    None: it does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T"]
    return _ask([*command, f"--user={','.join(map(str, sorted(users)))}"], " ")


def _accounts(ids: Sequence[str]) -> dict[str, str]:
    """{id: state} of those that the accounting knows, if there is one."""
    if not ids:
        return {}
    command = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State"]
    found = _ask([*command, f"--jobs={','.join(ids)}"], "|") or {}
    # "CANCELLED by 1000"; one that still counts as running has left the queue all the same
    found = {key: word.partition(" by ")[0] for key, word in found.items()}
    return {key: word for key, word in found.items() if word in ENDED}


def _ask(command: list[str], separator: str) -> dict[str, str] | None:
    """{id: state} from lines of two columns; None: no answer."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if found.returncode != 0:
        return None
    pairs = (line.strip().partition(separator) for line in found.stdout.splitlines())
    return {key: word.strip().lower().replace("_", " ") for key, _, word in pairs}


def _alive(job: Job) -> bool:
    """Submitit knows only the processes of its own; a number may be another process by now."""
    if getattr(job, "_process", None) is not None:
        return not job.done()
    command = ["ps", "-ww", "-o", "command=", "-p", job.job_id]
    found = subprocess.run(command, capture_output=True, text=True).stdout
    return str(job.paths.folder) in found
