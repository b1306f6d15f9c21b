"""What an HDF5 file of ours is made of, checked before a number is read; and the seal over it.

libhdf5 follows links, external storage and virtual layouts into other files, and its checksums
cover each chunk but not where it belongs, nor attributes. So a file may have datasets of the
names, shapes and types that are expected, in chunks with a Fletcher-32 checksum and nothing else;
and its attribute `seal` is a SHA-256 over all attributes, and over the place, the ends and the
checksum of every chunk. It tells damage, not forgery: whoever can write the file can seal it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from entk.errors import EntkError, KernelFileError

LIBRARY = ("v110", "v110")  # metadata with checksums; HDF5 1.10 (2016) and later read it
SEAL = "seal"
CHECKSUM = 4  # bytes, at the end of each chunk
ENDS = 256  # bytes of a chunk that the seal covers by themselves
FILTERS = [h5py.h5z.FILTER_FLETCHER32]

# what h5py and parsers raise at a damaged file; RecursionError is a RuntimeError
BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)

Form = tuple[tuple[int, ...], str]  # shape and dtype


@contextmanager
def reading(path: Path, advice: str = "write it again") -> Iterator[None]:
    """Whatever h5py makes of a damaged file becomes one error of one line."""
    try:
        yield
    except EntkError as error:
        if isinstance(error, KernelFileError):
            raise
        raise KernelFileError(f"{path} is damaged ({error}); {advice}") from error
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KernelFileError(f"{path} is damaged ({reason:.200}); {advice}") from error


def attribute(file: h5py.File, name: str) -> str | float | None:
    """A text or a float64; None: there is none. Raises ValueError: of another type.

    Texts have a fixed length: those of variable length lie in a heap without a checksum, and in a
    damaged one libhdf5 has been seen to search for ever.
    """
    if name not in file.attrs:
        return None
    found = h5py.h5a.open(file.id, name.encode())
    text = found.dtype.kind == "S"
    if found.shape != () or not (text or found.dtype == np.float64):
        raise ValueError(f"attribute {name!r} is {found.dtype} {found.shape}")
    value = file.attrs[name]
    return bytes(value).decode() if text else float(value)


def write_attribute(file: h5py.File, name: str, value: str) -> None:
    """As `attribute` reads it."""
    text = value.encode()
    file.attrs.create(name, np.bytes_(text), dtype=h5py.string_dtype("utf-8", len(text)))


def datasets(file: h5py.File, form: Callable[[str], Form | None]) -> dict[str, h5py.Dataset]:
    """{name: dataset} of all that is in the file; nothing of them is read.

    Raises ValueError: a dataset without a form or of another one, or what we do not write.
    """
    found: dict[str, h5py.Dataset] = {}
    size = Path(file.filename).stat().st_size
    for name, dataset in _walk(file, "", set()):
        wanted = form(name)
        if wanted is None:
            raise ValueError(f"dataset {name!r:.80} does not belong there")
        fault = _fault(dataset, *wanted, size)
        if fault:
            raise ValueError(f"dataset {name!r:.80} {fault}")
        found[name] = dataset
    return found


def _walk(group: h5py.Group, lead: str, seen: set) -> Iterator[tuple[str, h5py.Dataset]]:
    place = h5py.h5o.get_info(group.id).addr
    if place in seen:
        raise ValueError(f"group {lead!r:.80} is there twice")
    seen.add(place)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{lead + name!r:.80} is a link to another place or file")
        part = group[name]
        if isinstance(part, h5py.Group):
            yield from _walk(part, f"{lead}{name}/", seen)
        elif isinstance(part, h5py.Dataset):
            yield lead + name, part
        else:
            raise ValueError(f"{lead + name!r:.80} is no dataset")


def _fault(dataset: h5py.Dataset, shape: tuple[int, ...], dtype: str, size: int) -> str | None:
    """What is wrong with a dataset; its layout first, for a virtual one's shape is elsewhere."""
    made = dataset.id.get_create_plist()
    if made.get_layout() != h5py.h5d.CHUNKED or made.get_external_count():
        return "is virtual, external or not in chunks"
    if [made.get_filter(i)[0] for i in range(made.get_nfilters())] != FILTERS:
        return "has other filters than fletcher32"
    if dataset.dtype != np.dtype(dtype):
        return f"is {dataset.dtype}, expected {dtype}"
    if dataset.shape != shape or dataset.maxshape != shape:
        return f"has shape {dataset.shape}, expected {shape}"
    if math.prod(shape) * np.dtype(dtype).itemsize > size:
        return f"of shape {shape} cannot lie in {size} bytes"
    if any(c > n for c, n in zip(dataset.chunks, shape, strict=True)):
        return f"has chunks of {dataset.chunks}"
    wanted = math.prod(-(-n // c) for n, c in zip(shape, dataset.chunks, strict=True))
    if dataset.id.get_num_chunks() != wanted:
        return f"has {dataset.id.get_num_chunks()} chunks of {wanted}"
    return None


def seal(file: h5py.File, found: Mapping[str, h5py.Dataset], path: Path) -> str:
    """SHA-256 over attributes, names, forms, and the place, ends and checksum of each chunk."""
    digest = hashlib.sha256()
    for name in sorted(set(file.attrs) - {SEAL}):
        digest.update(f"{name}={attribute(file, name)!r}\n".encode())
    handle = os.open(path, os.O_RDONLY)
    try:
        for name in sorted(found):
            dataset = found[name]
            digest.update(f"{name} {dataset.shape} {dataset.dtype} {dataset.chunks}\n".encode())
            for place, checksum in _checksums(dataset, handle):
                digest.update(f"{place} {checksum.hex()}\n".encode())
    finally:
        os.close(handle)
    return digest.hexdigest()


def _checksums(dataset: h5py.Dataset, handle: int) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """(where it belongs, its ends and its Fletcher-32) of each chunk, as they lie in the file.

    The ends, for Fletcher-32 is a sum: it is the same for [[K, 0], [0, K]] rolled by a column.
    """
    chunks: list = []
    dataset.id.chunk_iter(chunks.append)
    length = math.prod(dataset.chunks) * dataset.dtype.itemsize + CHECKSUM
    for chunk in sorted(chunks):
        if chunk.filter_mask or chunk.size != length:
            raise ValueError(f"chunk {chunk.chunk_offset} of {dataset.name!r:.80} has no checksum")
        end = min(ENDS + CHECKSUM, length)  # and not a byte that is another's
        head = os.pread(handle, end, chunk.byte_offset)
        yield chunk.chunk_offset, head + os.pread(handle, end, chunk.byte_offset + length - end)


def check_seal(file: h5py.File, found: Mapping[str, h5py.Dataset]) -> None:
    """Raises ValueError: the file is not as it was sealed."""
    if attribute(file, SEAL) != seal(file, found, Path(file.filename)):
        raise ValueError("its seal is broken: something in it was changed after it was written")


def write_seal(file: h5py.File, path: Path) -> None:
    """The last that is written; all that it covers has to be on the disk, at `path`."""
    file.flush()
    write_attribute(file, SEAL, seal(file, dict(_walk(file, "", set())), path))
