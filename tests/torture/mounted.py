"""A disk of a few bytes: a tmpfs, which root may mount."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REMOUNT, DETACH = 32, 2  # of mount(2) and umount2(2)


def _mount(folder: Path, size: str, flags: int = 0) -> str:
    """What was wrong, if anything."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}".encode())
    return os.strerror(ctypes.get_errno()) if done else ""


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """`folder` on a disk of its own; where that is not possible the test is skipped."""
    folder.mkdir()
    wrong = _mount(folder, size)
    if wrong:
        pytest.skip(f"cannot mount a tmpfs ({wrong}); needs root")
    try:
        yield
    finally:
        assert ctypes.CDLL(None).umount2(str(folder).encode(), DETACH) == 0


def enlarge(folder: Path, size: str) -> None:
    assert _mount(folder, size, REMOUNT) == ""
