"""Runs and sweeps through a SLURM that is there, bit for bit what they are without it."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.twophase.launched import TOML, different, plain
from twophase import launch
from twophase.rundir import RunDir

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


def queue():
    command = ["squeue", "-h", "-o", "%i %j %T %r"]
    return subprocess.run(command, capture_output=True, text=True).stdout


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, queue()
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
    gate = tmp_path / "gate"  # jobs wait until the test does not depend on how fast it is itself
    setup = f'setup=["until [ -e {gate} ]; do sleep 0.1; done"]'
    sent = twophase("run", file, "--out", out, *OPTIONS, "--slurm", setup)
    assert (sent.returncode, sent.stderr) == (0, "")
    names = [line.split(":")[0] for line in sent.stdout.splitlines()]
    assert names == ["train", "chaos", "kernels", "linear", "report"]
    run = RunDir.open(out)
    first, second = jobs(out, "chaos")
    gate.touch()
    until(run.twin(0, 0).exists)
    first._interrupt()  # as SLURM does: SIGTERM, then the signal that submitit waits for
    assert not run.twin(0, 1).exists()
    until(run.twin(400, 0).exists)
    subprocess.run(["scontrol", "requeue", second.job_id], check=True)
    assert not run.twin(800, 1).exists()

    record = (out / "jobs.json").read_bytes()
    again = twophase("run", file, "--out", out, *OPTIONS)
    assert "nothing is submitted" in again.stdout
    assert (out / "jobs.json").read_bytes() == record
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


def test_a_job_that_fails_takes_those_that_need_it_out_of_the_queue(file, tmp_path):
    """A checkpoint that is damaged between training and the twins."""
    out = tmp_path / "out"
    assert twophase("train", file, "--out", out).returncode == 0
    RunDir.open(out).checkpoint("constant", 400).write_bytes(b"damaged")
    done = twophase("run", file, "--out", out, *OPTIONS, "--wait")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("twophase: job ")
    assert "is damaged" in last
    assert str(out / "logs" / "001") in last
    until(lambda: queue() == "")  # the report, which could never start, is no longer there


def test_points_of_a_sweep_have_the_same_bits(tmp_path):
    file, out = tmp_path / "mini.toml", tmp_path / "out"
    file.write_text(TOML)
    arguments = ("sweep", file, "--grid", "seed=0,1", "--out", out)
    done = twophase(*arguments, *OPTIONS[:-2], "--job-minutes", 0, *OPTIONS[-2:], "--wait")
    assert done.returncode == 0, done.stderr
    assert [len(jobs(out, name)) for name in ("points", "report")] == [2, 1]
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert different(plain(file, tmp_path), RunDir.open(out / "seed=0")) == []


def test_what_slurm_refuses_is_one_line(file, tmp_path):
    for parameter, said in (
        ("partition=none", "train was not submitted: sbatch: error: "),
        ("partitoin=short", "Unknown argument 'partitoin'"),
    ):
        done = twophase("run", file, "--out", tmp_path / "out", *OPTIONS, "--slurm", parameter)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr.splitlines()[-1]  # sbatch has spoken before
        assert launch.recorded(tmp_path / "out") == []
