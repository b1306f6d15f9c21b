"""What is joined from shards is read back whole, and goes on as it began."""

from __future__ import annotations

import h5py
import pytest
import torch

import entk
import entk.shards
import entk.write
from tests.entk.test_store import begun, request


@pytest.mark.parametrize("name", ["kernel", "layers/0"])
def test_a_byte_lost_on_the_way_to_the_file_is_noticed(tmp_path, monkeypatch, name):
    """In the kernel and in those of the layers; the shards stay, and the next call joins them."""
    model, x, _, plan = request()
    path, real = tmp_path / "k.h5", h5py.File

    def damaged(file, mode="r"):
        if mode == "r" and file.name == ".k.h5.tmp":
            with real(file) as whole:
                place = whole[name].id.get_chunk_info(0).byte_offset
            content = bytearray(file.read_bytes())
            content[place] ^= 1
            file.write_bytes(content)
        return real(file, mode)

    with monkeypatch.context() as patch:
        patch.setattr(entk.shards.h5py, "File", damaged)
        with pytest.raises(entk.KernelFileError, match="finished shards are kept"):
            entk.write_ntk(path, model, x, plan=plan, by_layer=True)
    assert not path.exists()
    with entk.write_ntk(path, model, x, by_layer=True) as file:
        layers = entk.ntk(model, x, plan=plan, by_layer=True)
        assert torch.equal(file[:], sum(layers.values()).reshape(file.shape))


def test_another_backend_does_not_go_on_with_it(tmp_path, monkeypatch):
    model, x, _, plan = begun(tmp_path, monkeypatch)
    monkeypatch.setattr(entk.write, "choose_backend", lambda name, *_: name)  # as if it could serve
    with pytest.raises(entk.ResumeError, match=f"began with backend='{plan.backend}', not"):
        entk.write_ntk(tmp_path / "k.h5", model, x, backend="triton")
    entk.write_ntk(tmp_path / "k.h5", model, x, backend=plan.backend).close()
