"""Kernels on disk: same numbers, resumable after kill -9 bit for bit, plain HDF5, guarded."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import entk
import entk.shards
import entk.write
from entk.factors import OUTPUTS
from tests.cases import CASES

BY_NAME = {case.name: case for case in CASES}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def request(outputs: str = "all", block: int = 2):
    model, x, z = BY_NAME["vgg"].make(torch.float32)
    plan = entk.plan_ntk(model, x, outputs=outputs, block=block, memory="1GB")
    return model, x, z, plan


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("square", [True, False])
def test_equals_ntk(tmp_path, outputs, by_layer, square):
    model, x, z, _ = request()
    other = None if square else z
    plan = entk.plan_ntk(model, x, other, outputs=outputs, block=2)
    expected = entk.ntk(model, x, other, outputs=outputs, plan=plan, by_layer=by_layer)
    whole = sum(expected.values()) if by_layer else expected
    options = {"outputs": outputs, "plan": plan, "by_layer": by_layer}
    with entk.write_ntk(tmp_path / "k.h5", model, x, other, **options) as file:
        shape = (20, (20 if square else 12)) if outputs == "all" else whole.shape
        assert file.shape == shape
        assert torch.equal(file[:], whole.reshape(shape))
        assert file.layers == (tuple(expected) if by_layer else ())
        for layer in file.layers:
            assert torch.equal(file.layer(layer), expected[layer].reshape(shape))
        assert file.plan == plan
    assert not (tmp_path / "k.h5.parts").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["k.h5"]


def test_plain_hdf5_with_provenance(tmp_path):
    model, x, _, plan = request()
    entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan).close()
    with h5py.File(tmp_path / "k.h5") as file:
        assert file["kernel"].shape == (20, 20)
        assert file["kernel"].dtype == np.float32
        assert file["kernel"].chunks == (8, 8)
        assert file["kernel"].fletcher32
        told = json.loads(file.attrs["provenance"])
    assert told["outputs"] == "all"
    assert told["dtype"] == "float32"
    assert told["request"]["model"] == "Sequential"
    assert told["request"]["parameters"] == [n for n, _ in model.named_parameters()]
    assert len(told["request"]["state_sha256"]) == len(told["request"]["x_sha256"]) == 64
    assert set(told["versions"]) == {"entk", "torch", "numpy", "h5py", "python"}


def test_slices_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(entk.store, "BAND", 45)
    model, x, _, plan = request()
    with entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan) as file:
        whole = file[:]
        for index in ((slice(3, 7), slice(2, 11)), 3, (3, slice(2, 11)), (3, 2)):
            assert torch.equal(file[index], whole[index])
        found = torch.zeros_like(whole)
        bands = 0
        for index, part in file.blocks():
            found[index] = part
            bands += 1
        assert bands == 9  # a chunk, 8 x 8, at a time
        assert torch.equal(found, whole)


CHILD = """
import sys, torch, entk, entk.shards
from tests.entk.test_store import request
entk.shards.SHARD_SECONDS = -1  # a shard for every tile
torch.set_num_threads(1)
model, x, _, plan = request(block=1)
print("ready", flush=True)
entk.write_ntk(sys.argv[1], model, x, plan=plan, progress=lambda d, t: print(d, flush=True)).close()
print("end", flush=True)
"""


def child(path: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CHILD, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_kill_and_resume(tmp_path):
    """Killed with -9 after some tiles, twice; finished shards stay, the file is bit-identical."""
    straight, path = tmp_path / "straight.h5", tmp_path / "k.h5"
    assert child(straight).wait() == 0
    parts = tmp_path / "k.h5.parts"
    kept: dict[str, int] = {}
    for stop in ("3", "9"):
        process = child(path)
        for line in process.stdout:
            if line.strip() == stop:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        assert not path.exists()
        now = {p.name: p.stat().st_mtime_ns for p in parts.glob("shard-*.h5")}
        assert len(now) >= int(stop) - 1  # one may still be written
        assert kept.items() <= now.items()
        kept = now
    (parts / "shard-999999-999999.h5.tmp").write_bytes(b"torn")
    process = child(path)
    done = [line.strip() for line in process.stdout]
    assert process.wait() == 0
    assert done[1] == str(len(kept))  # the first report counts what was there
    assert digest(path) == digest(straight)
    assert not parts.exists()


def test_finished_file_is_not_computed_again(tmp_path, monkeypatch):
    model, x, _, plan = request()
    path = tmp_path / "k.h5"
    entk.write_ntk(path, model, x, plan=plan).close()
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(entk.write.Engine, "tiles", None)
    with entk.write_ntk(path, model, x) as file:
        assert file.shape == (20, 20)
    assert path.stat().st_mtime_ns == before


def begun(tmp_path, monkeypatch):
    """A kernel that was interrupted after two shards."""
    model, x, z, plan = request(block=1)
    monkeypatch.setattr(entk.shards, "SHARD_SECONDS", -1)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan, progress=interrupt)
    return model, x, z, plan


OTHERS = ("model", "buffer", "data", "rectangular", "outputs", "params", "by_layer")


def others(model, x, z):
    changed = BY_NAME["vgg"].make(torch.float32)[0]
    with torch.no_grad():
        changed[0].weight[0, 0, 0, 0] += 1e-3
    frozen_statistics = BY_NAME["vgg"].make(torch.float32)[0]
    frozen_statistics[1].running_mean[0] += 1
    return {
        "model": ((changed, x), {}, "state_sha256"),
        "buffer": ((frozen_statistics, x), {}, "state_sha256"),
        "data": ((model, x + 1), {}, "x_sha256"),
        "rectangular": ((model, x, z), {}, "z_sha256"),
        "outputs": ((model, x), {"outputs": "trace"}, "outputs"),
        "params": ((model, x), {"params": ["0.weight"]}, "parameters"),
        "by_layer": ((model, x), {"by_layer": True}, "by_layer"),
    }


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("finished", [False, True])
def test_another_request_is_refused(tmp_path, monkeypatch, what, finished):
    model, x, z, _ = begun(tmp_path, monkeypatch)
    path = tmp_path / "k.h5"
    if finished:
        entk.write_ntk(path, model, x).close()
    listing = sorted(p.name for p in tmp_path.rglob("*"))
    arguments, options, named = others(model, x, z)[what]
    with pytest.raises(entk.ResumeError, match=f"another request: .*{named}"):
        entk.write_ntk(path, *arguments, **options)
    assert sorted(p.name for p in tmp_path.rglob("*")) == listing
    with entk.write_ntk(path, *arguments, **options, resume=False) as file:
        assert file.provenance["request"][named] is not None


def test_another_plan_is_refused_and_the_first_is_kept(tmp_path, monkeypatch):
    model, x, _, plan = begun(tmp_path, monkeypatch)
    with pytest.raises(entk.ResumeError, match="another plan"):
        entk.write_ntk(tmp_path / "k.h5", model, x, plan=entk.plan_ntk(model, x, block=3))
    with entk.write_ntk(tmp_path / "k.h5", model, x, memory="300MB") as file:
        assert file.plan == plan


def test_damaged_shard_is_computed_again(tmp_path, monkeypatch):
    model, x, _, _ = begun(tmp_path, monkeypatch)
    shard = min((tmp_path / "k.h5.parts").glob("shard-*.h5"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with entk.write_ntk(tmp_path / "k.h5", model, x) as file:
        plan = entk.plan_ntk(model, x, block=1)
        assert torch.equal(file[:], entk.ntk(model, x, plan=plan).reshape(20, 20))


def test_disk_refuses(tmp_path, monkeypatch):
    """What is finished is kept, also what waits for its turn; the next call goes on."""
    model, x, _, plan = request(block=1)
    monkeypatch.setattr(entk.shards, "SHARD_SECONDS", -1)
    real, calls = entk.shards.publish, []

    def full(temporary, final):
        calls.append(final)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(temporary, final)

    monkeypatch.setattr(entk.shards, "publish", full)
    with pytest.raises(entk.KernelFileError, match=r"No space left.*finished shards are kept"):
        entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan)
    assert len(list((tmp_path / "k.h5.parts").glob("shard-*.h5"))) == 3
    monkeypatch.setattr(entk.shards, "publish", real)
    with entk.write_ntk(tmp_path / "k.h5", model, x) as file:
        assert file.shape == (20, 20)


def test_not_a_kernel(tmp_path):
    with pytest.raises(entk.KernelFileError, match=r"no kernel at .*check the path"):
        entk.open_kernel(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(entk.KernelFileError, match="not readable HDF5"):
        entk.open_kernel(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel"] = np.eye(3)
    with pytest.raises(entk.KernelFileError, match=r"^\S+/other\.h5 has format None"):
        entk.open_kernel(tmp_path / "other.h5")
    with pytest.raises(entk.InputError, match=r"folder .* does not exist"):
        entk.write_ntk(tmp_path / "a" / "k.h5", nn.Linear(2, 2).eval(), torch.randn(2, 2))


def test_unfinished_kernel_says_so(tmp_path, monkeypatch):
    begun(tmp_path, monkeypatch)
    with pytest.raises(entk.KernelFileError, match="call write_ntk again"):
        entk.open_kernel(tmp_path / "k.h5")


def test_flipped_byte_is_noticed(tmp_path):
    model, x, _, plan = request()
    path = tmp_path / "k.h5"
    with entk.write_ntk(path, model, x, plan=plan) as file:
        needle = file[:8, :8].numpy().tobytes()
    content = bytearray(path.read_bytes())
    place = bytes(content).index(needle)
    content[place + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(entk.KernelFileError, match="damaged"):  # by its seal or when it is read
        entk.open_kernel(path)[:]


@pytest.mark.slow
def test_kills_at_random_times(tmp_path):
    """Ten kills at times spread over the run; the end is the same bits."""
    straight, path = tmp_path / "straight.h5", tmp_path / "k.h5"
    start = time.monotonic()
    assert child(straight).wait() == 0
    whole = time.monotonic() - start
    for i in range(10):
        process = child(path)
        time.sleep(whole * (i + 1) / 11)
        process.kill()
        process.wait()
    assert child(path).wait() == 0
    assert digest(path) == digest(straight)
