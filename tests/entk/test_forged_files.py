"""Kernel files whose bytes were edited, into what HDF5 itself would never write."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import entk
from entk.hdf5 import reading, write_seal

MARK = "x" * 8  # of the attribute whose place is taken
ATTRIBUTE, EXTERNAL = 0x0C, 0x07  # types of messages in the header of an object


def chunks_that_are_huge(content: bytearray) -> None:
    """In the layout: 1.6 GB for each chunk of 6 x 6."""
    sides = struct.pack("<3I", 6, 6, 4)
    assert content.count(sides) == 1
    content[:] = content.replace(sides, struct.pack("<3I", 6, 1 << 26, 4))


def storage_elsewhere(content: bytearray) -> None:
    """A list of external files in place of an attribute: HDF5 reads from there, chunks or not."""
    name = content.index(b"canary.bin\0")
    starts = [i for i in range(len(content)) if content[i : i + 4] == b"HEAP"]
    spans = {i: struct.unpack_from("<3Q", content, i + 8) for i in starts}
    heap, start = next((i, at) for i, (n, _, at) in spans.items() if at <= name < at + n)
    end = content.index(MARK.encode())
    heads = {i: struct.unpack_from("<HH", content, i) for i in range(end - 40, end)}
    message = max(i for i, (kind, n) in heads.items() if kind == ATTRIBUTE and 60 < n < 200)
    body = struct.pack("<B3xHHQ", 1, 1, 1, heap) + struct.pack("<3Q", name - start, 0, 1 << 40)
    struct.pack_into("<H", content, message, EXTERNAL)
    content[message + 8 : message + 8 + len(body)] = body


FORGED: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "chunks_that_are_huge": (chunks_that_are_huge, "has chunks of (6, 67108864)"),
    "storage_elsewhere": (storage_elsewhere, "is virtual, external or not in chunks"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_file_that_no_program_wrote_is_refused(name, tmp_path):
    forge, words = FORGED[name]
    path = tmp_path / "k.h5"
    plan = entk.plan_ntk(model := nn.Linear(3, 2), x := torch.randn(6, 3), block=3)
    entk.write_ntk(path, model, x, plan=plan).close()
    with h5py.File(path, "r+") as file:  # in the format of 1998, whose headers have no checksum
        values = file["kernel"][()]
        del file["kernel"]
        kernel = file.create_dataset("kernel", data=values, chunks=(6, 6), fletcher32=True)
        kernel.attrs[MARK] = np.zeros(8, np.uint64)
        file.create_group("names/canary.bin")
        write_seal(file, path)
    with entk.open_kernel(path) as file:
        assert np.array_equal(file[:], values)
    content = bytearray(path.read_bytes())
    forge(content)
    path.write_bytes(content)
    with pytest.raises(entk.KernelFileError) as found:
        entk.open_kernel(path)
    assert words in str(found.value)


def test_a_file_too_large_to_be_read_is_refused():
    with pytest.raises(entk.KernelFileError, match=r"^k\.h5 is damaged \(MemoryError\); write it"):
        with reading(Path("k.h5")):
            raise MemoryError
