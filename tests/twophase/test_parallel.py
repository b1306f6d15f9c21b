import os
import shutil
import signal
import time

import pytest

from twophase import parallel
from twophase.data import load
from twophase.errors import UserError
from twophase.rundir import RunDir


def touch(run, data, name):
    (run.path / name).write_text(f"{os.getpid()} {len(data.x_train)}")


def describe(run, data, name):
    (run.path / name).write_text(f"{run.config.seed} {int(data.y_train.sum())}")


def fail(run, data, name):
    if name == "bad":
        raise ValueError("this one is bad")
    time.sleep(30)


def die(run, data, name):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def run(finished, tmp_path):
    return RunDir.create(tmp_path / "run", finished.config)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_job_is_done_once(run, workers):
    jobs, done = [(f"{i}.txt",) for i in range(4)], []
    parallel.map_jobs(touch, run, jobs, workers, lambda: done.append(1))
    found = [(run.path / name).read_text().split() for (name,) in jobs]
    assert len(done) == 4
    assert {n for _, n in found} == {"40"}
    assert (str(os.getpid()) in {pid for pid, _ in found}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_another_config_at_the_same_path_has_its_own_samples(finished, tmp_path, workers):
    """A second run in one process, also in the workers that the first one left."""
    path, said = tmp_path / "run", []
    for config in (finished.config, finished.config.model_copy(update={"seed": 7})):
        shutil.rmtree(path, ignore_errors=True)
        run = RunDir.create(path, config)
        parallel.map_jobs(describe, run, [("a",), ("b",)], workers, lambda: None)
        expected = f"{config.seed} {int(load(config).y_train.sum())}"
        assert [(path / name).read_text() for name in "ab"] == [expected] * 2
        said.append(expected)
    assert said[0].split()[1] != said[1].split()[1]


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
