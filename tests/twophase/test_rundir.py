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


@pytest.mark.parametrize(
    "name", ["sweep.toml", "report.json", "tables/chaos.csv", "kernels/schedule/step-000000.h5"]
)
def test_a_run_does_not_begin_among_the_results_of_something_else(tmp_path, tiny, name):
    file = tmp_path / name
    write_atomic(file, b"")
    (tmp_path / "mine.toml").write_text("")  # of the user's
    with pytest.raises(UserError, match=f"has no config.toml, and {name} of something else"):
        RunDir.create(tmp_path, tiny)
    assert not (tmp_path / "config.toml").exists()
    file.unlink()
    RunDir.create(tmp_path, tiny)


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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"model.a"', b'"model.A"'),
        (b"[2,3]", b"[3,2]"),
        (b'"F32"', b'"I32"'),
        (rb"step\": 14", rb"step\": 15"),
        (rb"seed\": 0", rb"seed\": 1"),
        (b"\x00\x00\x80?", b"\x00\x00\x80@"),
    ],
)
def test_a_checkpoint_that_was_edited_is_noticed(run, old, new):
    """A name, a shape, a type, what is said about it, a number."""
    path = run.checkpoint("schedule", 14)
    state = {"model.a": torch.tensor([[1.0, 0, 0], [0, 2, 0]]), "model.b": torch.zeros(2, 3)}
    run.save_state(path, state, arm="schedule", step=14)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(UserError, match="its checksum is wrong"):
        run.load_state(path)


def test_a_checkpoint_of_a_run_with_another_seed_is_refused(run, tmp_path, values):
    path = run.checkpoint("schedule", 14)
    RunDir.create(tmp_path / "other", config.build(values, ["seed=4"])).save_state(
        path, {}, arm="schedule", step=14
    )
    with pytest.raises(UserError, match="it is of a run with seed 4"):
        run.load_state(path)


def test_records_and_tables_that_were_changed_or_exchanged_are_noticed(run):
    for draw in (0, 1):
        run.save_record(run.twin(0, draw), {"chaos": [draw]})
    for name in ("train", "chaos"):
        run.save_table(name, ("a",), [{"a": len(name)}])
    assert run.load_record(run.twin(0, 1)) == {"chaos": [1]}
    one, two = (run.twin(0, draw).read_bytes() for draw in (0, 1))
    for content in (one, two.replace(b"chaos", b"chaoz")):  # the first is of the other twin
        run.twin(0, 1).write_bytes(content)
        with pytest.raises(UserError, match="its checksum is wrong"):
            run.load_record(run.twin(0, 1))
    files = [(run.table(n), run.table(n).with_suffix(".csv.sha256")) for n in ("train", "chaos")]
    for mine, other in zip(*files, strict=True):  # with its checksum, which has the name
        mine.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=r"train\.csv\.sha256 says otherwise"):
        run.load_table("train")
    run.table("chaos").write_text("a\n6\n")
    with pytest.raises(UserError, match=r"chaos\.csv\.sha256 says otherwise"):
        run.load_table("chaos")


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run):
    path = run.twin(0, 0)
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="there is no such file"):
        run.load_record(path)


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
    deep = tmp_path / "deep"
    names = {n: deep / f".a.csv.{n}.{dead.pid}.tmp" for n in (host, "other")}
    names["this one"] = tmp_path / f".a.csv.{host}.{os.getpid()}.tmp"
    names["no process"] = tmp_path / f".a.csv.{host}.{10**20}.tmp"
    deep.mkdir()
    for path in names.values():
        path.touch()
    remove_stale(tmp_path)
    assert {n for n, path in names.items() if path.exists()} == {"other", "this one"}


def test_folders_that_vanish_while_they_are_looked_at_are_passed_over(run, monkeypatch):
    scan, left = os.scandir, [run.path / "underway" / "chaos", run.path / "logs"]
    for folder in left:
        folder.mkdir(parents=True)

    def then_remove(folder):
        found = list(scan(folder))
        while left:
            left.pop().rmdir()
        return found

    monkeypatch.setattr(os, "scandir", then_remove)
    assert RunDir.open(run.path) == run
    assert left == []


def test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends(tmp_path, disk_calls):
    """The order that survives a loss of power; tests/torture replays one."""
    path = tmp_path / "a.txt"
    write_atomic(path, b"new")
    temporary, name, folder = disk_calls
    assert temporary.name.startswith(".a.txt.")
    assert (name, folder) == (path, tmp_path)


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
