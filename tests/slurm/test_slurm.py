"""Runs and sweeps through a SLURM that is there, bit for bit what they are without it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.twophase.launched import TOML, different, plain
from twophase import launch
from twophase.rundir import RunDir
from twophase.sweep import Sweep

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not (
            shutil.which("sbatch")
            and subprocess.run(["sinfo"], capture_output=True).returncode == 0
        ),
        reason="no SLURM answers: make slurm starts one",
    ),
]
# 6 jobs of twins as 2 + 4, 2 switched runs by themselves, 4 kernels in one
OPTIONS = ("--launcher", "slurm", "--step-seconds", 1, "--job-minutes", 33)
OPTIONS += ("--slurm", "mem=500MB")


def twophase(*arguments):
    command = [sys.executable, "-m", "twophase", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, subprocess.run(["squeue"], capture_output=True, text=True)
        time.sleep(0.02)


def jobs(path, name):
    return [job for found, job in launch.recorded(path) if found == name]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mini.toml"
    path.write_text(
        TOML.replace("steps = 12", "steps = 1200").replace("t0 = [0, 4, 8]", "t0 = [0, 400, 800]")
    )
    return path


def test_a_run_is_preempted_and_requeued_and_has_the_same_bits(file, tmp_path):
    out = tmp_path / "out"
    sent = twophase("run", file, "--out", out, *OPTIONS)
    assert (sent.returncode, sent.stderr) == (0, "")
    names = [line.split(":")[0] for line in sent.stdout.splitlines()]
    assert names == ["train", "chaos", "kernels", "linear", "report"]
    record = (out / "jobs.json").read_bytes()
    again = twophase("run", file, "--out", out, *OPTIONS)
    assert "nothing is submitted" in again.stdout
    assert (out / "jobs.json").read_bytes() == record

    run = RunDir.open(out)
    first, second = jobs(out, "chaos")
    until(run.twin(0, 0).exists)
    first._interrupt()  # as SLURM does: SIGTERM, then the signal that submitit waits for
    assert not run.twin(0, 1).exists()
    until(run.twin(400, 0).exists)
    subprocess.run(["scontrol", "requeue", second.job_id], check=True)
    assert not run.twin(800, 1).exists()

    done = twophase("run", file, "--out", out, *OPTIONS, "--wait")
    assert done.returncode == 0, done.stderr
    assert "jobs are queued or running" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "Requeued job" in first.paths.stderr.read_text() + first.paths.stdout.read_text()
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    elements = [e["jobs"] for e in log if e["event"] == "element" and e["stage"] == "chaos"]
    assert sum(elements) < 6  # what was there before an interruption was not made again
    assert different(plain(file, tmp_path), run) == []
    states = twophase("status", out).stdout
    assert states.count(" done ") == 2 + 1 + 2 + 2
