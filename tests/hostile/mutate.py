"""Mutations of a file's bytes, each a function of (content, random numbers); and of HDF5 inside."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

Mutation = Callable[[bytearray, random.Random], bytes]


def flip_bit(content: bytearray, draw: random.Random) -> bytes:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def flip_bits(content: bytearray, draw: random.Random) -> bytes:
    for _ in range(draw.randint(2, 40)):
        flip_bit(content, draw)
    return content


def set_byte(content: bytearray, draw: random.Random) -> bytes:
    content[draw.randrange(len(content))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
    return content


def truncate(content: bytearray, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def append(content: bytearray, draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.randint(1, 64))


def insert(content: bytearray, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.randbytes(draw.randint(1, 16)) + content[place:]


def delete(content: bytearray, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + content[place + draw.randint(1, 16) :]


def swap(content: bytearray, draw: random.Random) -> bytes:
    """Two pieces of the same length: pages, chunks, fields."""
    size = draw.choice((1, 4, 8, 64, 512))
    size = min(size, len(content) // 2)
    a, b = (draw.randrange(len(content) - size + 1) for _ in range(2))
    one, two = content[a : a + size], content[b : b + size]
    content[a : a + size] = two
    content[b : b + size] = one
    return content


def fill(content: bytearray, draw: random.Random) -> bytes:
    """A hole of zeros, or of what erased flash holds."""
    place, size = draw.randrange(len(content)), draw.choice((4, 16, 512))
    content[place : place + size] = draw.choice((b"\0", b"\xff")) * len(
        content[place : place + size]
    )
    return content


def number(content: bytearray, draw: random.Random) -> bytes:
    """An integer of 2, 4 or 8 bytes becomes one that is nasty."""
    size = min(draw.choice((2, 4, 8)), len(content))
    place = draw.randrange(len(content) - size + 1)
    value = draw.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (4 * size)))
    content[place : place + size] = value.to_bytes(size, "little")
    return content


def digit(content: bytearray, draw: random.Random) -> bytes:
    """A digit or letter of text becomes another one."""
    kind = draw.choice((string.digits.encode(), string.ascii_letters.encode()))
    places = [i for i, byte in enumerate(content) if byte in kind]
    if places:
        content[draw.choice(places)] = draw.choice(kind)
    return content


def head(content: bytearray, draw: random.Random) -> bytes:
    """Something near the beginning, where headers are."""
    part = bytearray(content[:96])
    change = draw.choice((flip_bit, set_byte, number, insert, delete))
    return bytes(change(part, draw)) + content[96:]


BYTES: tuple[Mutation, ...] = (
    *(flip_bit, flip_bits, set_byte, truncate, append, insert),
    *(delete, swap, fill, number, digit, head),
)


def hdf5(path: Path, draw: random.Random) -> str:
    """An edit of a well-formed file by h5py itself, checksums of HDF5 included; its name."""
    edit = draw.choice((_value, _attribute, _rename, _exchange, _extra))
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda n, part: names.append(n) if isinstance(part, h5py.Dataset) else None)
        edit(file, sorted(names), draw)
    return edit.__name__.strip("_")


def _value(file: h5py.File, names: list[str], draw: random.Random) -> None:
    dataset = file[draw.choice(names)]
    place = tuple(draw.randrange(n) for n in dataset.shape)
    dataset[place] = np.nextafter(dataset[place], np.inf, dtype=dataset.dtype)


def _attribute(file: h5py.File, names: list[str], draw: random.Random) -> None:
    name = draw.choice(sorted(file.attrs))
    text = bytearray(str(file.attrs[name]).encode())
    file.attrs[name] = bytes(digit(text, draw)).decode()
    if draw.random() < 0.1:
        del file.attrs[name]


def _rename(file: h5py.File, names: list[str], draw: random.Random) -> None:
    file.move(draw.choice(names), draw.choice(("other", "layers/9", "kernel2")))


def _exchange(file: h5py.File, names: list[str], draw: random.Random) -> None:
    """Two datasets, or two parts of one, in each other's place."""
    a, b = file[draw.choice(names)], file[draw.choice(names)]
    one, two = a[()], b[()]
    if one.shape == two.shape and a.name != b.name:
        a[()], b[()] = two, one
    elif one.ndim:
        a[()] = np.roll(one, 1, axis=-1)


def _extra(file: h5py.File, names: list[str], draw: random.Random) -> None:
    draw.choice(
        (
            lambda: file.create_dataset("more", data=np.zeros(3)),
            lambda: file.attrs.__setitem__("more", 3),
            lambda: file.__setitem__("soft", h5py.SoftLink("/kernel")),
            lambda: file.__setitem__("hard", file[names[0]]),
        )
    )()
