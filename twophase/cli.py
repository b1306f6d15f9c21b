"""The command line: `twophase run quickstart`, one verb per stage, status."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from entk import EntkError
from twophase import config as configs
from twophase.errors import UserError
from twophase.presets import PRESETS
from twophase.rundir import RunDir
from twophase.stages import STAGES, complete, do

# no permission, no space, a file where a directory should be: the user's to put right
DISK = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)

What = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET|CONFIG.toml|RUN", name="what")
]
Out = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Set = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(metavar="KEY=VALUE", help_behavior_hint=""),
]
Workers = Annotated[int, tyro.conf.arg(help_behavior_hint="(default: number of cores)")]


@dataclass(frozen=True)
class _Verb:
    what: What
    """A preset's name, a TOML file, or the directory of a run to go on with."""
    out: Out = None
    """Directory of the run; runs/<name> if left out."""
    set: Set = ()
    """Override a key, as in --set training.steps=500; may be repeated."""
    workers: Workers = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes for independent jobs; results do not depend on it."""


class Run(_Verb):
    """Every stage up to the report; what exists is not computed again."""


class Train(_Verb):
    """Checkpoints of the main run."""


class Chaos(_Verb):
    """Perturbed twins and their controls."""


class Kernels(_Verb):
    """Tangent kernels along the run."""


class Cone(_Verb):
    """Angles between the kernels."""


class Linear(_Verb):
    """Runs that switch to the linearised model."""


class Report(_Verb):
    """report.html, report.json and figures."""


@dataclass(frozen=True)
class Status:
    """What exists of a run."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Directory of the run."""


Command = Run | Train | Chaos | Kernels | Cone | Linear | Report | Status


def main(arguments: list[str] | None = None) -> None:
    """Exit status 0: done; 2: the user's to put right, one line on stderr; 130: interrupted."""
    description = "The chaos effect, the cone effect and the linear switch of a training run."
    command = tyro.cli(Command, prog="twophase", description=description, args=arguments)
    try:
        _status(command.run) if isinstance(command, Status) else _stages(command)
    except (UserError, EntkError) as error:
        print(f"twophase: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"twophase: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("twophase: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _stages(command: _Verb) -> None:
    run = _open(command)
    if command.workers < 1:
        raise UserError(f"--workers {command.workers}: expected at least 1")
    name = type(command).__name__.lower()
    with _Bars() as bars:
        do(run, "report" if name == "run" else name, bars, command.workers, set())
    if name in ("run", "report"):
        for answer in run.load_json(run.path / "report.json")["answers"]:
            print(f"{answer['question']}: {answer['word']}")
        print(f"report: {run.report}")


def _open(command: _Verb) -> RunDir:
    path = Path(command.what)
    if command.what in PRESETS:
        config = configs.build(PRESETS[command.what], command.set)
    elif (path / "config.toml").exists():
        if command.set or command.out:
            raise UserError(
                f"{path} is a run: its config is settled; --set and --out are for presets and files"
            )
        return RunDir.open(path)
    elif path.is_file():
        values = configs.read(path)
        values.pop("format", None)  # a run's own config.toml as the start of another
        config = configs.build(values, command.set)
    else:
        raise UserError(
            f"{command.what!r} is no preset ({', '.join(PRESETS)}), no TOML file and no run "
            "directory"
        )
    return RunDir.create(command.out or Path("runs") / config.name, config)


def _status(path: Path) -> None:
    run = RunDir.open(path)
    table = Table("stage", "done", "files", title=str(path), title_justify="left")
    for name, stage in STAGES.items():
        files = stage.outputs(run)
        there = sum(file.exists() for file in files)
        table.add_row(name, "yes" if complete(run, name) else "no", f"{there}/{len(files)}")
    Console().print(table)


class _Bars:
    """Bars with an estimate on a terminal; one line per stage elsewhere."""

    def __init__(self):
        console = Console(stderr=True)
        columns = (
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
            *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
        )
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.plain = not console.is_terminal
        self.task = None

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *exc) -> None:
        self.progress.stop()

    def start(self, name: str, total: int, done: int) -> None:
        self.task = self.progress.add_task(f"{name:<8}", total=total, completed=done)

    def step(self, count: int = 1) -> None:
        self.progress.advance(self.task, count)

    def finish(self, name: str, seconds: float, skipped: bool) -> None:
        if self.task is not None and not skipped:
            task = self.progress.tasks[-1]
            self.progress.update(self.task, completed=task.total)
        if self.plain:
            print(f"{name}: " + ("exists" if skipped else f"{seconds:.1f} s"), file=sys.stderr)
