"""Two commands on one directory: the second is told of the first; reading needs no lock."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch

import entk
import twophase
from tests.entk.test_lock import Holder
from tests.twophase.test_bad_calls import study
from twophase import cli, jobs
from twophase.disk import alone
from twophase.rundir import RunDir
from twophase.sweep import Sweep


@pytest.fixture
def second(capsys):
    """second(*arguments) of the command line: (exit status, lines on stderr)."""

    def second(*arguments) -> tuple[int, list[str]]:
        status = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err.splitlines()

    return second


@pytest.mark.parametrize("verb", ["train", "report"])
def test_a_run_that_is_being_written(second, tiny, tmp_path, verb):
    run = RunDir.create(tmp_path / "run", tiny)
    process = Holder(run.path)
    status, said = second(verb, run.path)
    assert status == 2
    assert [line.split(";")[0] for line in said] == [
        f"twophase: {run.path} is being written by another process "
        f"({(run.path / '.lock').read_text().strip()})"
    ]
    assert str(process.pid) in said[0]
    assert second("status", run.path)[0] == 0
    process.kill()


@pytest.mark.parametrize(("held", "named"), [("", "sweep is being"), ("seed=0", "point seed=0: ")])
def test_a_sweep_and_its_points(second, tiny, tmp_path, held, named):
    sweep = Sweep.create(tmp_path / "sweep", tiny, {"seed": [0]})
    process = Holder(sweep.path / held)
    status, said = second("sweep", sweep.path, "--workers", "1")
    assert status == 2
    assert named in said[-1]
    assert f"({process.pid} on " in said[-1]
    assert second("status", sweep.path)[0] == 0
    process.kill()


def test_a_finished_run_that_may_only_be_read_is_read(finished, monkeypatch):
    """`twophase train` on it takes no lock, so it writes nothing."""
    monkeypatch.setattr(cli, "alone", None)
    monkeypatch.setattr(cli, "complete", lambda run, stage: True)
    cli.main(["train", str(finished.path)])


@pytest.mark.parametrize("launcher", [(), ("--launcher", "slurm", "--step-seconds", "1")])
@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_nothing_is_begun_where_another_is_at_work(
    second, tiny, tmp_path, monkeypatch, verb, launcher
):
    """Also what would be sent out, to a queue that there is not."""
    monkeypatch.setenv("PATH", "")
    grid = {"seed": [0]}
    made = (
        RunDir.create(tmp_path / "x", tiny)
        if verb == "run"
        else Sweep.create(tmp_path / "x", tiny, grid)
    )
    process = Holder(made.path)
    before = sorted(made.path.rglob("*"))
    status, said = second(verb, made.path, *launcher, "--workers", "1")
    assert (status, len(said)) == (2, 1)
    assert f"is being written by another process ({process.pid} on " in said[0]
    assert sorted(made.path.rglob("*")) == before
    process.kill()


@pytest.mark.parametrize("what", ["of a sweep", "of several runs"])
def test_a_report_that_another_writes(second, tiny, tmp_path, what):
    if what == "of a sweep":
        out = Sweep.create(tmp_path / "x", tiny, {"seed": [0]}).path
        arguments = (out,)
    else:
        out = tmp_path / "out"
        runs = [RunDir.create(tmp_path / name, tiny).path for name in "ab"]
        arguments = (*runs, "--out", out)
    process = Holder(out)
    status, said = second("report", *arguments)
    assert (status, len(said)) == (2, 1)
    assert f"({process.pid} on " in said[0]
    process.kill()


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_where_jobs_are_at_work_nothing_is_begun(second, tiny, tmp_path, verb):
    """A process of this machine that was sent out, and its record; then without the process."""
    made = (
        RunDir.create(tmp_path / "x", tiny)
        if verb == "train"
        else Sweep.create(tmp_path / "x", tiny, {"seed": [0]})
    )
    logs = made.path / "logs" / "001"
    logs.mkdir(parents=True)
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(logs)])
    sent = [{"id": str(job.pid), "name": "train"}]
    record = {"launcher": "local", "logs": "logs/001", "jobs": sent}
    (made.path / jobs.FILE).write_text(json.dumps(record))
    try:
        status, said = second(verb, made.path, "--workers", "1")
    finally:
        job.kill()
        job.wait()
    assert (status, len(said)) == (2, 1)
    assert f"1 jobs of an earlier command are queued or running ({job.pid}); wait" in said[0]
    jobs.check_idle(made.path)


def test_what_a_killed_process_left_goes_before_the_next_begins(second, finished, tmp_path):
    out = shutil.copytree(finished.path, tmp_path / "x")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = out / "tables" / f".a.csv.{socket.gethostname()}.{dead.pid}.tmp"
    for begin in (lambda: second("train", out, "--workers", "1"), lambda: hold(out)):
        left.touch()
        begin()
        assert not left.exists()


@pytest.mark.parametrize("what", ["sweep", "report of a sweep", "report of several runs"])
def test_what_a_killed_process_left_beside_runs_goes(second, tiny, tmp_path, monkeypatch, what):
    """Nothing else is done there: the points are, or were, another command's."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    if what == "report of several runs":
        runs = [RunDir.create(tmp_path / name, tiny).path for name in "ab"]
        out, arguments = tmp_path / "out", ("report", *runs, "--out", tmp_path / "out")
    else:
        out = Sweep.create(tmp_path / "x", tiny, {"seed": [0]}).path
        arguments = (what.split()[0], out)
    left = out / "figures" / f".a.svg.{socket.gethostname()}.{dead.pid}.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    monkeypatch.setattr(cli.sweeps, "work", lambda *given: None)
    second(*arguments, *([] if "of" in what else ["--workers", "1"]))
    assert not left.exists()


def hold(folder):
    with alone(folder):
        pass


@pytest.mark.parametrize("part", ["cone", "twins", "report"])
def test_a_second_study(tmp_path, part):
    """Each part holds the directory by itself."""
    made = study(tmp_path, settings=["kernels.probe=4", "chaos.t0=[0]"])
    process = Holder(made.run.path)
    with pytest.raises(entk.LockedError, match=f"another process .{process.pid} on "):
        getattr(made, part)(*([None] if part == "twins" else []))
    process.kill()


def test_a_second_recorder(tmp_path):
    one, two = (twophase.Recorder(tmp_path / "c", steps=[0, 1]) for _ in range(2))
    model = torch.nn.Linear(2, 2)
    one(0, model)
    with pytest.raises(entk.LockedError, match="is being written by another process"):
        two(0, model)
    del one
    two(1, model)
    assert sorted(p.name for p in (tmp_path / "c").glob("*.pt")) == [
        "step-00000000.pt",
        "step-00000001.pt",
    ]
