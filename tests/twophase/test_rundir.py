import errno
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from twophase import config
from twophase.disk import remove_stale, write_atomic
from twophase.errors import UserError
from twophase.rundir import FORMAT, RunDir


@pytest.fixture
def run(tmp_path, tiny):
    return RunDir.create(tmp_path / "run", tiny)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_same_config_opens_the_same_run(run, tiny):
    assert RunDir.create(run.path, tiny) == run
    assert RunDir.open(run.path).config == tiny


def test_another_config_is_refused_and_its_keys_are_named(run, values):
    other = config.build(values, ["training.steps=21", "seed=4"])
    with pytest.raises(UserError) as error:
        RunDir.create(run.path, other)
    assert "holds a run with another config" in str(error.value)
    assert "seed is 0 there, 4 here" in str(error.value)
    assert "training.steps is 20 there, 21 here" in str(error.value)


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run directory: it has no config\.toml"):
        RunDir.open(tmp_path)


def test_state_keeps_every_bit_and_says_where_it_stands(run):
    values = torch.tensor([1e-45, -0.0, 1 / 3, torch.inf])
    state = {"model.w": values, "model.n": torch.tensor(7)}
    path = run.checkpoint("schedule", 14)
    run.save_state(path, state, arm="schedule", step=14)
    loaded = run.load_state(path)
    assert loaded.keys() == state.keys()
    assert torch.equal(loaded["model.w"].view(torch.int32), values.view(torch.int32))
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    about = json.loads(json.loads(header[8 : 8 + length])["__metadata__"]["twophase"])
    assert len(about.pop("sha256")) == 64
    assert about == {
        "arm": "schedule",
        "rate": run.config.rate("schedule", 14),
        "seed": 0,
        "step": 14,
    }


def test_equal_states_are_equal_files(run):
    state = {f"model.{i}": torch.ones(3) * i for i in range(9)}
    paths = [run.path / name / "step-000003.safetensors" for name in ("a", "b")]
    for path in paths:
        run.save_state(path, state, arm="constant", step=3)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_damage_is_reported_with_the_file_and_the_way_out(run):
    path = run.checkpoint("schedule", 0)
    write_atomic(path, b"\x05\0\0\0")
    with pytest.raises(UserError, match=r"step-000000\.safetensors is damaged .* run again"):
        run.load_state(path)
    write_atomic(run.twin(0, 0), b"{")
    with pytest.raises(UserError, match=r"t0-000000-draw0\.json is damaged .* run again"):
        run.load_json(run.twin(0, 0))


def test_tables_keep_floats_and_empty_cells(run):
    run.save_table("train", ("a", "b"), [{"a": 0.1 + 0.2, "b": None}, {"a": 1e-300, "b": "x,y"}])
    assert run.table("train").read_text().startswith("a,b\n")
    first, second = run.load_table("train")
    assert float(first["a"]) == 0.1 + 0.2
    assert first["b"] == ""
    assert float(second["a"]) == 1e-300
    assert second["b"] == "x,y"


def test_a_run_of_another_format_is_refused_in_one_line(tmp_path):
    run = RunDir.create(tmp_path / "run", config.build({}))
    file = run.path / "config.toml"
    now = file.read_text()
    for old in (now.replace(f"format = {FORMAT}\n", ""), now.replace(str(FORMAT), "99", 1)):
        file.write_text(old)
        with pytest.raises(UserError, match=f"this twophase goes on with format {FORMAT} only"):
            RunDir.open(run.path)


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    names = {n: tmp_path / "deep" / f".a.csv.{n}.tmp" for n in (f"{host}.{dead.pid}", "other.1")}
    names[host] = tmp_path / f".a.csv.{host}.{os.getpid()}.tmp"
    (tmp_path / "deep").mkdir()
    for path in names.values():
        path.touch()
    remove_stale(tmp_path)
    assert {n for n, path in names.items() if path.exists()} == {"other.1", host}


def test_a_refusing_disk_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, b"old")
    for call, number in (("fsync", errno.EIO), ("replace", errno.ENOSPC)):

        def refuse(*_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(*((os, call, refuse) if call == "fsync" else (Path, call, refuse)))
            words = rf"a\.txt could not be written .*{os.strerror(number)}"
            with pytest.raises(UserError, match=words):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
