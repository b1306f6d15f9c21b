"""One process at a time in a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from entk.errors import KernelFileError, LockedError
from entk.inputs import as_path

NAME = ".lock"
TRIES = 1000
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # no locks on this disk


@contextmanager
def exclusive(folder: str | PathLike) -> Iterator[None]:
    """Inside the block no other process, on any machine that shares the disk, gets in as well.

    Held by `flock` on `<folder>/.lock`, so it is gone with its process, however that ends. The
    folder is made if need be, and removed at the end if nothing is in it. For several processes
    that work together one of them holds it for all. Within a process too it is held once only.

    Raises:
        LockedError: another holds it; names process and host. A disk that knows no locks: warns.
        KernelFileError: the folder cannot be made or written to.

    >>> import tempfile, entk
    >>> with tempfile.TemporaryDirectory() as folder, entk.exclusive(folder):
    ...     pass  # write there
    """
    folder = as_path(folder)
    try:
        handle = _acquire(folder / NAME)
    except OSError as error:
        raise KernelFileError(
            f"{folder} cannot be written to ({error}); free space, or choose another place"
        ) from error
    holder = os.getpid()
    try:
        yield
    finally:
        with suppress(OSError):
            if os.getpid() == holder and _is_at(handle, folder / NAME):
                (folder / NAME).unlink()  # while held: who waits for the old file looks again
        with suppress(OSError):  # what was written there is of no use any more
            os.close(handle)
        with suppress(OSError):
            folder.rmdir()
            sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in it survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _acquire(path: Path) -> int:
    tries = 0
    while True:
        try:
            _make(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except (FileNotFoundError, FileExistsError):
            tries += 1
            if tries == TRIES:  # something else is in the folder's place
                raise
            continue  # its last holder has just removed the folder
        try:
            _flock(handle, path)
            if _is_at(handle, path):
                os.truncate(handle, 0)
                os.write(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _make(folder: Path) -> None:
    """And see to it that its name survives a crash, as what is written there will."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def _flock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "just started"
        raise LockedError(
            f"{path.parent} is being written by another process ({holder}); wait until it has "
            "finished, or end it and call again"
        ) from None
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        warnings.warn(
            f"{path.parent}: its disk knows no locks; see to it that one process at a time writes "
            "there",
            stacklevel=5,
        )


def _is_at(handle: int, path: Path) -> bool:
    """Whether the file that was opened still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
