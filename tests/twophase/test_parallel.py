import os
import signal
import time

import pytest

from twophase import parallel
from twophase.errors import UserError


def touch(run, data, name):
    (run.path / name).write_text(f"{os.getpid()} {len(data.x_train)}")


def fail(run, data, name):
    if name == "bad":
        raise ValueError("this one is bad")
    time.sleep(30)


def die(run, data, name):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def run(finished, tmp_path):
    from twophase.rundir import RunDir

    return RunDir.create(tmp_path / "run", finished.config)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_job_is_done_once(run, workers):
    jobs, done = [(f"{i}.txt",) for i in range(4)], []
    parallel.map_jobs(touch, run, jobs, workers, lambda: done.append(1))
    found = [(run.path / name).read_text().split() for (name,) in jobs]
    assert len(done) == 4
    assert {n for _, n in found} == {"40"}
    assert (str(os.getpid()) in {pid for pid, _ in found}) == (workers == 1)


def test_no_job_needs_no_worker(run):
    parallel.map_jobs(fail, run, [], 2, lambda: None)


def test_a_job_that_fails_ends_the_others(run):
    start = time.monotonic()
    with pytest.raises(ValueError, match="this one is bad"):
        parallel.map_jobs(fail, run, [("slow",), ("bad",)], 2, lambda: None)
    assert time.monotonic() - start < 25


def test_a_worker_that_is_killed_is_one_line(run):
    with pytest.raises(UserError, match="a worker process was killed"):
        parallel.map_jobs(die, run, [("a",), ("b",)], 2, lambda: None)
