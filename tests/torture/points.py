"""A fault at each call, one after the other: what is found then, and where it ends."""

from __future__ import annotations

import errno
import importlib
import random
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.disk import Disk, read
from tests.torture.faults import Fault, Mode, Outcome, perform
from tests.torture.subjects import Subject, contents

ERRORS = (errno.ENOSPC, errno.EIO)
PENDING = (".tmp", ".lock")  # not under a final name


@dataclass
class Count:
    """Points tried and survived; of the others, what was wrong."""

    tried: int = 0
    survived: int = 0
    calls: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, where: str, problems: list[str]) -> None:
        self.tried += 1
        self.survived += not problems
        self.wrong += [f"{where}: {problem}" for problem in problems]


def _unmarked(name: str) -> str:
    """A shard's name without what tells its writer from others: each start has its own."""
    return re.sub(r"(shard-[0-9]{6}-[0-9]{6})-[0-9a-f]{8}", r"\1", name)


class Torture:
    """One subject: its undisturbed run, and faults beside it.

    `expected`: every file at the end. `whole`: the bytes that a file may have under its name at
    any time: those of before, and those that it was renamed with.
    """

    def __init__(self, subject: Subject, home: Path):
        self.subject, self.home = subject, home
        self.expected, self.calls = self._undisturbed()
        folder = self.start()
        self.whole = {name: {content} for name, content in contents(folder).items()}
        disk = Disk(folder)
        log = home / "calls"
        assert perform(subject.work, folder, Fault(Mode.RECORD), record=log).status == 0
        self.recorded = read(log)
        assert len(self.recorded) == self.calls  # the work is the same each time
        for call in self.recorded:
            disk.apply(call)
            if call.name == "rename":
                name = str(Path(call.other).relative_to(folder))
                self.whole.setdefault(_unmarked(name), set()).add(bytes(disk.names[call.other].now))

    def start(self) -> Path:
        folder = self.home / "work" / self.subject.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.subject.before(folder)
        return folder

    def _undisturbed(self) -> tuple[dict[str, bytes], int]:
        """In the folder that the faults are in, as a report has its path; later stages start from
        what it left."""
        folder = self.start()
        outcome = perform(self.subject.work, folder, Fault(Mode.COUNT))
        assert outcome.status == 0, outcome.said
        shutil.copytree(folder, self.home / self.subject.name)
        return contents(folder), outcome.calls

    def torn(self, folder: Path) -> list[str]:
        """Files under their final name that were never whole."""
        return [
            f"{name} is torn"
            for name, content in contents(folder).items()
            if not name.endswith(PENDING) and content not in self.whole.get(_unmarked(name), ())
        ]

    def resumed(self, folder: Path) -> list[str]:
        """After the same call again: what differs from the undisturbed run."""
        outcome = perform(self.subject.work, folder)
        if outcome.status:
            return [f"going on ends with {outcome.status}: {outcome.last}"]
        found = contents(folder)
        names = sorted(found.keys() | self.expected.keys())
        return [f"{n} differs" for n in names if found.get(n) != self.expected.get(n)]

    def kill(self, points: Iterable[int], count: Count, twice: random.Random | None = None) -> None:
        """SIGKILL at each point; with `twice` once more at a call of going on."""
        for at in points:
            folder = self.start()
            outcome = perform(self.subject.work, folder, Fault(Mode.KILL, at))
            problems = [] if outcome.killed else [f"was not killed but ended {outcome.status}"]
            problems += self.torn(folder)
            if twice is not None:
                perform(self.subject.work, folder, Fault(Mode.KILL, twice.randint(1, self.calls)))
                problems += self.torn(folder)
            count.add(f"{self.subject.name}, kill at {at}", problems + self.resumed(folder))

    def fail(self, points: Iterable[int], count: Count, number: int) -> None:
        """The call at each point fails with this errno."""
        for at in points:
            folder = self.start()
            outcome = perform(self.subject.work, folder, Fault(Mode.FAIL, at, number))
            problems = complaint(outcome) + self.torn(folder) + self.resumed(folder)
            count.add(f"{self.subject.name}, {errno.errorcode[number]} at {at}", problems)


def complaint(outcome: Outcome) -> list[str]:
    """What is wrong with how an error was told: success, or status 2 and one line, is right."""
    if outcome.status == 0:
        return []
    if outcome.status != 2:
        return [f"ended with {outcome.status}: {outcome.last}"]
    if "Traceback" in outcome.said or "HDF5-DIAG" in outcome.said:
        return [f"a traceback: {outcome.last}"]
    return []


def spread(calls: int, most: int | None) -> list[int]:
    """1 ... calls, or `most` of them evenly."""
    if most is None or most >= calls:
        return list(range(1, calls + 1))
    return sorted({1 + round(i * (calls - 1) / max(most - 1, 1)) for i in range(most)})


def imported(subject: Subject, folder: Path) -> None:
    """Import here what the work imports in a child, so that each child need not."""
    listed = folder.parent / "modules"

    def work(folder: Path) -> None:
        with suppress(SystemExit):
            subject.work(folder)
        listed.write_text("\n".join(sys.modules))

    perform(work, folder)
    for name in listed.read_text().splitlines():
        with suppress(ImportError):
            importlib.import_module(name)


@contextmanager
def place(home: Path, name: str) -> Iterator[Path]:
    """A folder of that name in `home`, gone afterwards."""
    folder = home / name
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)
