import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import time

import pytest

from twophase import cli, config, sweep
from twophase.errors import UserError
from twophase.rundir import RunDir
from twophase.sweep import Sweep

TOML = """
name = "mini"
arms = ["constant"]
data = { source = "digits", train = 200, test = 100 }
model = { name = "mlp", widths = [8] }
training = { steps = 12, batch = 32 }
chaos = { t0 = [0, 4, 8], eps = 1e-3, draws = 1, alphas = 3 }
kernels = { probe = 4, outputs = "trace", steps = [0, 4, 8, 12] }
cone = { tau = [4], lags = [4] }
linear = { switch = [0, 8], arm = "constant" }
"""
GRID = ("--grid", "training.rate=0.1,1e30", "--grid", "seed=0,1")
TABLES = ("train", "chaos", "barrier", "kernel", "cone_matrix", "linear")


def start(*arguments):
    command = [sys.executable, "-m", "twophase", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, start_new_session=True)


def wait_for(condition, process, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def call(capsys, *arguments):
    status = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "mini.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def done(file):
    """A sweep of 2 x 2 points, two of which diverge; killed once on its way."""
    out = file.parent / "out"
    process = start("sweep", file, *GRID, "--out", out, "--workers", 2)
    wait_for(lambda: list(out.glob("*/checkpoints/*/*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "report.html").exists()
    said, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
        cli.main(["sweep", str(file), *GRID, "--out", str(out), "--workers", "2"])
    return out, said.getvalue(), error.getvalue()


def test_every_point_is_an_ordinary_run_with_the_bits_of_one(done, tmp_path, perform):
    out, said, error = done
    names = {f"training.rate={r},seed={s}" for r in ("0.1", "1e+30") for s in (0, 1)}
    assert {p.name for p in out.iterdir() if p.is_dir()} == names | {"figures"}
    assert error.startswith("points: ")
    assert error.count("\n") == 1
    assert said.endswith(f"report: {out / 'report.html'}\n")
    run = RunDir.open(out / "training.rate=0.1,seed=1")
    assert run.report.exists()
    alone = RunDir.create(tmp_path / "alone", run.config)
    perform(alone, "chaos", "cone", "linear")
    for name in TABLES:
        assert alone.table(name).read_bytes() == run.table(name).read_bytes(), name


def test_points_that_diverge_are_recorded_and_stop_no_other(done):
    out, said, _ = done
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["training.rate"], r["seed"], r["state"]) for r in rows] == [
        *(("0.1", s, "finished") for s in "01"),
        *(("1e+30", s, "diverged") for s in "01"),
    ]
    assert {r["controls_exact"] for r in rows if r["state"] == "finished"} == {"True"}
    reason = (out / "training.rate=1e+30,seed=0" / "diverged.json").read_text()
    assert "training diverged" in reason
    assert "diverged: training diverged" in (out / "report.html").read_text()
    assert "ε = 0 twins: exactly 0" in said


def test_again_it_goes_on_from_the_directory_or_the_same_command(done, file, capsys):
    out = done[0]
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for what in ((file, *GRID, "--out", out), (out,)):
        status, said, error = call(capsys, "sweep", *what)
        assert (status, said) == (0, done[1])
        assert error.startswith("points: ")
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    table = capsys.readouterr() and call(capsys, "status", out)[1]
    assert "diverged" in table
    assert "6/6" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("{file}", "--grid", "seed=0,1", "--out", "{out}"),
            "holds another sweep (grid.training.rate",
        ),
        (("{file}", *GRID, "--set", "seed=3", "--out", "{out}"), "seed is 0 there, 3 here"),
        (("{file}", *GRID[2:], *GRID[:2], "--out", "{out}"), "grids in the order training.rate"),
        (("{out}", "--grid", "seed=5"), "is a sweep: its grid is settled"),
        (("{file}", "--out", "{new}"), "a sweep needs a grid: --grid KEY=V1,V2,..."),
        (("{file}", "--grid", "seed=0,-1", "--out", "{new}"), "point seed=-1: config: seed=-1"),
        (("{file}", *GRID, "--workers", "0", "--out", "{new}"), "--workers 0: expected"),
        (("{file}", *GRID, "--out", "{out}/training.rate=0.1,seed=0"), "holds a run, not a"),
        (("nowhere", *GRID), "'nowhere' is no preset"),
    ],
)
def test_mistakes_are_one_line_and_nothing_runs(done, file, tmp_path, capsys, arguments, said):
    new = tmp_path / "new"
    places = {"file": file, "out": done[0], "new": new}
    status, out, error = call(capsys, "sweep", *(a.format(**places) for a in arguments))
    assert (status, out) == (2, "")
    assert said in error
    assert error.startswith("twophase: ")
    assert error.count("\n") == 1
    assert not new.exists()


def test_report_of_several_runs_and_of_a_sweep(done, tmp_path, capsys, monkeypatch):
    out = done[0]
    runs = [out / f"training.rate=0.1,seed={s}" for s in (0, 1)]
    monkeypatch.chdir(tmp_path)
    status, said, _ = call(capsys, "report", *runs)
    assert (status, said.splitlines()[-1]) == (0, "report: runs/comparison/report.html")
    assert "seed (0, 1)" in (tmp_path / "runs/comparison/report.html").read_text()
    (out / "report.html").unlink()
    assert call(capsys, "report", out)[:2] == (0, done[1])
    assert (out / "report.html").exists()
    for arguments, said in (
        ((runs[0], tmp_path), "is no run directory"),
        ((out, "--out", "x"), "--out"),
        ((*runs, "--set", "seed=1"), "--set"),
        ((), "is no preset"),
    ):
        status, _, error = call(capsys, "report", *arguments)
        assert (status, error.count("\n")) == (2, 1)
        assert said in error


def test_ctrl_c_is_one_line_and_leaves_no_process(file, tmp_path):
    out = tmp_path / "out"
    sets = ("--set", "training.steps=100000", "--workers", 2)
    process = start("sweep", file, "--grid", "seed=0,1", *sets, "--out", out)
    wait_for(lambda: len(list(out.glob("*/checkpoints/*/*"))) > 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=180)  # returns once no worker holds the pipes
    assert process.returncode == 130
    assert error == "twophase: interrupted; the same command goes on from here\n"


def test_the_record_is_read_back_as_it_was(tmp_path):
    base = config.build({"name": 'a"b\n[data]', "data": {"source": "[x]"}})
    grid = {"model.widths": [[8], [8, 16]], "data.source": ['"', "é"], "seed": [0]}
    made = Sweep.create(tmp_path, base, grid)
    assert Sweep.open(tmp_path) == made
    (tmp_path / sweep.FILE).write_text("x = 1")
    with pytest.raises(UserError, match="is no record of a sweep"):
        Sweep.open(tmp_path)


def test_a_mistake_in_a_point_names_it(tmp_path):
    base = config.build({"data": {"source": str(tmp_path / "none.npz")}})
    run = RunDir.create(tmp_path / "seed=0", base)
    with pytest.raises(UserError, match=r"^point seed=0: "):
        sweep.follow(run, 1)


@pytest.mark.parametrize("verb", ["status", "report", "sweep"])
def test_a_point_of_another_config_is_named_by_every_command(file, tmp_path, capsys, verb):
    base = config.build(config.read(file))
    made = Sweep.create(tmp_path / "sweep", base, {"seed": [0, 1]})
    RunDir.create(made.path / "seed=1", base)
    status, out, err = call(capsys, verb, made.path)
    assert (status, out) == (2, "")
    assert "seed=1 holds a run with another config (name is 'mini' there" in err
    assert not list(made.path.glob("*.csv"))
