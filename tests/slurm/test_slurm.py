"""Runs and sweeps through a SLURM that is there, bit for bit what they are without it."""

import json
import signal
import subprocess

import pytest

from tests.slurm.calls import MEMORY, OPTIONS, logs, of_part, queue, twophase, until
from tests.twophase.launched import TOML, different, plain
from twophase import jobs
from twophase.rundir import RunDir

pytestmark = pytest.mark.slurm
OPTIONS += MEMORY


def test_a_run_is_preempted_and_requeued_and_has_the_same_bits(slurm, file, straight, tmp_path):
    out = tmp_path / "out"
    gate = tmp_path / "gate"  # jobs wait until the test does not depend on how fast it is itself
    setup = f'setup=["until [ -e {gate} ]; do sleep 0.1; done"]'
    sent = twophase("run", file, "--out", out, *OPTIONS, "--slurm", setup)
    assert (sent.returncode, sent.stderr) == (0, "")
    names = [line.split(":")[0] for line in sent.stdout.splitlines()]
    assert names == ["train", "chaos", "kernels", "linear", "report"]
    run = RunDir.open(out)
    first, second = of_part(out, "chaos")
    slurm.running["slurmctld"].send_signal(signal.SIGSTOP)
    try:  # jobs count as queued or running while nobody answers
        assert twophase("status", out).stdout.count(" unknown ") == 6
        assert "nothing is submitted" in twophase("run", file, "--out", out, *OPTIONS).stdout
    finally:
        slurm.running["slurmctld"].send_signal(signal.SIGCONT)
    gate.touch()
    until(run.twin(0, 0).exists)
    first._interrupt()  # as SLURM does: SIGTERM, then the signal that submitit waits for
    assert not run.twin(0, 1).exists()
    until(run.twin(800, 0).exists)
    subprocess.run(["scontrol", "requeue", second.job_id], check=True)
    assert not run.twin(1600, 1).exists()

    record = (out / "jobs.json").read_bytes()
    again = twophase("run", file, "--out", out, *OPTIONS)
    assert "nothing is submitted" in again.stdout
    assert (out / "jobs.json").read_bytes() == record
    done = twophase("run", file, "--out", out, *OPTIONS, "--wait")
    assert done.returncode == 0, done.stderr
    assert "jobs are queued or running" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "Requeued job" in logs(first)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    elements = [e["jobs"] for e in log if e["event"] == "element" and e["stage"] == "chaos"]
    assert sum(elements) < 6  # what was there before an interruption was not made again
    assert different(straight, run) == []
    states = twophase("status", out).stdout
    assert states.count(" done ") == 2 + 1 + 2 + 2


def test_a_job_that_fails_takes_those_that_need_it_out_of_the_queue(file, tmp_path):
    """A checkpoint that is damaged between training and the twins."""
    out = tmp_path / "out"
    assert twophase("train", file, "--out", out).returncode == 0
    RunDir.open(out).checkpoint("constant", 800).write_bytes(b"damaged")
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
    assert [len(of_part(out, name)) for name in ("points", "report")] == [2, 1]
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
        assert jobs.recorded(tmp_path / "out") == []
