"""Unfinished kernels from strangers: what is not ours is computed again, or refused."""

from __future__ import annotations

import json
import os
from multiprocessing import get_context
from pathlib import Path

import h5py
import pytest
import torch
from torch import nn

import entk
import entk.shards
from entk.hdf5 import LIBRARY
from entk.shard import readable_tiles


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A kernel that was interrupted with a shard of each tile, and the call that goes on."""
    torch.manual_seed(0)
    model, x, other = nn.Linear(3, 2), torch.randn(6, 3), torch.randn(6, 3)
    monkeypatch.setattr(entk.shards, "SHARD_SECONDS", -1)
    with monkeypatch.context() as patch:
        patch.setattr(entk.shards.Shards, "finish", _interrupt)
        plan = entk.plan_ntk(model, x, block=2)
        for path, samples in (("k.h5", x), ("other.h5", other)):
            with pytest.raises(KeyboardInterrupt):
                entk.write_ntk(tmp_path / path, model, samples, plan=plan)

    def go_on() -> torch.Tensor:
        with entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan) as file:
            return file[:]

    return tmp_path / "k.h5.parts", go_on, entk.ntk(model, x, plan=plan).reshape(12, 12)


def _interrupt(*_):
    raise KeyboardInterrupt


def shard_in(folder: Path) -> Path:
    """Of one tile; a name ends with what tells its writer from others."""
    (found,) = folder.glob("shard-000001-000000-*.h5")
    return found


def of_another_kernel(shard: Path) -> None:
    shard.write_bytes(shard_in(shard.parents[1] / "other.h5.parts").read_bytes())


def link_to_another_kernel(shard: Path) -> None:
    shard.unlink()
    shard.symlink_to(shard_in(shard.parents[1] / "other.h5.parts"))


def renamed_tile(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        file.move("000001-000000", "000002-000000")


def tile_elsewhere(shard: Path) -> None:
    other = shard_in(shard.parents[1] / "other.h5.parts")
    with h5py.File(shard, "r+", libver=LIBRARY) as file:
        del file["000001-000000/kernel"]
        file["000001-000000/kernel"] = h5py.ExternalLink(str(other), "000001-000000/kernel")


SHARDS = {
    edit.__name__: edit
    for edit in (of_another_kernel, link_to_another_kernel, renamed_tile, tile_elsewhere)
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_not_ours_is_computed_again(begun, name):
    folder, go_on, expected = begun
    other = folder.with_name("other.h5.parts")
    before = {p.name: p.read_bytes() for p in other.iterdir()}
    SHARDS[name](shard_in(folder))
    assert torch.equal(go_on(), expected)
    assert {p.name: p.read_bytes() for p in other.iterdir()} == before


def test_a_pipe_in_the_place_of_a_shard_is_not_waited_for(tmp_path):
    """In a process of its own, for nothing else ends a wait inside libhdf5."""
    plan = entk.plan_ntk(nn.Linear(3, 2), torch.randn(6, 3), block=2)
    os.mkfifo(tmp_path / "shard.h5")
    arguments = (tmp_path / "shard.h5", plan, "")
    child = get_context("fork").Process(target=readable_tiles, args=arguments)
    child.start()
    child.join(20)
    ended = child.exitcode
    child.kill()
    assert ended == 0
    assert not list(tmp_path.iterdir())


def exchanged(shard: Path) -> None:
    """Two tiles of one shape: each as it was written, in the other's place."""
    with h5py.File(shard, "r+") as file:
        one, two = file["000001-000000/kernel"], file["000002-000000/kernel"]
        values = one[()], two[()]
        one[...], two[...] = values[::-1]


def middle(shard: Path) -> None:
    """A bit of a tile of 6400 bytes, whose ends alone are under the seal."""
    with h5py.File(shard, "r") as file:
        chunk = file["000001-000000/kernel"].id.get_chunk_info(0)
    content = bytearray(shard.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize("damage", [exchanged, middle])
def test_a_shard_of_several_tiles_that_was_changed_is_computed_again(tmp_path, monkeypatch, damage):
    model, x = nn.Linear(3, 2), torch.randn(60, 3)
    plan = entk.plan_ntk(model, x, block=20)
    with monkeypatch.context() as patch:
        patch.setattr(entk.shards.Shards, "finish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan)
    (shard,) = (tmp_path / "k.h5.parts").glob("shard-*.h5")
    damage(shard)
    with entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan) as file:
        assert torch.equal(file[:], entk.ntk(model, x, plan=plan).reshape(120, 120))


REQUESTS = {
    "empty": lambda text: "",
    "list": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
    "changed": lambda text: text.replace('"by_layer": false', '"by_layer":  true'),
    "changed plan": lambda text: text.replace('\\"block\\": 2', '\\"block\\": 1'),
    "no plan": lambda text: json.dumps({**json.loads(text), "plan": None}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_not_ours_is_refused(begun, name):
    folder, go_on, _ = begun
    path = folder / "request.json"
    text = path.read_text()
    assert REQUESTS[name](text) != text
    path.write_text(REQUESTS[name](text))
    with pytest.raises(entk.KernelFileError, match="pass resume=False to start over"):
        go_on()


def test_a_forged_plan_that_does_not_fit_is_refused(begun):
    folder, go_on, _ = begun
    record = json.loads((folder / "request.json").read_text())
    n = 10**9
    plan = json.loads(record["plan"]) | {"samples": [n, n], "shape": [n, 2, n, 2], "block": 1}
    record["plan"] = json.dumps(plan)
    record["sha256"] = entk.shards._digest(record)
    (folder / "request.json").write_text(json.dumps(record))
    with pytest.raises(entk.EntkError, match="plan"):
        go_on()
