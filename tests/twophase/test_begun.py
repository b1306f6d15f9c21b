"""Studies of something else, and directories that two commands begin at once."""

import shutil
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import entk
import twophase
from twophase import belongs, config, rundir
from twophase.errors import UserError
from twophase.rundir import RunDir
from twophase.sweep import Sweep


class Net(nn.Module):
    """`kind` is no part of its text, as what `forward` does is none."""

    def __init__(self, kind="tanh"):
        super().__init__()
        self.one, self.two, self.kind = nn.Linear(3, 4), nn.Linear(4, 2), kind

    def forward(self, x):
        return self.two(getattr(torch, self.kind)(self.one(x)))


class Wide(Net):
    def extra_repr(self):
        return "wide"


X = torch.randn(8, 3, generator=torch.manual_seed(1))
Y = torch.arange(8) % 2


def record(folder, seed=0, steps=range(5)):
    torch.manual_seed(seed)
    recorder = twophase.Recorder(folder, steps=range(5))
    for step in steps:
        recorder(step, Net())


def study(folder, build=Net, y=Y, test=(X, Y), settings=()):
    settings = ["kernels.probe=4", *settings]
    return twophase.Study(
        folder / "study", folder / "own", build, train=(X, y), test=test, settings=settings
    )


ELSE = {
    "training": "checkpoints (0, 1, 2, 3, ...) and network (outputs)",
    "checkpoint": "checkpoints (2)",
    "labels": "data (y_train)",
    "test": "data (x_test)",
    "network": "network (outputs)",
    "class": "network (class, repr)",
}


@pytest.mark.parametrize("what", ELSE)
def test_a_study_of_something_else_is_not_gone_on_with(tmp_path, what):
    record(tmp_path / "own")
    study(tmp_path).cone()
    before = {p: p.read_bytes() for p in (tmp_path / "study").rglob("*") if p.is_file()}
    shutil.copytree(tmp_path / "own", tmp_path / "kept")
    options = {
        "labels": {"y": 1 - Y},
        "test": {"test": (X + 1, Y)},
        "network": {"build": lambda: Net("relu")},
        "class": {"build": Wide},
    }
    if what == "training":
        shutil.rmtree(tmp_path / "own")
    if what in ("training", "checkpoint"):
        record(tmp_path / "own", seed=7, steps=range(5) if what == "training" else [2])
    with pytest.raises(UserError) as error:
        study(tmp_path, **options.get(what, {}))
    assert str(error.value) == (
        f"{tmp_path / 'study'} was begun with other {ELSE[what]}; put back what it was begun with, "
        "choose another folder, or delete this one"
    )
    shutil.rmtree(tmp_path / "own")
    shutil.move(tmp_path / "kept", tmp_path / "own")
    study(tmp_path).cone()
    after = {p: p.read_bytes() for p in before if p.name != "environment.json"}
    assert after == {p: b for p, b in before.items() if p.name != "environment.json"}


def test_a_study_of_an_earlier_version_is_taken_as_it_is(tmp_path):
    record(tmp_path / "own")
    made = study(tmp_path)
    made.run.belongs.unlink()
    study(tmp_path, y=1 - Y).cone()
    assert not made.run.belongs.exists()


def test_outputs_may_differ_by_rounding_only():
    old = [[1.0, -3.0]]
    assert belongs._close(old, [[1.0 + 1e-4, -3.0]])
    assert not belongs._close(old, [[1.0 + 1e-2, -3.0]])
    assert not belongs._close(old, [[1.0, -3.0, 0.0]])
    assert not belongs._close(None, old)


MADE = {
    "run": "RunDir.create(out, config.build({'seed': SEED}))",
    "sweep": "Sweep.create(out, config.build({'name': f'n{SEED}'}), {'seed': [0, 1]})",
    "study": "test_begun.study(out.parent, settings=['seed=SEED'])",
}
BEGUN = """
import sys, time
from pathlib import Path
from tests.twophase import test_begun
from twophase import config, rundir, sweep
from twophase.rundir import RunDir
from twophase.sweep import Sweep
out, write = Path(sys.argv[1]), rundir.write_atomic
def slow(path, content):  # a busy disk
    if path.suffix == ".toml":
        (out.parent / "writing").touch()
        while not (out.parent / "go").exists():
            time.sleep(0.01)
    write(path, content)
rundir.write_atomic = sweep.write_atomic = slow
"""


@pytest.mark.parametrize("kind", MADE)
def test_of_two_that_begin_at_once_one_is_told(tmp_path, kind):
    record(tmp_path / "own")
    out = tmp_path / kind
    code = BEGUN + MADE[kind].replace("SEED", "1")
    first = subprocess.Popen([sys.executable, "-c", code, str(out)])
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "writing").exists():
            assert time.monotonic() < end
            assert first.poll() is None
            time.sleep(0.01)
        names = {"config": config, "RunDir": RunDir, "Sweep": Sweep, "out": out}
        names["test_begun"] = sys.modules[__name__]
        second = MADE[kind].replace("SEED", "2")
        said = f"is being written by another process .{first.pid} on "
        with pytest.raises(entk.LockedError, match=said):
            exec(second, names)
    finally:
        (tmp_path / "go").touch()
        assert first.wait(60) == 0
    with pytest.raises(UserError, match=r"holds (a run with another config|another sweep)"):
        exec(second, names)
    exec(MADE[kind].replace("SEED", "1"), names)


def test_who_waited_for_the_lock_looks_again(tmp_path, tiny, values, monkeypatch):
    """Another has begun after the first look, and is through before the lock is asked for."""
    alone, other = rundir.alone, config.build(values, ["seed=4"])

    def late(path):
        monkeypatch.setattr(rundir, "alone", alone)
        RunDir.create(path, other)
        return alone(path)

    monkeypatch.setattr(rundir, "alone", late)
    with pytest.raises(UserError, match="seed is 4 there, 0 here"):
        RunDir.create(tmp_path / "run", tiny)
    assert RunDir.open(tmp_path / "run").config == other
