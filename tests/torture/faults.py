"""Work in forked children under the preloaded library: killed, failed or recorded at a call."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("interpose.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
SECONDS = 120  # a child that takes longer hangs


class Mode(IntEnum):
    """As in interpose.c."""

    OFF = 0
    COUNT = 1
    KILL = 2
    FAIL = 3
    RECORD = 4


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th call that changes files below the folder."""

    mode: Mode = Mode.OFF
    at: int = 0
    errno: int = 0
    only: str = ""  # the name of the calls that are counted; all if empty


@dataclass(frozen=True)
class Outcome:
    """`status` as of a shell: 0, 2 (an error that is the user's to put right), 70 (any other)."""

    status: int
    calls: int
    said: str  # the whole of stderr

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def last(self) -> str:
        return self.said.strip().splitlines()[-1] if self.said.strip() else ""


def build(folder: Path) -> Path:
    """The library, compiled; raises CalledProcessError."""
    out = folder / "interpose.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-o", out, SOURCE, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return out


def preloaded() -> bool:
    return "interpose.so" in os.environ.get("LD_PRELOAD", "")


def restart(arguments: list[str]) -> int:
    """This program again, with the library before all others."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(build(Path(folder))),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }
        command = [sys.executable, "-m", "tests.torture", *arguments]
        return subprocess.run(command, env=environment, check=False).returncode


def perform(
    work: Callable[[Path], None],
    folder: Path,
    fault: Fault = Fault(),
    record: Path | None = None,
) -> Outcome:
    """work(folder) in a child of this process, with the fault."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as counted:
        pid = os.fork()
        if pid == 0:
            os._exit(_child(work, folder, fault, record, said.fileno(), counted.fileno()))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        counted.seek(0)
        return Outcome(status, int(counted.read() or 0), said.read())


def _child(work, folder: Path, fault: Fault, record: Path | None, said: int, counted: int) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.alarm(SECONDS)
    library = ctypes.CDLL(None)
    log = -1 if record is None else os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    arm = (str(folder).encode(), int(fault.mode), ctypes.c_long(fault.at), fault.errno)
    library.torture_arm(*arm, fault.only.encode(), log)
    status = 0
    try:
        work(folder)
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        status = _report(error)
    library.torture_calls.restype = ctypes.c_long
    os.write(counted, str(library.torture_calls()).encode())
    library.torture_arm(b"/nowhere", int(Mode.OFF), ctypes.c_long(0), 0, b"", -1)
    sys.stderr.flush()
    return status


def _report(error: BaseException) -> int:
    """As a caller of the library sees it: the type tells whether it is meant for the user."""
    import entk
    import twophase

    if isinstance(error, (entk.EntkError, twophase.UserError)):
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    traceback.print_exc()
    return 70
