"""Bad command lines, configs and run directories: one line that names the offender, status 2."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from twophase import cli, config
from twophase.rundir import FORMAT, RunDir
from twophase.sweep import Sweep

SMALL = {"name": "small", "training": {"steps": 4}, "chaos": {"t0": [0]}}
SMALL |= {"kernels": {"steps": [0, 4]}, "cone": {"tau": [0], "lags": []}, "linear": {"switch": []}}

# the last batch of an epoch has one sample, and the last layers one pixel
DEEP = """training = { batch = 1346, steps = 2, milestones = [] }
model.widths = [3, 4, 5, 6]
kernels = { steps = [0, 2], probe = 4 }
chaos.t0 = []
cone = { tau = [0], lags = [] }
linear.switch = []
"""


class Bad(NamedTuple):
    """A command line, in a folder where `prepare` has been; words of its message."""

    line: str
    words: tuple[str, ...]
    prepare: Callable[[Path], Any] = lambda folder: None


def small(folder: Path) -> RunDir:
    return RunDir.create(folder / "run", config.build(SMALL))


def toml(text: str | bytes) -> Callable[[Path], Any]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "c.toml").write_bytes(content)


def edited(old: str, new: str, file: str = "config.toml") -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        path = small(folder).path / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def sweep(old: str, new: str) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        Sweep.create(folder / "sweep", config.build(SMALL), {"seed": [0, 1]})
        path = folder / "sweep" / "sweep.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def link_out(folder: Path) -> None:
    (folder / "secret").mkdir()
    (small(folder).path / "tables").symlink_to(folder / "secret")


def link_out_below(folder: Path) -> None:
    path = small(folder).path / "checkpoints" / "schedule"
    path.mkdir(parents=True)
    (folder / "secret").mkdir()
    (path / "more").symlink_to(folder / "secret")


def link_out_of_a_sweep(folder: Path) -> None:
    made = Sweep.create(folder / "sweep", config.build(SMALL), {"seed": [0, 1]})
    (folder / "secret").mkdir()
    (made.path / "seed=0").symlink_to(folder / "secret")


def pipe(folder: Path) -> None:
    os.mkfifo(small(folder).path / "report.json")


def damaged(kind: str) -> Callable[[Path], Any]:
    """A run whose first checkpoint is not what it should be."""

    def prepare(folder: Path) -> None:
        run = small(folder)
        path = run.checkpoint("schedule", 0)
        run.save_state(path, {"model.w": torch.ones(3)}, arm="schedule", step=0)
        content = path.read_bytes()
        if kind == "truncated":
            path.write_bytes(content[:-5])
        elif kind == "flipped":
            path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        elif kind == "of another step":
            run.save_state(
                path.with_name("step-000004.safetensors"),
                {"model.w": torch.ones(3)},
                arm="schedule",
                step=4,
            )
            path.write_bytes(path.with_name("step-000004.safetensors").read_bytes())
        elif kind == "header":
            path.write_bytes((2**40).to_bytes(8, "little") + content[8:])
        elif kind == "folder":
            path.unlink()
            path.mkdir()

    return prepare


LINES = {
    # command lines
    "no preset": Bad("run quikstart", ("'quikstart' is no preset", "quickstart")),
    "workers": Bad("run quickstart --workers 0", ("--workers 0: expected at least 1",)),
    "set without a value": Bad("run quickstart --set seed", ("--set 'seed': expected key=value",)),
    "set of a section": Bad("run quickstart --set training=3", ("training=3",)),
    "set below a value": Bad("run quickstart --set seed.x=3", ("seed={'x': 3}: input should be a valid integer",)),
    "status of nothing": Bad("status none", ("none is no run directory",)),
    "set of a run": Bad("train run --set seed=1", ("its config is settled",), small),
    "report of nothing": Bad("report", ("is no preset",)),
    "report twice": Bad("report run run", ("there twice",), small),
    # sweeps
    "no grid": Bad("sweep c.toml", ("a sweep needs a grid",), toml("seed = 1")),
    "grid without values": Bad("sweep quickstart --grid seed=", ("expected KEY=V1,V2",)),
    "grid of an unknown key": Bad("sweep quickstart --grid training.stepz=1,2", ("unknown key 'training.stepz'",)),
    "grid with a value twice": Bad("sweep quickstart --grid seed=1,1", ("1 is there twice",)),
    "grid twice": Bad("sweep quickstart --grid seed=1 --grid seed=2", ("seed has a grid already",)),
    "grid of names": Bad("sweep quickstart --grid name=a,b", ("the points get their names",)),
    "grid out of range": Bad("sweep quickstart --grid training.rate=0.1,-1", ("point training.rate=-1", "greater than 0")),
    "grid of broken lists": Bad("sweep quickstart --grid model.widths=[1,2", ("is no list of TOML values",)),
    "grid too large": Bad("sweep quickstart --grid seed=" + ",".join(map(str, range(200))) + " --grid training.batch=" + ",".join(map(str, range(1, 200))), ("39800 points, expected at most 10000",)),
    "record of a sweep changed": Bad("status sweep", ("sweep.toml was changed after the sweep began",), sweep("seed\" = [0, 1]", "seed\" = [0, 2]")),
    "record of a sweep without lists": Bad("status sweep", ("is no record of a sweep",), sweep("= [0, 1]", "= 3")),
    "record of a sweep without a grid": Bad("status sweep", ("is no record of a sweep",), sweep("[grid]", "[grids]")),
    # files
    "no TOML": Bad("run c.toml", ("config c.toml: not readable as TOML",), toml("a = = 1")),
    "TOML with a key twice": Bad("run c.toml", ("not readable as TOML",), toml("seed = 1\nseed = 2")),
    "TOML with a section twice": Bad("run c.toml", ("not readable as TOML",), toml("[data]\n[data]\n")),
    "TOML that is no UTF-8": Bad("run c.toml", ("not readable as TOML",), toml(b"name = \"\xff\"")),
    "TOML with a BOM": Bad("run c.toml", ("not readable as TOML",), toml("\ufeff= 1")),
    "TOML nested deep": Bad("run c.toml", ("not readable as TOML (nested too deep)",), toml("a = " + "[" * 50_000)),
    "TOML of a huge number": Bad("run c.toml", ("not readable as TOML",), toml("seed = " + "9" * 10_000)),
    "TOML of a huge size": Bad("run c.toml --set seed=-1", ("2000000 bytes; expected at most 1048576",), toml(b"#" * 2_000_000)),
    "TOML with 1e999": Bad("run c.toml", ("training.rate", "finite number"), toml("[training]\nrate = 1e999")),
    "TOML with a wrong type": Bad("run c.toml", ("training.steps='many'", "valid integer"), toml("[training]\nsteps = 'many'")),
    "TOML with a date": Bad("run c.toml", ("seed='2020-01-01'",), toml("seed = 2020-01-01")),
    "TOML with an unknown section": Bad("run c.toml", ("unknown key 'trainings'",), toml("[trainings]\nsteps = 1")),
    "name that leads away": Bad("train c.toml", ("name='../../away' is no name of a folder",), toml("name = '../../away'")),
    "absolute name": Bad("train c.toml", ("name='/tmp/away' is no name of a folder",), toml("name = '/tmp/away'")),
    "hidden name": Bad("train c.toml", ("name='.ssh' is no name of a folder",), toml("name = '.ssh'")),
    "name with NUL": Bad("train c.toml", ("is no name of a folder",), toml('name = "a\\u0000b"')),
    "sweep run as a run": Bad("run sweep", ("sweep is a sweep", "twophase sweep sweep"), lambda f: Sweep.create(f / "sweep", config.build(SMALL), {"seed": [0, 1]})),
    "setting of no letters": Bad("run quickstart --set name=\udcff", ("--set 'name=\\udcff': it is no UTF-8",)),
    "name of a sweep that leads away": Bad("sweep c.toml --grid seed=0,1", ("is no name of a folder",), toml("name = '../x'")),
    "long name": Bad("train c.toml", ("File name too long",), toml(f"name = '{'x' * 300}'")),
    # folders
    "file in the folder's place": Bad("train quickstart --out c.toml", ("File exists",), toml("")),
    "file above the folder": Bad("train quickstart --out c.toml/run", ("Not a directory",), toml("")),
    "full disk": Bad("train quickstart --out /dev/full/run", ("Not a directory",)),
    "run of a newer version": Bad("train run", ("is a run of format 9", f"format {FORMAT} only"), edited(f"format = {FORMAT}", "format = 9")),
    "run without a version": Bad("train run", ("is a run of format 1",), edited(f"format = {FORMAT}\n", "")),
    "run whose config was changed": Bad("train run", ("config.toml was changed after the run began",), edited("steps = 4", "steps = 5")),
    "run with a link out": Bad("train run", ("run/tables is a link out of the run directory",), link_out),
    "run with a link out below": Bad("train run", ("schedule/more is a link out of the run directory",), link_out_below),
    "sweep with a link out": Bad("sweep sweep", ("seed=0 is a link out of the run directory",), link_out_of_a_sweep),
    "run with a pipe": Bad("train run", ("run/report.json is neither a file nor a folder",), pipe),
    "truncated checkpoint": Bad("train run", ("step-000000.safetensors is damaged", "delete it and run again"), damaged("truncated")),
    "flipped checkpoint": Bad("train run", ("step-000000.safetensors is damaged (its checksum is wrong)",), damaged("flipped")),
    "checkpoint of another step": Bad("train run", ("is damaged (its checksum is wrong)",), damaged("of another step")),
    "checkpoint with a huge header": Bad("train run", ("step-000000.safetensors is damaged",), damaged("header")),
    "folder as a checkpoint": Bad("train run", ("step-000000.safetensors is damaged",), damaged("folder")),
    # data
    "no data": Bad("train quickstart --out o --set data.source=none", ("data.source='none': expected digits", "there is none at /")),
    "no such npz": Bad("train quickstart --out o --set data.source=none.npz", ("not readable as .npz (there is no such file, looked for at /",)),
    "own data": Bad("train quickstart --out o --set data.source=own", ("own training is what",)),
    "batch of one sample": Bad("train c.toml", ("step 1 has a batch of 1 of 1347 samples", "choose another training.batch"), toml(DEEP)),
    "empty folder of images": Bad("train quickstart --out o --set data.source=empty", ("data.source='empty'",), lambda f: (f / "empty").mkdir()),
}  # fmt: skip


VALUES = (
    ("seed=-1", "greater than or equal to 0"),
    ("arms=[]", "at least 1 item"),
    ("device=tpu", "'cpu' or 'cuda'"),
    ("data.pad=0", "greater than or equal to 1"),
    ("data.label_noise=nan", "finite number"),
    ("data.train=0", "greater than or equal to 1"),
    ("model.widths=[0]", "greater than or equal to 1"),
    ("model.init_scale=0.0", "greater than 0"),
    ("training.steps=2000000000", "less than or equal to 1000000000"),
    ("training.rate=1e39", "less than or equal to 1000000"),
    ("training.gamma=0", "greater than 0"),
    ("training.weight_decay=-1e-9", "greater than or equal to 0"),
    ("chaos.eps=-1", "greater than or equal to 0"),
    ("chaos.eps=inf", "finite number"),
    ("chaos.draws=1000000000", "less than or equal to 10000"),
    ("chaos.alphas=1000000000", "less than or equal to 10000"),
    ("chaos.kind=uniform", "'gaussian'"),
    ("kernels.probe=0", "greater than or equal to 1"),
    ("kernels.memory=1TB", "match pattern"),
    ("kernels.by_layer=1", "valid boolean"),
    ("cone.tau=[-1]", "greater than or equal to 0"),
    ("linear.rate_factor=0", "greater than 0"),
    ("linear.variants=['x']", "match pattern"),
)
LINES |= {f"--set {value}": Bad(f"train quickstart --out o --set {value}", (words,)) for value, words in VALUES}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_command_line_ends_in_one_line_and_status_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line, words, prepare = LINES[name]
    prepare(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main([*line.split(), *([] if "status" in line or "--workers" in line else ["--workers", "1"])])  # fmt: skip
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    message = err.removeprefix("train: exists\n")
    assert message.startswith("twophase: ")
    assert message.count("\n") == 1
    assert len(message) < 400
    for word in words:
        assert word in message
    assert not (tmp_path.parent / "away").exists()
    assert not list(tmp_path.glob("secret/*"))


def test_a_config_of_a_run_is_the_start_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (small(tmp_path).path / "config.toml").read_text().replace("steps = 4", "steps = 5")
    Path("c.toml").write_text(text)
    with pytest.raises(SystemExit):
        cli.main(["train", "c.toml", "--out", "run", "--workers", "1"])
    assert tomllib.loads(Path("run/config.toml").read_text())["training"]["steps"] == 4
