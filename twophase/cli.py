"""The command line: `twophase run quickstart`, one verb per stage, status."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from entk import EntkError
from twophase import config as configs
from twophase import elements, jobs, launch
from twophase import grid as grids
from twophase import sweep as sweeps
from twophase.bars import Bars
from twophase.disk import alone, printing
from twophase.errors import JobFailedError, UserError
from twophase.presets import PRESETS
from twophase.rundir import RunDir, folder
from twophase.stages import STAGES, complete, do
from twophase.sweep import Sweep as SweepDir

# no permission, no space, a broken disk, a file in place of a directory: the user's to put right
DISK = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
DISK += (errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EIO, errno.EPERM)

What = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET|CONFIG.toml|RUN", name="what")
]
Base = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET|CONFIG.toml|SWEEP", name="what")
]
Several = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="PRESET|CONFIG.toml|RUN|SWEEP", name="what"),
]
Out = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Set = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(metavar="KEY=VALUE", help_behavior_hint=""),
]
Grids = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(metavar="KEY=V1,V2,...", help_behavior_hint=""),
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


@dataclass(frozen=True)
class Run(launch.Launch, _Verb):
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


@dataclass(frozen=True)
class Report(_Verb):
    """report.html, report.json and figures; of several runs, one page that compares them."""

    what: Several = ()
    """A preset's name, a TOML file, the directory of a run or a sweep; or of several runs."""
    out: Out = None
    """Directory of the run, runs/<name> if left out; of several runs, runs/comparison."""


@dataclass(frozen=True)
class Sweep(launch.Launch, _Verb):
    """The product of grids over any keys, a run for each point, and one report over all."""

    what: Base
    """A preset's name, a TOML file, or the directory of a sweep to go on with."""
    grid: Grids = ()
    """Values of a key, as in --grid seed=0,1,2; may be repeated."""
    out: Out = None
    """Directory of the sweep; runs/<name>-sweep if left out."""


@dataclass(frozen=True)
class Status:
    """What exists of a run or a sweep."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SWEEP")]
    """Its directory."""


Command = Run | Train | Chaos | Kernels | Cone | Linear | Report | Sweep | Status


def main(arguments: list[str] | None = None) -> None:
    """Exit status 0: done; 1: a job failed; 2: the user's to put right; 130: interrupted."""
    description = "The chaos effect, the cone effect and the linear switch of a training run."
    try:
        with printing():
            _perform(tyro.cli(Command, prog="twophase", description=description, args=arguments))
    except (UserError, EntkError) as error:
        print(f"twophase: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except JobFailedError as error:
        print(f"twophase: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"twophase: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("twophase: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _perform(command: Command) -> None:
    if isinstance(command, Status):
        _status(command.run)
        return
    if command.workers < 1:
        raise UserError(f"--workers {command.workers}: expected at least 1")
    if isinstance(command, launch.Launch):
        command.check()
    if isinstance(command, Sweep):
        _sweep(command)
    elif isinstance(command, Report):
        _report(command)
    else:
        _stages(command, command.what)


def _stages(command: _Verb, what: str) -> None:
    run = _open(command, what)
    name = type(command).__name__.lower()
    if isinstance(command, Run) and command.launcher and not complete(run, "report"):
        _print(launch.launch(run, command, command.workers))
        return
    done = all(complete(run, stage) for stage in STAGES)
    with nullcontext() if done else alone(run.path), Bars() as bars:
        if not done:
            RunDir.begin(run.path, run.config)  # another may have begun since
            jobs.check_idle(run.path)
        do(run, "report" if name == "run" else name, bars, command.workers, set())
    if name in ("run", "report"):
        _print(elements.answers(run))


def _report(command: Report) -> None:
    """Of one run as any stage; of several, or of a sweep, from what is there of them."""
    from twophase import report_sweep  # matplotlib takes a second

    first, *more = command.what or ("",)
    sweep = not more and (Path(first) / sweeps.FILE).exists()
    if not sweep and not more:
        _stages(command, first)
        return
    if command.set or (sweep and command.out):
        raise UserError("--set is for presets and files, and --out not for a sweep: both are done")
    if sweep:
        with alone(Path(first)):
            answers = report_sweep.of_sweep(SweepDir.open(Path(first)))
        _print(elements.lines(answers, Path(first)))
    else:
        out = command.out or Path("runs/comparison")
        with alone(out):
            answers = report_sweep.of_runs([Path(p) for p in command.what], out)
        _print(elements.lines(answers, out))


def _sweep(command: Sweep) -> None:
    from twophase import report_sweep

    path = Path(command.what)
    if (path / sweeps.FILE).exists():
        if command.grid or command.set or command.out:
            raise UserError(
                f"{path} is a sweep: its grid is settled; --grid, --set and --out are for presets "
                "and files"
            )
        sweep = SweepDir.open(path)
    else:
        base = _config(command, command.what, "no directory of a sweep")
        out = command.out or folder(base.name, "-sweep")
        sweep = SweepDir.create(out, base, grids.parse(command.grid))
    if command.launcher and any(sweeps.state(r) == "open" for r in sweep.runs().values()):
        _print(launch.launch(sweep, command, command.workers))
        return
    with alone(sweep.path), Bars() as bars:
        SweepDir.begin(sweep.path, sweep.base, sweep.grid)  # another may have begun since
        jobs.check_idle(sweep.path)
        started = time.monotonic()
        sweeps.work(sweep, bars, command.workers)
        bars.finish("points", time.monotonic() - started, skipped=False)
        answers = report_sweep.of_sweep(sweep)
    _print(elements.lines(answers, sweep.path))


def _print(lines: list[str]) -> None:
    for line in lines:
        print(line)


def _open(command: _Verb, what: str) -> RunDir:
    path = Path(what)
    if what not in PRESETS and (path / "config.toml").exists():
        if command.set or command.out:
            raise UserError(
                f"{path} is a run: its config is settled; --set and --out are for presets and files"
            )
        return RunDir.open(path)
    config = _config(command, what, "no run directory")
    return RunDir.create(command.out or folder(config.name), config)


def _config(command: _Verb, what: str, nor: str) -> configs.Config:
    """Of a preset or a file, with what --set overrides."""
    if what in PRESETS:
        return configs.build(PRESETS[what], command.set)
    if (Path(what) / sweeps.FILE).exists():
        raise UserError(f"{what} is a sweep: `twophase sweep {what}` goes on with all its points")
    if not Path(what).is_file():
        raise UserError(f"{what!r} is no preset ({', '.join(PRESETS)}), no TOML file and {nor}")
    values = configs.read(Path(what))
    for key in ("format", "sha256"):  # a run's own config.toml as the start of another
        values.pop(key, None)
    return configs.build(values, command.set)


def _status(path: Path) -> None:
    if (path / sweeps.FILE).exists():
        table = Table("point", "state", "stages", title=str(path), title_justify="left")
        for run in sweeps.points(SweepDir.open(path)):
            done = sum(complete(run, stage) for stage in STAGES)
            table.add_row(Text(run.path.name), sweeps.state(run), f"{done}/{len(STAGES)}")
        _show(table)
        _jobs(path)
        return
    run = RunDir.open(path)
    table = Table("stage", "done", "files", title=str(path), title_justify="left")
    for name in (*run.config.stages, "report"):
        files = STAGES[name].outputs(run)
        there = sum(file.exists() for file in files)
        table.add_row(name, "yes" if complete(run, name) else "no", f"{there}/{len(files)}")
    _show(table)
    _jobs(path)


def _show(table: Table) -> None:
    """Printed as anything else is: of a closed pipe rich would end the program by itself."""
    console = Console()
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="")


def _jobs(path: Path) -> None:
    """The last submission, if there is one."""
    sent = jobs.recorded(path)
    if sent:
        table = Table("job", "what", "state", title=str(path / jobs.FILE), title_justify="left")
        states = jobs.states([job for _, job in sent])
        for (name, job), state in zip(sent, states, strict=True):
            table.add_row(job.job_id, name, state.word)
        _show(table)
