"""A disk in memory that recorded calls are applied to, and what a power loss leaves of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


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


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


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
            inside = {p for p in self.names.keys() | self.kept.keys() if _folder(p) == call.path}
            gone = {p for p in self.kept if _folder(p) not in self.folders}
            self.kept = {p: f for p, f in self.kept.items() if p not in inside | gone}
            self.kept |= {p: f for p, f in self.names.items() if p in inside}
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
