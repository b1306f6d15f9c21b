"""A run is a directory that replays itself. Files appear by rename: one that exists is complete."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from twophase import config as configs
from twophase.config import Config
from twophase.digests import digest
from twophase.disk import alone, check_tree, reading, refused, sha256, write_atomic
from twophase.errors import UserError

FORMAT = 3  # of a run directory; raised when files of an earlier one cannot be gone on with
# of a run, a sweep or a comparison, which a run that begins would take for its own
RESULTS = ("sweep.toml", "report.json", "tables/*.csv", "checkpoints/*/*.safetensors")
RESULTS += ("chaos/*.json", "kernels/*/*.h5", "linear/*/*.json")


@dataclass(frozen=True)
class RunDir:
    """Paths, and reading and writing, of one run."""

    path: Path
    config: Config

    @classmethod
    def create(cls, path: Path, config: Config, belongs: Any = None) -> RunDir:
        """Start a run, or go on with the one that is there if it has the same config.

        It starts under the directory's lock: of two commands one is told that it is second.
        """
        if (path / "config.toml").exists():
            return cls.begin(path, config)
        with alone(path):
            return cls.begin(path, config, belongs)

    @classmethod
    def begin(cls, path: Path, config: Config, belongs: Any = None) -> RunDir:
        """As `create`, for who holds the directory; `belongs`: the record that a new one gets."""
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
        there = next((found for name in RESULTS for found in path.glob(name)), None)
        if there:
            raise UserError(
                f"{path} has no config.toml, and {there.relative_to(path)} of something else; "
                "choose another --out, or remove the whole folder"
            )
        text = configs.dump(config)
        head = f'format = {FORMAT}\nsha256 = "{sha256(text)}"\n'
        run = cls(path, config)
        if belongs is not None:  # before the config, without which there is no run
            run.save_record(run.belongs, belongs)
        write_atomic(file, f"{head}{text}".encode())
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        file = path / "config.toml"
        if not file.exists():
            raise UserError(f"{path} is no run directory: it has no config.toml")
        check_tree(path)
        values = configs.read(file)
        found, seal = values.pop("format", 1), values.pop("sha256", None)
        if found != FORMAT:
            raise UserError(
                f"{path} is a run of format {found!r}, and this twophase goes on with format "
                f"{FORMAT} only: use the version that made it (its commit: environment.json), or "
                "start another run"
            )
        run = cls(path, configs.build(values))
        if seal != sha256(configs.dump(run.config)):
            raise UserError(
                f"{file} was changed after the run began, and what is there is of another config; "
                "undo that, or start another run with a copy of it"
            )
        return run

    def checkpoint(self, arm: str, step: int) -> Path:
        return self.path / "checkpoints" / arm / f"step-{step:06d}.safetensors"

    def halfway(self, arm: str, step: int) -> Path:
        """A state between two checkpoints, kept until the next one is there."""
        return self.path / "checkpoints" / arm / f"halfway-{step:06d}.safetensors"

    def kernel(self, arm: str, step: int) -> Path:
        return self.path / "kernels" / arm / f"step-{step:06d}.h5"

    def kernel_origin(self, arm: str, step: int) -> Path:
        """Which state of which checkpoint a kernel is of."""
        return self.kernel(arm, step).with_suffix(".json")

    def twin(self, t0: int, draw: int) -> Path:
        """What became of a twin, in all arms; draw 0 is the control."""
        return self.path / "chaos" / f"t0-{t0:06d}-draw{draw}.json"

    def switched(self, variant: str, step: int) -> Path:
        return self.path / "linear" / variant / f"switch-{step:06d}.json"

    def table(self, name: str) -> Path:
        return self.path / "tables" / f"{name}.csv"

    @property
    def belongs(self) -> Path:
        """Digests of what the run was begun with; see `twophase.belongs`."""
        return self.path / "belongs.json"

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
        about |= {"step": step}
        about["sha256"] = _digest(path.name, about, tensors)
        # one entry: safetensors orders several as it likes, and equal states are equal files here
        write_atomic(path, save(tensors, {"twophase": json.dumps(about)}))

    def load_state(self, path: Path) -> dict[str, Tensor]:
        with reading(path):
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["twophase"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.pop("sha256") != _digest(path.name, about, tensors):
                raise ValueError("its checksum is wrong")
            if about["seed"] != self.config.seed:
                raise ValueError(f"it is of a run with seed {about['seed']}")
        return tensors

    def save_json(self, path: Path, value: Any) -> None:
        """For people and other programs."""
        write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode())

    def load_json(self, path: Path) -> dict:
        with reading(path):
            found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
            if not isinstance(found, dict):
                raise ValueError(f"it holds a {type(found).__name__}")
        return found

    def save_record(self, path: Path, value: Any) -> None:
        """What later stages go on with: JSON with a checksum over it and the file's name."""
        self.save_json(path, {"sha256": _record_digest(path, value), "value": value})

    def load_record(self, path: Path) -> Any:
        found = self.load_json(path)
        with reading(path):
            if found["sha256"] != _record_digest(path, found["value"]):
                raise ValueError("its checksum is wrong")
        return found["value"]

    def save_table(self, name: str, columns: tuple[str, ...], rows: Iterable[dict]) -> None:
        """As CSV, and its checksum beside it, as sha256sum writes and reads it."""
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        # the checksum first: a table that exists has one
        write_atomic(self._checksum(name), f"{sha256(text.getvalue())}  {name}.csv\n".encode())
        write_atomic(self.table(name), text.getvalue().encode())

    def load_table(self, name: str) -> list[dict[str, str]]:
        path = self.table(name)
        with reading(path):
            text = path.read_bytes().decode()
            if self._checksum(name).read_text() != f"{sha256(text)}  {name}.csv\n":
                raise ValueError(f"{self._checksum(name).name} says otherwise")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def _checksum(self, name: str) -> Path:
        return self.table(name).with_suffix(".csv.sha256")

    def log(self, event: str, **values: Any) -> None:
        """One line in log.jsonl; a record for people, nothing is read back from it."""
        file = self.path / "log.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with file.open("a") as lines:
                lines.write(json.dumps({"event": event, **values}) + "\n")
        except OSError as error:
            raise refused(file, error) from error


def folder(name: str, after: str = "") -> Path:
    """Of a run of that name: in runs/ and nowhere else, for a config may come from anyone."""
    if Path(name).name != name or not name.isprintable() or name.startswith("."):
        raise UserError(f"name={name!r:.80} is no name of a folder in runs/; pass --out")
    return Path("runs") / f"{name}{after}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _digest(name: str, about: dict, tensors: dict[str, Tensor]) -> str:
    """Over the file's name, what is said about the state, and names, forms and bytes of it."""
    return digest(tensors, f"{name} {json.dumps(about)}\n", "\n")


def _record_digest(path: Path, value: Any) -> str:
    return sha256(f"{path.name} {json.dumps(value, allow_nan=False)}")


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
