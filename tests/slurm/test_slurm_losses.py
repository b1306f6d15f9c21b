"""What SLURM does to jobs that run: ends them, takes their place, loses their node."""

import json
import subprocess
import time

import pytest

from tests.slurm.calls import (
    MEMORY,
    OPTIONS,
    ended,
    logs,
    of_part,
    queue,
    start,
    twophase,
    until,
)
from tests.slurm.conftest import KINDS
from tests.twophase.launched import TOML, different
from twophase import config, data, elements
from twophase.rundir import RunDir

pytestmark = pytest.mark.slurm
SOON = 75  # seconds: results are looked for every ten, for thirty


def nodes(part):
    """{id of a job of that part: the node that it runs on}."""
    found = [line.split() for line in queue().splitlines()]
    return {f[0]: f[3] for f in found if f[1:3] == [f"twophase-{part}", "RUNNING"]}


@pytest.mark.parametrize("slurm", KINDS, indirect=True)
def test_scancel_ends_the_command_that_waits_and_the_next_one_goes_on(
    slurm, file, straight, tmp_path
):
    out = tmp_path / "out"
    command = ("run", file, "--out", out, *OPTIONS, *MEMORY, "--wait")
    waiting = start(*command)
    until(lambda: len(of_part(out, "chaos")) == 2)
    _, second = of_part(out, "chaos")
    # before it hears signals: in the seconds that SLURM leaves it, it could come to its end
    until(lambda: "Loading pickle" in logs(second))
    subprocess.run(["scancel", second.job_id], check=True)
    cancelled = time.monotonic()
    done = ended(waiting)
    assert time.monotonic() - cancelled < SOON
    assert done.returncode == 1, done.stderr
    word = "left the queue without a result" if slurm.kind == "forgets" else "cancelled"
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"twophase: job {second.job_id} (chaos) {word}: slurmstepd")
    assert " CANCELLED AT " in last
    assert last.endswith(f"({second.paths.stderr})")
    until(lambda: queue() == "")  # the report's job has gone, and others that ran have ended
    assert word in " ".join(twophase("status", out).stdout.split())
    done = twophase(*command)
    assert done.returncode == 0, done.stderr
    assert "nothing is submitted" not in done.stdout
    assert different(straight, RunDir.open(out)) == []


def test_what_goes_over_its_memory_or_its_time_is_an_error_that_says_so(slurm, file, tmp_path):
    """Python with torch takes more than 100 MB; no signal reaches a job before it is in Python."""
    command = ("run", file, "--out", tmp_path / "memory", *OPTIONS, "--wait")
    memory = start(*command, "--slurm", "mem=100MB")
    command = ("run", file, "--out", tmp_path / "time", *OPTIONS, *MEMORY, "--wait")
    slow = start(*command, "--slurm", "time=1", "--slurm", 'setup=["sleep 1000"]')
    for process, word, why in (
        (memory, "failed", "xceeded "),
        (slow, "timeout", "DUE TO TIME LIMIT"),
    ):
        done = ended(process)
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        assert f"(train) {word}: slurmstepd" in last
        assert why in last


def test_an_array_runs_on_both_nodes_and_one_is_lost(slurm, file, straight, tmp_path):
    out, run = tmp_path / "out", RunDir(tmp_path / "out", None)
    command = ("run", file, "--out", out, *OPTIONS, *MEMORY, "--slurm", "exclusive=true")
    waiting = start(*command, "--wait")
    until(lambda: len(nodes("chaos")) == 2)
    found = nodes("chaos")
    assert set(found.values()) == {"n1", "n2"}
    _, second = of_part(out, "chaos")
    lost = found[second.job_id]
    until(run.twin(800, 0).exists)
    slurm.stop(lost)
    try:
        assert not run.twin(1600, 1).exists()
        done = ended(waiting)
    finally:
        slurm.start(lost)
        slurm.wait_until_idle()
    assert done.returncode == 0, done.stderr
    assert all(f"hostname={node}" in logs(second) for node in ("n1", "n2"))
    assert different(straight, RunDir.open(out)) == []


def test_a_partition_of_higher_priority_takes_the_place(slurm, file, straight, tmp_path):
    out, run = tmp_path / "out", RunDir(tmp_path / "out", None)
    waiting = start("run", file, "--out", out, *OPTIONS, *MEMORY, "--wait")
    until(run.twin(800, 0).exists)
    assert len(nodes("chaos")) == 2
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    subprocess.run(["sbatch", *urgent, "--job-name=urgent", "--wrap=sleep 5"], check=True)
    until(lambda: "urgent RUNNING" in queue())
    assert nodes("chaos") == {}
    done = ended(waiting)
    assert done.returncode == 0, done.stderr
    _, second = of_part(out, "chaos")
    assert "DUE TO PREEMPTION" in logs(second)
    assert logs(second).count("Starting with JobEnvironment") == 2
    assert different(straight, RunDir.open(out)) == []


def test_a_job_goes_on_behind_its_last_state_after_the_time_limit(slurm, tmp_path):
    """More than a minute of training in jobs of one, whose signal comes after 20 to 50 s."""
    file, out = tmp_path / "mini.toml", tmp_path / "out"
    file.write_text(TOML)
    tried = config.build(config.read(file))
    steps = 4 * round(70 / elements.timed(tried, data.load(tried)) / 4)
    late = [steps - 12, steps - 8, steps - 4, steps]
    text = TOML
    for old, new in (
        ("steps = 12", f"steps = {steps}, save_every = {steps // 50}"),
        ("[0, 4, 8, 12]", str(late)),
        ("[0, 4, 8]", f"[{late[1]}]"),
        ("[0, 8]", f"[{late[2]}]"),
        ("tau = [4]", f"tau = [{late[1]}]"),
    ):
        text = text.replace(old, new)
    file.write_text(text)
    alone = start("run", file, "--out", tmp_path / "alone", "--workers", 1)
    limits = ("--slurm", "time=1", "--slurm", "signal_delay_s=10")
    done = twophase("run", file, "--out", out, *OPTIONS, *MEMORY, *limits, "--wait")
    assert done.returncode == 0, done.stderr
    (job,) = of_part(out, "train")
    assert "this job is timed-out" in logs(job)
    assert "Requeued job" in logs(job)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    reached = [e["step"] for e in log if e["event"] == "checkpoint"]
    assert len(reached) >= 50
    assert reached == sorted(set(reached))  # no stretch that was kept has been trained again
    assert ended(alone).returncode == 0
    assert different(RunDir.open(tmp_path / "alone"), RunDir.open(out)) == []
