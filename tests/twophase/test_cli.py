import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from twophase import cli, config
from twophase.disk import printing
from twophase.presets import PRESETS
from twophase.rundir import RunDir


@pytest.fixture
def twophase(capsys):
    """Run the command line in this process: exit status, stdout, stderr."""

    def call(*arguments):
        status = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return call


@pytest.fixture
def file(tmp_path, tiny):
    path = tmp_path / "tiny.toml"
    path.write_text(config.dump(tiny))
    return path


def test_a_stage_from_a_file_and_again_from_the_run(twophase, file, tmp_path, finished):
    out = tmp_path / "out"
    done = twophase("train", file, "--out", out, "--workers", 1)
    assert done.status == 0
    assert done.err.startswith("train: ")
    assert done.err.endswith(" s\n")
    assert done.out == ""
    again = twophase("train", out)
    assert (again.status, again.err) == (0, "train: exists\n")
    assert (out / "config.toml").read_text() == (finished.path / "config.toml").read_text()


def test_default_directory_is_named_after_the_run(twophase, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = ("--set", "training.steps=2", "--set", "training.milestones=[]", "--set", "chaos.t0=[0]")
    sets += ("--set", "chaos.t1=[]", "--set", "kernels.steps=[0]", "--set", "cone.tau=[0]")
    sets += ("--set", "linear.switch=[]", "--set", "cone.lags=[]", "--set", "name=other")
    assert twophase("train", file, *sets).status == 0
    assert RunDir.open(tmp_path / "runs" / "other").config.training.steps == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("quikstart",), f"'quikstart' is no preset ({', '.join(PRESETS)})"),
        (("quickstart", "--set", "training.stepz=3"), "config: unknown key 'training.stepz'"),
        (("quickstart", "--set", "training.steps=x"), "config: training.steps='x': input should"),
        (("quickstart", "--set", "training.steps"), "--set 'training.steps': expected key=value"),
        (("quickstart", "--workers", "0"), "--workers 0: expected at least 1"),
        (("bad.toml",), "config bad.toml: not readable as TOML"),
        (("run", "--set", "seed=1"), "run is a run: its config is settled"),
        (("run", "--out", "x"), "run is a run: its config is settled"),
        (
            ("other.toml", "--out", "run"),
            "holds a run with another config (seed is 0 there, 5 here)",
        ),
        (
            ("other.toml", "--out", "bad.toml"),
            "bad.toml could not be written (File exists)",
        ),
        (("empty",), "empty' is no preset"),
    ],
)
def test_users_mistakes_are_one_line_and_status_2(
    twophase, tmp_path, tiny, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    RunDir.create(tmp_path / "run", tiny)
    (tmp_path / "bad.toml").write_text("= 3")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.toml").write_text(config.dump(tiny).replace("seed = 0", "seed = 5"))
    done = twophase("train", *arguments)
    assert done.status == 2
    assert done.out == ""
    assert said in done.err
    assert done.err.startswith("twophase: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("fly",), ("run",), ("run", "quickstart", "--wrkers", "1")])
def test_a_wrong_command_line_is_status_2(twophase, arguments):
    assert twophase(*arguments).status == 2


def test_a_fault_of_the_program_keeps_its_traceback(twophase, file, tmp_path, monkeypatch):
    monkeypatch.setattr("twophase.train.stage", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        twophase("train", file, "--out", tmp_path / "out")


def test_interruption_says_how_to_go_on(twophase, file, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("twophase.train.stage", interrupt)
    done = twophase("train", file, "--out", tmp_path / "out")
    assert done.status == 130
    assert done.err == "twophase: interrupted; the same command goes on from here\n"


def test_status_shows_what_exists(twophase, finished, tmp_path, tiny):
    lines = twophase("status", finished.path).out.splitlines()
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in lines if "│" in line]
    found = {c[0]: c[1:] for c in cells}
    assert found["train"] == ["yes", "19/19"]
    assert found["chaos"] == ["yes", "10/10"]
    assert found["report"] == ["no", "0/2"]
    run = RunDir.create(tmp_path / "new", tiny)
    assert "0/19" in twophase("status", run.path).out
    missing = twophase("status", tmp_path / "none")
    assert (missing.status, missing.err.count("\n")) == (2, 1)


def test_help_names_every_verb(twophase):
    out = twophase("--help").out
    for verb in ("run", "train", "chaos", "kernels", "cone", "linear", "report", "status"):
        assert verb in out


def results(run):
    """Everything but the record of machine and time, and what a kill left half-written."""
    found = (p for p in run.path.rglob("*") if p.is_file())
    kept = (p for p in found if p.name not in ("log.jsonl", "environment.json"))
    return {p.relative_to(run.path): p.read_bytes() for p in kept if p.suffix != ".tmp"}


def start(*arguments):
    command = [sys.executable, "-m", "twophase", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def test_killed_again_and_again_it_ends_with_the_same_bits(file, tmp_path, finished):
    """kill -9 of the whole group at random moments after each further file."""
    out, chance, kills = tmp_path / "out", random.Random(0), 0
    for stage, pattern in (
        ("chaos", "checkpoints/*/step-*"),
        ("chaos", "chaos/*.json"),
        ("kernels", "kernels/*/*"),
        ("linear", "linear/*/*.json"),
    ):
        process = start(stage, file, "--out", out)
        wait_for(lambda p=pattern: list(out.glob(p)), process)
        time.sleep(chance.random() * 0.1)
        kills += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert kills == 4
    for stage in ("chaos", "cone", "linear"):
        process = start(stage, file, "--out", out)
        assert process.wait(120) == 0, process.stderr.read()
    found, expected = results(RunDir.open(out)), results(finished)
    names = sorted(str(name) for name in found.keys() | expected.keys())
    assert [n for n in names if found.get(Path(n)) != expected.get(Path(n))] == []


def test_ctrl_c_with_workers_is_one_line_and_leaves_no_process(file, tmp_path):
    out, log = tmp_path / "out", tmp_path / "out" / "log.jsonl"
    sets = ("--set", "training.steps=800", "--workers", "2")
    process = start("chaos", file, "--out", out, *sets)
    wait_for(lambda: log.exists() and '"stage": "chaos"' in log.read_text(), process)
    time.sleep(random.Random(0).random())
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    first, *rest, second = err.splitlines()
    assert first.startswith("train: ")
    assert rest == []
    assert second == "twophase: interrupted; the same command goes on from here"

    def gone():
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    end = time.monotonic() + 20
    while not gone():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_parent_killed_takes_its_workers_along(file, tmp_path):
    out, log = tmp_path / "out", tmp_path / "out" / "log.jsonl"
    process = start("chaos", file, "--out", out, "--set", "training.steps=800", "--workers", "2")
    wait_for(lambda: log.exists() and '"stage": "chaos"' in log.read_text(), process)
    time.sleep(1)
    process.kill()
    process.communicate(timeout=60)  # returns once no worker holds the pipes


def test_what_cannot_be_printed_is_one_line_and_status_2(tiny, tmp_path):
    run = RunDir.create(tmp_path / "run", tiny)
    command = [sys.executable, "-m", "twophase", "status", run.path]
    settings = {"env": os.environ | {"PYTHONUNBUFFERED": ""}, "text": True}
    with open("/dev/full", "w") as out:  # noqa: PTH123
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, **settings)
    assert done.stderr == "twophase: [Errno 28] No space left on device: 'standard output'\n"
    assert done.returncode == 2


def test_letters_that_the_output_has_not_are_escaped():
    code = "from twophase import disk\nwith disk.printing(): print('ε = 0 twins')"
    settings = {"env": os.environ | {"PYTHONIOENCODING": "ascii"}, "text": True}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, **settings)
    assert (done.returncode, done.stdout) == (0, "\\u03b5 = 0 twins\n"), done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])  # at the last flush, or where it is printed
@pytest.mark.parametrize("command", ["status", "--help"])
def test_output_that_nobody_reads_ends_without_a_word(tiny, tmp_path, command, unbuffered):
    run = RunDir.create(tmp_path / "run", tiny)
    end, out = os.pipe()
    os.close(end)
    line = [sys.executable, "-m", "twophase", command, *([run.path] if command == "status" else [])]
    settings = {"env": os.environ | {"PYTHONUNBUFFERED": unbuffered}, "text": True}
    done = subprocess.run(line, stdout=out, stderr=subprocess.PIPE, **settings)
    os.close(out)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_another_pipe_that_is_broken_is_no_end_without_a_word(capfd):
    with pytest.raises(BrokenPipeError), printing():
        raise BrokenPipeError
