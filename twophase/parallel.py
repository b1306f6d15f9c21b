"""Independent jobs in worker processes, one torch thread each: bits do not depend on load."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import torch

from twophase import data
from twophase.errors import UserError
from twophase.rundir import RunDir


def map_jobs(
    function: Callable, run: RunDir, jobs: Sequence[tuple], workers: int, done: Callable[[], None]
) -> None:
    """function(run, data, *job) for every job; each writes its own files. `done` after each.

    A job that raises ends the others and raises here.
    """
    if not jobs:
        return
    workers = min(workers, len(jobs))
    if workers == 1:
        torch.set_num_threads(1)
        for job in jobs:
            _call(function, run.path, job)
            done()
        return
    context = multiprocessing.get_context(
        "forkserver"
    )  # forks of one process that has imported all
    context.set_forkserver_preload(["twophase.stages"])
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        waiting = {pool.submit(_call, function, run.path, job) for job in jobs}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                done()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed, out of memory perhaps; the same command goes on, "
                "with --workers 1 in less"
            ) from None
        raise
    pool.shutdown()


def _start_worker() -> None:
    """One thread; Ctrl-C is the parent's to handle; a worker does not outlive its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()  # the fork server, which ends with the process that asked for it

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable, path: Path, job: tuple) -> None:
    run, samples = _opened(path)
    function(run, samples, *job)


@lru_cache(maxsize=1)
def _opened(path: Path) -> tuple[RunDir, data.Dataset]:
    run = RunDir.open(path)
    return run, data.load(run.config)
