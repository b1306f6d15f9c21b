import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from types import SimpleNamespace

import pytest

from tests.twophase.launched import TOML, Silent, different, plain
from twophase import cli, config, data, elements, jobs, stages, sweep, train
from twophase.errors import UserError
from twophase.rundir import RunDir
from twophase.sweep import Sweep

LONGER = TOML.replace("steps = 12", "steps = 600").replace("[0, 4, 8]", "[0, 200, 400]")


def start(*arguments):
    command = [sys.executable, "-m", "twophase", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(capsys, *arguments):
    status = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def until(condition, process, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def worker(out, name):
    """The process that does the first job of that name; the job itself is the one over it."""
    job = next(job for found, job in jobs.recorded(out) if found == name)
    children = ["ps", "-o", "pid=", "--ppid", job.job_id]
    return int(subprocess.run(children, capture_output=True, text=True).stdout)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mini.toml"
    path.write_text(LONGER)
    return path


def test_what_is_lost_comes_back_the_same_from_jobs_here(finished, tmp_path, capsys):
    """One twin, and the report: two jobs, the second after the first."""
    out = tmp_path / "out"
    shutil.copytree(finished.path, out)
    run = RunDir.open(out)
    run.twin(6, 1).unlink()
    arguments = ("run", out, "--launcher", "local", "--workers", 1, "--step-seconds", 1)
    status, said, error = call(capsys, *arguments)
    assert status == 0, error
    assert [line.split(":")[0] for line in said.splitlines()[:2]] == ["chaos", "report"]
    assert said.splitlines()[-1] == f"report: {run.report}"
    assert different(finished, run) == []
    assert call(capsys, "status", out)[1].count(" done ") == 2 + 1  # two jobs, a heading
    assert call(capsys, *arguments)[1] == said.split("report\n", 1)[1]  # nothing is sent out


@pytest.mark.slow
def test_a_run_whose_jobs_are_killed_and_preempted_has_the_same_bits(file, tmp_path, capsys):
    out = tmp_path / "out"
    run = SimpleNamespace(path=out, twin=RunDir(out, None).twin)
    arguments = ("run", file, "--out", out, "--launcher", "local", "--workers", 2)
    process = start(*arguments)
    until(run.twin(0, 0).exists, process)
    os.kill(worker(out, "chaos"), signal.SIGKILL)
    said, error = process.communicate(timeout=400)
    assert process.returncode == 1, error
    assert [line.split(":")[0] for line in said.splitlines()] == ["train", "chaos"]
    last = error.splitlines()[-1]
    assert last.startswith("twophase: job ")
    assert f"(chaos) {jobs.GONE}" in last
    assert str(out / "logs" / "001") in last
    assert not run.twin(0, 1).exists()

    process = start(*arguments)
    until(run.twin(0, 1).exists, process)
    os.kill(worker(out, "chaos"), signal.SIGUSR2)
    status, said, error = call(capsys, *arguments)
    assert (status, error) == (0, "")
    assert "jobs are queued or running and nothing is submitted" in said
    assert " running " in call(capsys, "status", out)[1]
    said, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    assert said.splitlines()[-1] == f"report: {out / 'report.html'}"
    logs = "".join(p.read_text() for p in (out / "logs" / "002").glob("*.out"))
    assert logs.count("this job is preempted") == logs.count("Requeued job") == 1
    assert different(plain(file, tmp_path), RunDir.open(out)) == []


@pytest.mark.parametrize(
    ("seconds", "least", "most", "expected"),
    [
        ([], 2, None, []),
        ([1] * 6, 2, None, [[0, 1], [2, 3], [4, 5]]),
        ([1] * 6, 0, None, [[0], [1], [2], [3], [4], [5]]),
        ([1] * 6, 0, 2, [[0, 1, 2], [3, 4, 5]]),
        ([1] * 6, 100, None, [[0, 1, 2, 3, 4, 5]]),
        ([5, 1, 1], 3, None, [[0, 1, 2]]),  # the rest would be too short by itself
        ([5, 1, 1, 1], 3, None, [[0], [1, 2, 3]]),
    ],
)
def test_groups(seconds, least, most, expected):
    assert elements.grouped(seconds, least, most) == expected


def test_every_group_of_random_jobs_is_long_enough():
    chance = random.Random(0)
    for _ in range(200):
        seconds = [chance.random() for _ in range(chance.randrange(1, 30))]
        least, most = chance.choice([0.0, 0.7, 2.0]), chance.choice([None, 1, 3])
        groups = elements.grouped(seconds, least, most)
        assert [k for group in groups for k in group] == list(range(len(seconds)))
        assert len(groups) == 1 or all(sum(seconds[k] for k in g) >= least for g in groups)
        assert most is None or len(groups) <= most


@pytest.fixture
def counted(monkeypatch):
    """How many losses of training steps have been looked at, one for each step of each network."""
    check, count = train.check_loss, []
    monkeypatch.setattr(train, "check_loss", lambda *a: count.append(a) or check(*a))
    return count


@pytest.mark.parametrize("lockstep", ["off", "on"])
def test_steps_of_twins_and_switched_runs_are_those_they_train(
    finished, tmp_path, dataset, counted, lockstep
):
    config = finished.config
    chaos = config.chaos.model_copy(update={"lockstep": lockstep, "growth": 0})
    run = RunDir(tmp_path, config.model_copy(update={"chaos": chaos}))
    shutil.copytree(finished.path / "checkpoints", tmp_path / "checkpoints")
    for name in ("chaos", "linear"):
        for job in stages.JOBS[name].all(run):
            counted.clear()
            stages.JOBS[name].function(run, dataset, *job)
            if job[0] == "regression":
                assert elements.steps(run.config, dataset, name, job) == 6 * 4 / 16
            else:
                assert elements.steps(run.config, dataset, name, job) == len(counted), job


def test_the_steps_of_a_point_are_those_of_its_main_run_and_of_all_its_jobs(tmp_path, counted):
    values = tomllib.loads(TOML) | {"arms": ["constant", "schedule"]}
    values["training"] |= {"milestones": [8]}
    values["chaos"] |= {"growth": 0}
    made = config.build(values)
    run = RunDir.create(tmp_path, made)
    for name in ("chaos", "linear"):
        stages.do(run, name, Silent(), 1, set())
    kernels = 8 * 4 * 10 / 32  # of each arm four, a pass for ten outputs of four samples
    assert elements.whole(made, data.load(made)) == len(counted) + kernels


def test_seconds_of_a_step_are_the_runs_own_or_timed(finished, tmp_path, dataset):
    recorded = json.loads((finished.path / "environment.json").read_text())["stage_seconds"]
    of_run = elements.step_seconds([finished], dataset)
    assert of_run == recorded["train"] / (20 + 8)
    fresh = RunDir(tmp_path, finished.config)
    assert elements.step_seconds([fresh, finished], dataset) == of_run
    assert 0 < elements.step_seconds([fresh], dataset) < 10
    cuda = RunDir(tmp_path, finished.config.model_copy(update={"device": "cuda"}))
    with pytest.raises(UserError, match="say so with --step-seconds"):
        elements.step_seconds([cuda], dataset)


def test_elements_of_a_sweep_do_what_the_sweep_does(tmp_path, monkeypatch):
    """In this process, as they come; the second point diverges, which is a result."""
    monkeypatch.setattr("sys.argv", ["twophase", "sweep", "x"])
    base = config.build(tomllib.loads(TOML))
    made = Sweep.create(tmp_path / "out", base, {"training.rate": [0.1, 1e30]})
    points, report = elements.of_sweep(made, 1.0, lambda s: [[k] for k in range(len(s))])
    assert [e.chosen for e in points.elements] == [(0,), (1,)]
    assert all(e() == [] for e in points.elements)
    assert [sweep.state(run) for run in made.runs().values()] == ["done", "diverged"]
    (last,) = report.elements
    assert last()[-1] == f"report: {made.path / 'report.html'}"
    assert [part.name for part in elements.of_sweep(made, 1.0, lambda s: [])] == ["report"]
    (tmp_path / "mini.toml").write_text(TOML)
    run = made.runs()["training.rate=0.1"]
    assert different(plain(tmp_path / "mini.toml", tmp_path), run) == []
    assert json.loads((run.path / "environment.json").read_text())["command"] == "twophase sweep x"


def test_an_element_goes_into_the_queue_again_as_it_was():
    element = elements.Element("runs/x", "chaos", ("run", "x"), (3, 4))
    before = signal.getsignal(signal.SIGTERM)
    try:
        again = element.checkpoint()
        child = subprocess.Popen(["sleep", "0.5"])  # as scontrol, which SLURM ends with the job
        time.sleep(0.1)
        child.terminate()
        assert child.wait() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (again.function, again.args) == (element, ())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--wait",), "--wait and --step-seconds need --launcher"),
        (("--launcher", "local", "--slurm", "mem=1GB"), "--slurm needs --launcher slurm"),
        (("--launcher", "local", "--job-minutes", "-1"), "--job-minutes -1.0: expected a finite"),
        (("--launcher", "local", "--step-seconds", "nan"), "--step-seconds nan: expected a finite"),
        (("--launcher", "slurm", "--slurm", "gpu"), "--slurm 'gpu': expected KEY=VALUE"),
        (("--launcher", "slurm", "--slurm", "time=1:00"), "expected whole minutes"),
        (("--launcher", "slurm", "--slurm", "dependency=x"), "leave it out"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_made(file, tmp_path, capsys, arguments, said):
    status, _, error = call(capsys, "run", file, "--out", tmp_path / "out", *arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert said in error
    assert not (tmp_path / "out").exists()


def test_without_slurm_and_without_submitit_it_is_said(file, tmp_path, capsys, monkeypatch):
    arguments = ("run", file, "--out", tmp_path / "out", "--launcher", "slurm")
    monkeypatch.setenv("PATH", "")
    status, _, error = call(capsys, *arguments, "--step-seconds", 1)
    assert (status, error.count("\n")) == (2, 1)
    assert 'Could not detect "srun"' in error
    monkeypatch.setitem(sys.modules, "submitit", None)
    status, _, error = call(capsys, *arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert "pip install 'entk[slurm]'" in error


def test_a_record_of_jobs_that_are_gone_stands_in_no_way(tmp_path):
    record = {"launcher": "local", "logs": "logs/001"}
    (tmp_path / jobs.FILE).write_text(json.dumps(record | {"jobs": [{"id": "x", "name": "a"}]}))
    ((name, job),) = jobs.recorded(tmp_path)
    assert (name, jobs.states([job])) == ("a", [(jobs.GONE, True)])
    mine = [{"id": str(os.getpid()), "name": "a"}]  # the number is another process by now
    (tmp_path / jobs.FILE).write_text(json.dumps(record | {"jobs": mine}))
    assert jobs.at_work(tmp_path) == []
    for damaged in ("[", "{}", "[1]", '{"launcher": "pbs", "logs": "x", "jobs": []}'):
        (tmp_path / jobs.FILE).write_text(damaged)
        with pytest.raises(UserError, match=r"jobs\.json is damaged"):
            jobs.recorded(tmp_path)
    assert jobs.recorded(tmp_path / "none") == []


@pytest.mark.slow
def test_two_commands_at_the_same_moment_submit_once(tmp_path, capsys):
    """The second comes while the first submits; jobs are not locked out by who waits for them."""
    file, out = tmp_path / "mini.toml", tmp_path / "out"
    file.write_text(TOML)
    arguments = ("run", file, "--out", out, "--launcher", "local", "--workers", 1)
    first = start(*arguments)
    until((out / ".lock").exists, first)
    status, said, error = call(capsys, *arguments)
    assert f"being written by another process ({first.pid} on " in error
    assert (status, said) == (2, "")
    said, error = first.communicate(timeout=400)
    assert first.returncode == 0, error
    assert said.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert [folder.name for folder in (out / "logs").iterdir()] == ["001"]


def test_a_queue_that_does_not_answer_counts_as_one_with_jobs(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    found = {"launcher": "slurm", "logs": "logs", "jobs": [{"id": "1_0", "name": "chaos"}]}
    (tmp_path / jobs.FILE).write_text(json.dumps(found))
    monkeypatch.setenv("PATH", "")
    assert jobs.at_work(tmp_path) == ["1_0"]
    with pytest.raises(UserError, match="1 jobs of an earlier command are queued or running"):
        jobs.check_idle(tmp_path)
