"""Kernel files from strangers: refused before a number is read, and no other file is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS
from entk.hdf5 import SEAL, attribute, write_attribute, write_seal

SECRET = np.full((12, 12), 1234.5, np.float32)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel of ours, [12, 12], and beside it a file that nobody asked for."""
    folder = tmp_path_factory.mktemp("hostile")
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(6, 3)
    plan = entk.plan_ntk(model, x, block=3, rates="nominal")
    entk.write_ntk(folder / "k.h5", model, x, plan=plan, by_layer=True).close()
    with h5py.File(folder / "canary.h5", "w") as file:
        file["kernel"] = SECRET
    (folder / "canary.bin").write_bytes(SECRET.tobytes())
    return folder


def remade(file: h5py.File, name: str = "kernel", **options) -> h5py.Dataset:
    """The dataset again, made in another way."""
    values = file[name][()]
    del file[name]
    return file.create_dataset(name, **({"data": values} | options))


def external_link(file):
    del file["kernel"]
    file["kernel"] = h5py.ExternalLink("canary.h5", "/kernel")


def external_link_above(file):
    del file["layers"]
    file["layers"] = h5py.ExternalLink("canary.h5", "/")


def soft_link(file):
    file.move("kernel", "layers/kernel")
    file["kernel"] = h5py.SoftLink("/layers/kernel")


def soft_link_above(file):
    file.move("layers", "other")
    file["layers"] = h5py.SoftLink("/other")


def circle(file):
    file["layers/again"] = file["layers"]


def external_storage(file):
    del file["kernel"]
    file.create_dataset(
        "kernel", (12, 12), "float32", external=[("canary.bin", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file):
    del file["kernel"]
    layout = h5py.VirtualLayout((12, 12), "float32")
    layout[:] = h5py.VirtualSource("canary.h5", "kernel", (12, 12))
    file.create_virtual_dataset("kernel", layout)


def shape_bomb(file):
    del file["kernel"]
    file.create_dataset("kernel", (10**7, 10**7), "float32", chunks=(1024, 1024), fletcher32=True)


def shape_bomb_of_the_plan(file):
    n = 10**7
    plan = json.loads(attribute(file, "plan"))
    plan |= {"samples": [n, n], "shape": [n, 2, n, 2]}
    write_attribute(file, "plan", json.dumps(plan))
    del file["kernel"]
    file.create_dataset("kernel", (2 * n, 2 * n), "float32", chunks=(1024, 1024), fletcher32=True)


def chunk_bomb(file):
    del file["kernel"]
    options = {"chunks": (10**4, 10**4), "maxshape": (None, None), "fletcher32": True}
    file.create_dataset("kernel", (12, 12), "float32", **options)


def raw_chunk(size: int, mask: int) -> Callable[[h5py.File], None]:
    """A chunk of so many bytes, for which the filters of the mask were left out."""

    def edit(file):
        remade(file, **CHUNKS).id.write_direct_chunk((0, 0), bytes(size), mask)

    return edit


def nested_deep(file):
    group = file["layers"]
    for _ in range(1500):
        group = group.create_group("a")


def provenance_without_layers(file):
    write_attribute(file, "provenance", json.dumps({"layers": 3}))


def plan_nested_deep(file):
    write_attribute(file, "plan", "[" * 100_000)


def text_of_variable_length(file):
    file.attrs["plan"] = attribute(file, "plan")


CHUNKS = {"chunks": (6, 6), "fletcher32": True}
# name: (what is done to the file, words of the error); sealed again afterwards, as a forger would
EDITS: dict[str, tuple[Callable, str]] = {
    "external_link": (external_link, "'kernel' is a link to another place or file"),
    "external_link_above": (external_link_above, "'layers' is a link to another place or file"),
    "soft_link": (soft_link, "'kernel' is a link to another place or file"),
    "soft_link_above": (soft_link_above, "'layers' is a link to another place or file"),
    "circle": (circle, "'layers/again/' is there twice"),
    "external_storage": (external_storage, "'kernel' is virtual, external or not in chunks"),
    "virtual": (virtual, "'kernel' is virtual, external or not in chunks"),
    "contiguous": (lambda f: remade(f), "'kernel' is virtual, external or not in chunks"),
    "gzip": (lambda f: remade(f, compression="gzip", **CHUNKS), "other filters than fletcher32"),
    "lzf": (lambda f: remade(f, compression="lzf", **CHUNKS), "other filters than fletcher32"),
    "shuffle": (lambda f: remade(f, shuffle=True, **CHUNKS), "other filters than fletcher32"),
    "no_checksum": (lambda f: remade(f, chunks=(6, 6)), "other filters than fletcher32"),
    "shape_bomb": (shape_bomb, "has shape (10000000, 10000000), expected (12, 12)"),
    "shape_bomb_of_the_plan": (shape_bomb_of_the_plan, "cannot lie in"),
    "chunk_bomb": (chunk_bomb, "has shape (12, 12), expected (12, 12)"),
    "missing_chunks": (lambda f: remade(f, data=None, shape=(12, 12), dtype="float32", **CHUNKS), "has 0 chunks of 4"),
    "chunk_without_checksum": (raw_chunk(6 * 6 * 4 + 4, 1), "has no checksum"),
    "chunk_of_another_size": (raw_chunk(100, 0), "has no checksum"),
    "nested_deep": (nested_deep, "is damaged"),
    "other_shape": (lambda f: remade(f, data=np.zeros((6, 24), "f4"), **CHUNKS), "has shape (6, 24)"),
    "double": (lambda f: remade(f, dtype="float64", **CHUNKS), "is float64, expected float32"),
    "big_endian": (lambda f: remade(f, dtype=">f4", **CHUNKS), "is >f4, expected float32"),
    "objects": (lambda f: remade(f, data=None, shape=(12, 12), dtype=h5py.string_dtype(), chunks=(6, 6)), "other filters than fletcher32"),
    "variable_length": (lambda f: remade(f, data=None, shape=(12, 12), dtype=h5py.vlen_dtype("f4"), chunks=(6, 6)), "other filters than fletcher32"),
    "compound": (lambda f: remade(f, data=None, shape=(12, 12), dtype=[("a", "f4")], **CHUNKS), "expected float32"),
    "extra": (lambda f: f.create_dataset("more", data=np.ones(3), chunks=(3,), fletcher32=True), "'more' does not belong there"),
    "named_type": (lambda f: f.__setitem__("layers/type", np.dtype("f4")), "'layers/type' is no dataset"),
    "no_kernel": (lambda f: f.__delitem__("kernel"), "no dataset 'kernel'"),
    "no_layer": (lambda f: f.__delitem__("layers/0"), "no dataset 'layers/0'"),
    "no_plan": (lambda f: f.attrs.__delitem__("plan"), "is damaged"),
    "plan_is_a_number": (lambda f: f.attrs.__setitem__("plan", 3.0), "is damaged"),
    "plan_is_numbers": (lambda f: f.attrs.__setitem__("plan", [3, 4]), "attribute 'plan' is int64 (2,)"),
    "plan_nested_deep": (plan_nested_deep, "nested too deep"),
    "provenance_without_layers": (provenance_without_layers, "is damaged"),
    "provenance_is_no_text": (lambda f: f.attrs.__setitem__("provenance", np.bytes_(b"\xff")), "is damaged"),
    "text_of_variable_length": (text_of_variable_length, "attribute 'plan' is object"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_crafted_kernel_is_refused(name, kernel, tmp_path, monkeypatch):
    edit, words = EDITS[name]
    path = tmp_path / "k.h5"
    for file in kernel.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    canaries = {p: p.read_bytes() for p in tmp_path.glob("canary.*")}
    with h5py.File(path, "r+") as file:
        edit(file)
        _sealed(file)
    held = []
    for canary in canaries:  # a pipe: to open it would be another error
        canary.rename(canary.with_name(f"{canary.name}.kept"))
        os.mkfifo(canary)
        held.append(os.open(canary, os.O_RDWR | os.O_NONBLOCK))  # so that nobody waits for ever
    with pytest.raises(entk.KernelFileError) as found:
        entk.open_kernel(path)
    for handle in held:
        os.close(handle)
    assert words in str(found.value)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 400
    for canary, content in canaries.items():
        assert canary.with_name(f"{canary.name}.kept").read_bytes() == content


def _sealed(file: h5py.File) -> None:
    """As far as that goes: what the seal is made of cannot be read of every forgery."""
    try:
        write_seal(file, Path(file.filename))
    except (ValueError, TypeError, AttributeError, OSError, RuntimeError):
        return


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_the_smallest_kernels_are_taken(outputs, n, tmp_path):
    """The seal is over their chunks, and over no byte beside them, which may change later."""
    model, x = nn.Linear(3, 2), torch.randn(n, 3)
    options = {"outputs": outputs, "rates": "nominal", "memory": "1GB"}
    found = []
    for name in ("a.h5", "b.h5"):
        with entk.write_ntk(tmp_path / name, model, x, **options) as file:
            found.append(file[:])
    assert torch.equal(*found)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_the_kernel_itself_is_taken(kernel):
    with entk.open_kernel(kernel / "k.h5") as file:
        assert file.layers == ("0", "2")
        assert torch.equal(file[:], file.layer("0") + file.layer("2"))


CHANGES: dict[str, Callable[[h5py.File], None]] = {
    "plan": lambda f: write_attribute(f, "plan", attribute(f, "plan").replace('"chunk": 2', '"chunk": 1')),
    "provenance": lambda f: write_attribute(f, "provenance", attribute(f, "provenance").replace("Sequential", "Sequentiel")),
    "more": lambda f: write_attribute(f, "more", "x"),
    "entry": lambda f: f["kernel"].__setitem__((0, 0), 7.0),
    "paired": lambda f: f["layers/2"].__setitem__((), f["layers/2"][()][:, np.arange(12) ^ 1]),  # one Fletcher-32 for both
    "seal": lambda f: write_attribute(f, SEAL, "0" * 64),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_later_is_noticed(name, kernel, tmp_path):
    path = Path(shutil.copy(kernel / "k.h5", tmp_path))
    with h5py.File(path, "r+") as file:
        CHANGES[name](file)
    with pytest.raises(entk.KernelFileError, match="its seal is broken"):
        entk.open_kernel(path)


def test_two_chunks_that_change_places_are_noticed(kernel, tmp_path):
    """Each has its checksum; where it belongs is no part of that."""
    path = Path(shutil.copy(kernel / "k.h5", tmp_path))
    with h5py.File(path) as file:
        one, two = (file["kernel"].id.get_chunk_info(i) for i in (0, 3))
    content = bytearray(path.read_bytes())
    a, b = (slice(c.byte_offset, c.byte_offset + c.size) for c in (one, two))
    content[a], content[b] = content[b], content[a]
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert np.isfinite(file["kernel"][()]).all()  # HDF5 sees nothing wrong
    with pytest.raises(entk.KernelFileError, match="its seal is broken"):
        entk.open_kernel(path)
