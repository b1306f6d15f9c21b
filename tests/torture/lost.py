"""Power loss, replayed: the calls that were recorded, without what no fsync made last.

The disk is taken to keep what POSIX makes it keep and nothing else: the bytes of a file that were
written before its last fsync, and the names that were in a folder at its last fsync. In the other
form every name is kept, also one that no fsync of the folder followed: a renamed file then has
only the bytes that were synced, which is what finds a rename before an fsync.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.faults import Fault, Mode, perform
from tests.torture.points import Count, Torture


@dataclass(frozen=True)
class Call:
    name: str
    path: str
    other: str
    offset: int
    data: bytes


@dataclass
class File:
    """An inode: what programs see, and what a power loss leaves."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


def read(log: Path) -> list[Call]:
    calls, raw, at = [], log.read_bytes(), 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        name, path, other, offset, size = raw[at:end].decode().split("\t")
        at = end + 1 + int(size)
        calls.append(Call(name, path, other, int(offset), raw[end + 1 : at]))
    return calls


class Disk:
    """Files and folders as the calls leave them; what was there at the start is synced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names: dict[str, File] = {}
        self.folders = {str(folder)} | {str(p) for p in folder.rglob("*") if p.is_dir()}
        for path in (p for p in folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            self.names[str(path)] = File(bytearray(content), content)
        self.kept = dict(self.names)  # names that a power loss leaves

    def apply(self, call: Call) -> None:
        file = self.names.get(call.path)
        if call.name in ("open", "truncate"):
            file = self.names.setdefault(call.path, File())
            if call.name == "truncate":
                file.now.clear()
        elif call.name == "write":
            file.now.extend(bytes(max(0, call.offset + len(call.data) - len(file.now))))
            file.now[call.offset : call.offset + len(call.data)] = call.data
        elif call.name == "ftruncate":
            del file.now[call.offset :]
            file.now.extend(bytes(call.offset - len(file.now)))
        elif call.name == "fsync" and call.path in self.folders:
            inside = lambda p: os.path.dirname(p) == call.path  # noqa: E731, PTH120 - text
            self.kept = {p: f for p, f in self.kept.items() if not inside(p)}
            self.kept |= {p: f for p, f in self.names.items() if inside(p)}
        elif call.name == "fsync":
            file.synced = bytes(file.now)
        elif call.name == "rename":
            self.names[call.other] = self.names.pop(call.path)
        elif call.name == "unlink":
            self.names.pop(call.path, None)
        elif call.name == "mkdir":
            self.folders.add(call.path)
        elif call.name == "rmdir" and not any(p.startswith(f"{call.path}/") for p in self.names):
            self.folders.discard(call.path)

    def after_power_loss(self, folder: Path, names_last: bool) -> None:
        """Write what is left into an empty folder in the place of the old one."""
        for path in sorted(self.folders):
            Path(path.replace(str(self.folder), str(folder), 1)).mkdir(exist_ok=True, parents=True)
        for path, file in (self.names if names_last else self.kept).items():
            target = Path(path.replace(str(self.folder), str(folder), 1))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.synced)


def replay(torture: Torture, points: Iterable[int], count: Count) -> None:
    """Power lost after each of these calls, in both forms; then the work goes on."""
    log = torture.home / "calls"
    folder = torture._start()
    disk = Disk(folder)
    outcome = perform(torture.subject.work, folder, Fault(Mode.RECORD), record=log)
    assert outcome.status == 0, outcome.said
    wanted = set(points)
    for at, call in enumerate(read(log), 1):
        disk.apply(call)
        if at not in wanted:
            continue
        for names_last in (False, True):
            empty = torture._start()
            for path in sorted(empty.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            disk.after_power_loss(empty, names_last)
            form = "names kept" if names_last else "names lost"
            problems = torture.torn(empty) + torture.resumed(empty)
            count.add(f"{torture.subject.name}, power lost after {at}, {form}", problems)
