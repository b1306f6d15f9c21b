"""One run among several: how far it came, what was found in it, its line in the common table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from twophase import phases, tables
from twophase.errors import UserError
from twophase.rundir import RunDir
from twophase.tables import Tables
from twophase.wording_chaos import SPOKEN

NEEDED = ("train", "chaos", "cone_lagged", "linear")  # tables of a finished run
SCORES = ("train_loss", "train_error", "test_loss", "test_error")
FALL = ("first", "last", "kept", "half", "half_low", "half_high", "word")
CONE = ("cone", "turn_early_deg", "turn_late_deg", "widest_deg", "confinement")
LINEAR = ("linear", "lazy_error", "best_error", "nonlinear_error", "half_closed")


@dataclass(frozen=True)
class Point:
    """A run beside others; `values` are those of the keys in which they differ."""

    name: str
    values: dict[str, Any]
    run: RunDir
    state: str  # finished, diverged or unfinished
    reason: str  # why it is not finished
    tables: Tables
    findings: dict

    @property
    def chaos(self) -> dict:
        """{measure: its fall} in the arm that verdicts rest on."""
        found = self.findings["chaos"]
        return found["arms"][found["arm"]]["measures"] if found else {}

    @property
    def cone(self) -> dict | None:
        """Findings on the kernel in the arm that verdicts rest on."""
        found = self.findings["cone"]
        return found["arms"][found["arm"]] if found else None

    @property
    def scores(self) -> dict[str, float | None]:
        """Losses and errors at the last step of that arm; empty where there are none."""
        rows = self.tables["train"]
        arm = phases.judged(phases.arms_of(rows)) if rows else None
        last = self.run.config.training.steps
        line = [r for r in rows if r["arm"] == arm and r["step"] == last]
        return {name: line[0][name] for name in SCORES} if line else {}


def load(run: RunDir, name: str, values: dict[str, Any]) -> Point:
    """Read the tables that exist."""
    training = run.config.training
    try:
        found, _ = tables.load(run)
        findings = phases.summary(found, training.steps, training.milestones)
    except UserError as error:
        raise UserError(f"{run.path}: {error}") from None
    state, reason = "finished", ""
    missing = [f"{table}.csv" for table in NEEDED if not run.table(table).exists()]
    if run.diverged.exists():
        state, reason = "diverged", run.load_record(run.diverged)["reason"]
    elif missing:
        state, reason = "unfinished", f"{', '.join(missing)} not there"
    return Point(name, values, run, state, reason, found, findings)


def half(fall: dict | None) -> float | None:
    """The half-fall point of a measure that falls, as its word has it; else None."""
    return fall["half"] if fall and fall["verdict"].startswith("falls") else None


def columns(keys: list[str]) -> tuple[str, ...]:
    """Of sweep.csv."""
    falls = (f"{measure}_{what}" for measure in SPOKEN for what in FALL)
    head = (*keys, "point", "state", "arm", *SCORES, "chaos")
    return (*head, *falls, *CONE, *LINEAR, "controls_exact")


def row(point: Point) -> dict[str, Any]:
    """The point's line of sweep.csv; what was not measured is None."""
    chaos = point.findings["chaos"]
    found = {k: v if isinstance(v, str) else json.dumps(v) for k, v in point.values.items()}
    found |= {"point": point.name, "state": point.state, **point.scores}
    if chaos:
        found |= {"arm": chaos["arm"], "chaos": chaos["verdict"]}
        found["controls_exact"] = chaos["controls"]["exact"]
    for measure, fall in point.chaos.items():
        if measure in SPOKEN:
            found |= {f"{measure}_{k}": v for k, v in _fall(fall).items()}
    if point.cone:
        found |= dict(zip(CONE, _cone(point.cone), strict=True))
    if point.findings["linear"]:
        found |= dict(zip(LINEAR, _linear(point.findings["linear"]), strict=True))
    return {name: found.get(name) for name in columns(list(point.values))}


def _fall(fall: dict) -> dict[str, Any]:
    seen = half(fall) is not None
    interval = (fall["interval"] if seen else None) or {"low": None, "high": None}
    where = (half(fall), interval["low"], interval["high"])
    values = (fall["early"], fall["late"], fall["kept"], *where, fall["verdict"])
    return dict(zip(FALL, values, strict=True))


def _cone(arm: dict) -> tuple:
    turns = (arm["early"]["deg"], arm["floor"]["deg"])
    return (arm["verdict"], *turns, arm["widest_deg"], arm["confinement"])


def _linear(found: dict) -> tuple:
    """Of the variant that the verdict rests on."""
    chief = found["variants"].get(found["variant"], {"test_error": {}, "lazy": None, "half": None})
    known = [e for e in chief["test_error"].values() if e is not None]
    errors = (chief["lazy"], min(known, default=None), found["nonlinear"])
    return (found["verdict"], *errors, chief["half"])
