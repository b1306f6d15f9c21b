"""Files of a run: they appear whole, and what a damaged one does to a parser is one line."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from entk import exclusive
from twophase.errors import UserError

# what parsers raise at a damaged file; RuntimeError is torch's, and RecursionError is one
BROKEN = (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError)
BROKEN += (RuntimeError, MemoryError)
UNREAD = 128 + signal.SIGPIPE  # exit status of a program whose output nobody reads on


def write_atomic(path: Path, content: bytes) -> None:
    """Temporary file beside it, fsync, rename, fsync of the folder.

    Raises UserError: the disk refuses; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> UserError:
    """For what a disk does not take."""
    name = str(path) if len(str(path)) < 200 else f"{str(path)[:99]}...{str(path)[-99:]}"
    return UserError(
        f"{name} could not be written ({error.strerror or error}); what was finished is kept: "
        "free space or repair the disk and run again"
    )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a disk that cannot sync folders
            raise
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """`entk.exclusive`, once what killed processes left there is removed.

    Raises UserError: the folder cannot be made; LockedError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error
    with exclusive(folder):
        remove_stale(folder)
        yield


def remove_stale(folder: Path) -> None:
    """Remove temporary files that processes of this machine left when they were killed."""
    for file in folder.rglob(f".*.{socket.gethostname()}.*.tmp"):
        pid = file.stem.rpartition(".")[2]
        if pid.isdecimal() and not _lives(int(pid)):
            file.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """With all that is in it, as far as that goes."""
    with suppress(OSError):  # ignore_errors does not cover a folder that cannot be closed
        shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OverflowError:  # no process has such a number
        return False
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a parser makes of a damaged file becomes one line that names it."""
    try:
        if not path.is_file():  # a pipe would block
            raise ValueError("there is no such file")
        yield
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason:.200}); delete it and run again") from error


@contextmanager
def printing() -> Iterator[None]:
    """What cannot be printed is an error here, not one that Python only mentions at its end.

    A pipe that is read no further, as by `head`, ends the program without a word. Letters
    that it cannot take, as ε in a locale without Unicode, are escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it
    try:
        yield
    except BrokenPipeError:
        if not _unread():
            raise
        raise SystemExit(UNREAD) from None
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it is tried again
            if error.errno == errno.EPIPE:
                raise SystemExit(UNREAD) from None
            raise OSError(error.errno, error.strerror, "standard output") from None


def _unread() -> bool:
    """Whether it is standard output that is broken: another pipe may be."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def check_tree(path: Path) -> None:
    """Raises UserError: something below is neither file nor folder, or a link that leads out."""
    inside, todo = path.resolve(), [path]
    while todo:
        for entry in _entries(todo.pop()):
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                raise UserError(
                    f"{entry.path} is a link out of the run directory, through which other files "
                    "would be read and written; put the files here, or link the whole directory"
                )
            if entry.is_dir(follow_symlinks=False):
                todo.append(Path(entry.path))
            elif not entry.is_file() and not entry.is_symlink() and os.path.lexists(entry.path):
                raise UserError(f"{entry.path} is neither a file nor a folder; remove it")


def _entries(folder: Path) -> list[os.DirEntry]:
    """None of a folder that another process has removed meanwhile."""
    try:
        return list(os.scandir(folder))
    except FileNotFoundError:
        return []


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
