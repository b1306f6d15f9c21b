"""Independent jobs in worker processes, one torch thread each: bits do not depend on load."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import resource_tracker
from typing import Any

from twophase import belongs, device
from twophase.data import Dataset
from twophase.errors import UserError
from twophase.rundir import RunDir


def map_jobs(
    function: Callable, run: RunDir, jobs: Sequence[tuple], workers: int, done: Callable[[], None]
) -> None:
    """function(run, data, *job) for every job; each writes its own files. `done` after each.

    A job that raises ends the others and raises here.
    """
    if min(workers, len(jobs)) < 2:
        samples = belongs.load(run) if jobs else None
        for job in jobs:
            function(run, samples, *job)
            done()
        return
    map_calls(_call, [(function, run, job) for job in jobs], workers, lambda _: done())


def map_calls(
    function: Callable, calls: Sequence[tuple], workers: int, done: Callable[[Any], None]
) -> None:
    """function(*call) for every call, in this process if that is enough; `done` with each result.

    One that raises ends the others and raises here.
    """
    if min(workers, len(calls)) < 2:
        for call in calls:
            done(function(*call))
        return
    pool = _pool(workers)
    try:
        with _interrupts_held():
            waiting = {pool.submit(function, *call) for call in calls}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                done(future.result())
    except BaseException as error:
        _abandon(pool)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed, out of memory perhaps; the same command goes on, "
                "with --workers 1 in less"
            ) from None
        raise


@lru_cache(maxsize=1)
def _pool(workers: int) -> ProcessPoolExecutor:
    """Kept for the next stage: to import torch takes a worker seconds."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)


def _abandon(pool: ProcessPoolExecutor) -> None:
    _pool.cache_clear()
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start in here never see Ctrl-C: it is for this one to handle."""
    resource_tracker.ensure_running()  # would let interrupts through if it were started in here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """A thread that ends this worker with the process it works for."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable, run: RunDir, job: tuple) -> None:
    device.prepare(run.config.device)
    function(run, _samples(run), *job)


@lru_cache(maxsize=1)
def _samples(run: RunDir) -> Dataset:
    """Kept by a worker from job to job of a run."""
    return belongs.load(run)
