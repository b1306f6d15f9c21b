"""A sweep: the points of a grid as ordinary runs beside one another, in parallel processes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from entk import EntkError
from twophase import config as configs
from twophase import grid as grids
from twophase.config import Config
from twophase.disk import alone, check_tree, sha256, write_atomic
from twophase.errors import DivergedError, UserError
from twophase.grid import Grid
from twophase.parallel import map_calls
from twophase.points import Point, load
from twophase.rundir import RunDir, differences
from twophase.stages import STAGES, Bar, complete, do

FILE = "sweep.toml"


@dataclass(frozen=True)
class Sweep:
    """A directory with the base config and the grid in sweep.toml, and a run for each point."""

    path: Path
    base: Config
    grid: Grid

    @classmethod
    def create(cls, path: Path, base: Config, grid: Grid) -> Sweep:
        """Start a sweep, or go on with the one that is there if it is the same."""
        if (path / "config.toml").exists():
            raise UserError(f"{path} holds a run, not a sweep; choose another --out")
        if not grid:
            raise UserError("a sweep needs a grid: --grid KEY=V1,V2,..., for example seed=0,1,2")
        grids.points(base, grid)
        if (path / FILE).exists():
            return cls.begin(path, base, grid)
        with alone(path):
            return cls.begin(path, base, grid)

    @classmethod
    def begin(cls, path: Path, base: Config, grid: Grid) -> Sweep:
        """As `create`, for who holds the directory, and of a grid whose points there are."""
        if not (path / FILE).exists():
            sweep = cls(path, base, grid)
            write_atomic(path / FILE, sweep.dump().encode())
            return sweep
        sweep = cls.open(path)
        old, new = (
            {"grid": s, **b.model_dump()} for s, b in ((sweep.grid, sweep.base), (grid, base))
        )
        found = differences(old, new)
        if found or list(sweep.grid) != list(grid):
            why = "; ".join(found[:4]) or f"grids in the order {', '.join(sweep.grid)}"
            raise UserError(
                f"{path} holds another sweep ({why}); choose another --out, or remove it"
            )
        return sweep

    @classmethod
    def open(cls, path: Path) -> Sweep:
        check_tree(path)
        found = configs.read(path / FILE)
        grid = found.get("grid")
        lists = isinstance(grid, dict) and all(isinstance(v, list) and v for v in grid.values())
        if found.keys() != {"sha256", "grid", "base"} or not grid or not lists:
            raise UserError(f"{path / FILE} is no record of a sweep; remove it and start again")
        sweep = cls(path, configs.build(found["base"]), grid)
        if sha256(sweep._text()) != found["sha256"]:
            raise UserError(f"{path / FILE} was changed after the sweep began; undo that")
        return sweep

    def dump(self) -> str:
        """The record as TOML: [grid], a list for each key, and [base], every key written out."""
        return f'sha256 = "{sha256(self._text())}"\n\n{self._text()}'

    def _text(self) -> str:
        lines = [f"{configs.toml(key)} = {configs.toml(v)}" for key, v in self.grid.items()]
        base = re.sub(r"^\[(\w+)\]$", r"[base.\1]", configs.dump(self.base), flags=re.MULTILINE)
        return "\n".join(["[grid]", *lines, "", "[base]", base])

    def runs(self) -> dict[str, RunDir]:
        """{point: its run}, whether anything of it exists or not."""
        points = grids.points(self.base, self.grid)
        return {name: RunDir(self.path / name, config) for name, config in points.items()}

    def points(self) -> list[Point]:
        """What is there of each point; raises UserError: a run of another config."""
        return [
            load(run, run.path.name, {key: grids.lookup(run.config, key) for key in self.grid})
            for run in points(self)
        ]


def state(run: RunDir) -> str:
    """ "diverged" and "done" have nothing left to do, "open" has."""
    if run.diverged.exists():
        return "diverged"
    return "done" if all(complete(run, stage) for stage in STAGES) else "open"


def points(sweep: Sweep) -> list[RunDir]:
    """The runs; raises UserError: in a point's place there is a run of another config."""
    runs = list(sweep.runs().values())
    for run in runs:
        if (run.path / "config.toml").exists():
            RunDir.begin(run.path, run.config)
    return runs


def work(sweep: Sweep, bar: Bar, workers: int) -> None:
    """Every point that is not settled, each in a process of its own.

    A single one has all the workers to itself. Diverged points are recorded and end no other.
    """
    runs = points(sweep)
    missing = [run for run in runs if state(run) == "open"]
    bar.start("points", len(runs), len(runs) - len(missing))
    inner = workers if len(missing) == 1 else 1
    map_calls(follow, [(run, inner) for run in missing], workers, lambda _: bar.step())


class _Silent:
    """The bar of a point: the sweep has one for all."""

    def start(self, name: str, total: int, done: int) -> None: ...
    def step(self, count: int = 1) -> None: ...
    def finish(self, name: str, seconds: float, skipped: bool) -> None: ...


def follow(run: RunDir, workers: int) -> None:
    """All stages of one point; that its training diverged is a result."""
    try:
        with alone(run.path):
            RunDir.begin(run.path, run.config)
            do(run, "report", _Silent(), workers, set())
    except DivergedError as error:
        run.save_record(run.diverged, {"reason": str(error)})
    except (UserError, EntkError) as error:
        raise UserError(f"point {run.path.name}: {error}") from None
