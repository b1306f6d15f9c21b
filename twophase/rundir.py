"""A run is a directory that replays itself. Files appear by rename: one that exists is complete."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from twophase import config as configs
from twophase.config import Config
from twophase.errors import UserError

FORMAT = 2  # of a run directory; raised when files of an earlier one cannot be gone on with


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
        raise UserError(
            f"{path} could not be written ({error}); what was finished is kept: "
            "free space or repair the disk and run again"
        ) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a disk that cannot sync folders
            raise
    finally:
        os.close(handle)


def remove_stale(folder: Path) -> None:
    """Remove temporary files that processes of this machine left when they were killed."""
    for file in folder.rglob(f".*.{socket.gethostname()}.*.tmp"):
        pid = file.stem.rpartition(".")[2]
        if pid.isdecimal() and not _lives(int(pid)):
            file.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


@dataclass(frozen=True)
class RunDir:
    """Paths, and reading and writing, of one run."""

    path: Path
    config: Config

    @classmethod
    def create(cls, path: Path, config: Config) -> RunDir:
        """Start a run, or go on with the one that is there if it has the same config."""
        file = path / "config.toml"
        if file.exists():
            run = cls.open(path)
            differs = differences(run.config.model_dump(), config.model_dump())
            if differs:
                raise UserError(
                    f"{path} holds a run with another config ({'; '.join(differs[:4])}); choose "
                    "another --out, or remove it"
                )
            return run
        write_atomic(file, f"format = {FORMAT}\n{configs.dump(config)}".encode())
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        file = path / "config.toml"
        if not file.exists():
            raise UserError(f"{path} is no run directory: it has no config.toml")
        values = configs.read(file)
        found = values.pop("format", 1)
        if found != FORMAT:
            raise UserError(
                f"{path} is a run of format {found!r}, and this twophase goes on with format "
                f"{FORMAT} only: use the version that made it (its commit: environment.json), or "
                "start another run"
            )
        return cls(path, configs.build(values))

    def checkpoint(self, arm: str, step: int) -> Path:
        return self.path / "checkpoints" / arm / f"step-{step:06d}.safetensors"

    def halfway(self, arm: str, step: int) -> Path:
        """A state between two checkpoints, kept until the next one is there."""
        return self.path / "checkpoints" / arm / f"halfway-{step:06d}.safetensors"

    def kernel(self, arm: str, step: int) -> Path:
        return self.path / "kernels" / arm / f"step-{step:06d}.h5"

    def twin(self, t0: int, draw: int) -> Path:
        """What became of a twin, in all arms; draw 0 is the control."""
        return self.path / "chaos" / f"t0-{t0:06d}-draw{draw}.json"

    def switched(self, variant: str, step: int) -> Path:
        return self.path / "linear" / variant / f"switch-{step:06d}.json"

    def table(self, name: str) -> Path:
        return self.path / "tables" / f"{name}.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def diverged(self) -> Path:
        """Why a point of a sweep has no further results: its training diverged."""
        return self.path / "diverged.json"

    def save_state(self, path: Path, state: dict[str, Tensor], *, arm: str, step: int) -> None:
        """Tensors, and beside them what else the next step depends on: the seed and the step."""
        tensors = {k: v.detach().contiguous().clone() for k, v in state.items()}
        about = {"arm": arm, "rate": self.config.rate(arm, step), "seed": self.config.seed}
        # one entry: safetensors orders several as it likes, and equal states are equal files here
        write_atomic(path, save(tensors, {"twophase": json.dumps({**about, "step": step})}))

    def load_state(self, path: Path) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except (
            SafetensorError,
            OSError,
            RuntimeError,
        ) as error:  # the last is torch's
            raise UserError(
                f"{path} is damaged or cannot be read ({error}); delete it and run again"
            ) from None

    def save_json(self, path: Path, value: Any) -> None:
        write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode())

    def load_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it and run again") from None

    def save_table(self, name: str, columns: tuple[str, ...], rows: Iterable[dict]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        write_atomic(self.table(name), text.getvalue().encode())

    def load_table(self, name: str) -> list[dict[str, str]]:
        with self.table(name).open(newline="") as file:
            return list(csv.DictReader(file))

    def log(self, event: str, **values: Any) -> None:
        """One line in log.jsonl; a record for people, nothing is read back from it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """`key is a there, b here` for every dotted key in which nested values differ."""
    found = []
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} is {a!r} there, {b!r} here")
    return sorted(found)
