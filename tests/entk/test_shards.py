"""What is joined from shards is read back whole, and goes on as it began."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from pathlib import Path

import h5py
import pytest
import torch

import entk
import entk.shards
import entk.store
import entk.write
from entk.store import created, publish
from tests.entk.test_store import begun, request


@pytest.mark.parametrize("name", ["kernel", "layers/0"])
@pytest.mark.parametrize("place", ["first", "middle"])
def test_a_byte_lost_on_the_way_to_the_file_is_noticed(tmp_path, monkeypatch, name, place):
    """By the seal, or in the middle of a chunk of 1600 bytes by the chunk's own checksum; the
    shards stay, and the next call joins them."""
    model, x, _, plan = request(block=5)
    path, real = tmp_path / "k.h5", h5py.File

    def damaged(file, mode="r", **options):
        if mode == "r" and file.name == ".k.h5.tmp":
            with real(file) as whole:
                chunk = whole[name].id.get_chunk_info(0)
            content = bytearray(file.read_bytes())
            content[chunk.byte_offset + (place == "middle") * chunk.size // 2] ^= 1
            file.write_bytes(content)
        return real(file, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(entk.shards.h5py, "File", damaged)
        with pytest.raises(entk.KernelFileError, match="finished shards are kept"):
            entk.write_ntk(path, model, x, plan=plan, by_layer=True)
    assert not path.exists()
    with entk.write_ntk(path, model, x, by_layer=True) as file:
        layers = entk.ntk(model, x, plan=plan, by_layer=True)
        assert torch.equal(file[:], sum(layers.values()).reshape(file.shape))


def test_a_shard_that_does_not_hold_what_was_computed_is_not_kept(tmp_path, monkeypatch):
    """Another number with a checksum that is right, as from memory that forgets."""
    model, x, _, plan = request()
    real = h5py.File

    def other(file, mode="r", **options):
        if mode == "r" and file.name.startswith("shard-") and file.suffix == ".tmp":
            with real(file, "r+") as shard:
                shard["000000-000000/kernel"][0] = 7.0
        return real(file, mode, **options)

    monkeypatch.setattr(entk.shards.h5py, "File", other)
    with pytest.raises(entk.KernelFileError, match="does not read back as it was written"):
        entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan)
    assert not list((tmp_path / "k.h5.parts").glob("shard-*.h5"))


def test_another_backend_does_not_go_on_with_it(tmp_path, monkeypatch):
    model, x, _, plan = begun(tmp_path, monkeypatch)
    monkeypatch.setattr(entk.write, "choose_backend", lambda name, *_: name)  # as if it could serve
    with pytest.raises(entk.ResumeError, match=f"began with backend='{plan.backend}', not"):
        entk.write_ntk(tmp_path / "k.h5", model, x, backend="triton")
    entk.write_ntk(tmp_path / "k.h5", model, x, backend=plan.backend).close()


def test_an_error_keeps_what_was_computed(tmp_path):
    model, x, _, plan = request(block=1)
    path = tmp_path / "k.h5"
    calls = []

    def progress(done, total):
        calls.append(done)
        if done == 4:
            raise RuntimeError("from a user's own function")

    with pytest.raises(RuntimeError, match="a user's own"):
        entk.write_ntk(path, model, x, plan=plan, progress=progress)
    done = []
    entk.write_ntk(path, model, x, progress=lambda n, total: done.append(n)).close()
    assert max(calls) == 4
    assert 4 in done[:2]  # the first report counts what was there


def test_shards_are_written_beside_the_computation(tmp_path, monkeypatch):
    """In a thread of their own: the next tile is under way before the last is on the disk."""
    model, x, _, plan = request(block=2)
    monkeypatch.setattr(entk.shards, "SHARD_SECONDS", -1)
    computed, written = threading.Event(), []
    real = entk.shards.publish

    def publish(temporary, final):
        if final.name.startswith("shard-") and not written:
            assert computed.wait(60)
        written.append(threading.current_thread().name)
        real(temporary, final)

    monkeypatch.setattr(entk.shards, "publish", publish)

    def progress(done, total):
        if done == 1:  # handed over, and not yet written
            computed.set()

    with entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan, progress=progress) as file:
        assert torch.equal(file[:], entk.ntk(model, x, plan=plan).reshape(file.shape))
    assert any(name.startswith("entk-shards") for name in written)


@pytest.mark.parametrize("resume", [True, False])
def test_shards_without_their_request_are_not_taken(tmp_path, monkeypatch, resume):
    """A kill while old shards are removed must not pass them on to another request."""
    model, x, _, plan = begun(tmp_path, monkeypatch)
    path = tmp_path / "k.h5"
    (tmp_path / "k.h5.parts" / "request.json").unlink()
    with entk.write_ntk(path, model, x + 1, plan=plan, resume=resume) as file:
        assert torch.equal(file[:], entk.ntk(model, x + 1, plan=plan).reshape(file.shape))
    assert not (tmp_path / "k.h5.parts").exists()


@pytest.mark.parametrize("refused", ["write", "truncate"])
def test_what_the_disk_refuses_is_raised_when_the_file_is_closed(tmp_path, refused, monkeypatch):
    """HDF5 2.0 crashes if it hears of it in between."""

    class Full(io.FileIO):
        def refuse(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    setattr(Full, refused, Full.refuse)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Full(path, "w+"))
    with pytest.raises(OSError, match="No space left"), created(tmp_path / "a.h5") as file:
        file["a"] = torch.ones(3).numpy()


def test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends(tmp_path, disk_calls):
    """The order that survives a loss of power; tests/torture replays one."""
    (tmp_path / "a.tmp").write_bytes(b"new")
    publish(tmp_path / "a.tmp", tmp_path / "a.h5")
    assert [path.name for path in disk_calls] == ["a.tmp", "a.h5", tmp_path.name]


@pytest.mark.parametrize("at", [1, 3, 9])
def test_ctrl_c_during_the_join(at, tmp_path, monkeypatch):
    """It ends the call as it does elsewhere, once the file is whole: HDF5 is not interrupted."""
    real, writes = entk.store._Disk.write, []

    def write(disk, data):
        if Path(disk.raw.name).name.startswith("."):  # the file, not a shard
            writes.append(len(data))
            if len(writes) == at:
                os.kill(os.getpid(), signal.SIGINT)
        return real(disk, data)

    monkeypatch.setattr(entk.store._Disk, "write", write)
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 2), torch.randn(5, 3)
    with pytest.raises(KeyboardInterrupt):
        entk.write_ntk(tmp_path / "k.h5", model, x)
    with entk.open_kernel(tmp_path / "k.h5") as file:
        assert torch.equal(file[:], entk.ntk(model, x).view(10, 10))
