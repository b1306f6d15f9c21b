"""One page and one table over several runs: a sweep's points, or any finished runs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from twophase import across, aggregate, plots_sweep, plotstyle, points, wording_sweep
from twophase import config as configs
from twophase import grid as grids
from twophase.disk import write_atomic
from twophase.errors import UserError
from twophase.phases import MEASURES
from twophase.points import Point
from twophase.report import data_uri, inlined, template, thresholds
from twophase.rundir import RunDir
from twophase.sweep import FILE, Sweep

HEADINGS = {
    "half": "When each measure has fallen to half",
    "level": "How large it is at the first t₀",
    "curves": "All settings on one axis",
    "turns": "How the kernel turns",
    "accuracy": "Beside the final test error",
}


def of_sweep(sweep: Sweep) -> list:
    """Write the page and the table of a sweep into its directory; the answers of the opening."""
    return write(sweep.path, sweep.base.name, sweep.points(), list(sweep.grid))


def of_runs(paths: Sequence[Path], out: Path) -> list:
    """The same for several runs; the keys in which their configs differ take the grid's place."""
    if (out / "config.toml").exists() or (out / FILE).exists():
        raise UserError(
            f"{out} holds a run or a sweep with a report of its own; choose another --out"
        )
    runs = [RunDir.open(path) for path in paths]
    places = [run.path.resolve() for run in runs]
    twice = [run.path for i, run in enumerate(runs) if places[i] in places[:i]]
    if twice:
        raise UserError(f"{twice[0]} is there twice; name each run once")
    keys = grids.differing([run.config for run in runs])
    values = [{key: grids.lookup(run.config, key) for key in keys} for run in runs]
    labels = [grids.label(v) for v in values]
    found = []
    for run, label, mine in zip(runs, labels, values, strict=True):
        name = label if labels.count(label) == 1 and label else f"{label} {run.path}".strip()
        found.append(points.load(run, name, mine))
    return write(out, f"{len(runs)} runs", found, keys)


def write(out: Path, title: str, runs: list[Point], keys: list[str]) -> list:
    """sweep.csv, report.json, figures and report.html in `out`."""
    found = across.summary(runs, keys)
    answers = wording_sweep.answers(found, runs)
    lines = [points.row(p) for p in runs]
    text = io.StringIO()
    writer = csv.DictWriter(text, points.columns(keys), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in line.items()} for line in lines)
    table = text.getvalue().encode()
    write_atomic(out / "sweep.csv", table)
    drawn = inlined(out / "figures", plots_sweep.draw(found, runs))
    facts = {
        "title": title,
        "answers": [a._asdict() for a in answers],
        "warnings": wording_sweep.warnings(runs),
        "found": found,
        "thresholds": thresholds() | limits(),
    }
    record = RunDir(out, runs[0].run.config)  # for its way of writing JSON
    figures = {name: [panel for panel, _ in group] for name, group in drawn.items()}
    record.save_json(out / "report.json", facts | {"figures": figures, "points": lines})
    page = template("sweep.html").render(
        **facts,
        points=[(p, line, link(p, out)) for p, line in zip(runs, lines, strict=True)],
        varied=[
            (k, list(map(grids.shown, across.ordered([p.values[k] for p in runs])))) for k in keys
        ],
        replicated=any(g["seeds"] > 1 for g in found["groups"]),
        drawn=drawn,
        headings=HEADINGS,
        captions=captions(found),
        csv=data_uri(table),
        common=common(runs, keys),
        measures=MEASURES,
        label=wording_sweep.name,
        shown=grids.shown,
        half=points.half,
        control=wording_sweep.control,
        arm_label=plotstyle.ARM_LABEL,
        theme=Markup(plotstyle.css()),  # our own constants
    )
    write_atomic(out / "report.html", page.encode())
    return answers


def link(point: Point, out: Path) -> str | None:
    """Where the run's own report is, from the page; None if it has none."""
    if not point.run.report.exists():
        return None
    return quote(Path(os.path.relpath(point.run.report, out)).as_posix())


def limits() -> dict[str, Any]:
    return {
        "fewest": across.FEWEST,
        "exact": across.EXACT,
        "orders": across.ORDERS,
        "level": across.LEVEL,
        "seed_resamples": aggregate.RESAMPLES,
    }


def common(runs: list[Point], keys: list[str]) -> str:
    """The config that all runs share, a line for each key on which results depend."""
    left = (*grids.NEUTRAL, *keys)
    flat = grids.flat(runs[0].run.config.model_dump(mode="json"))
    return "\n".join(
        f"{key} = {configs.toml(value)}"
        for key, value in flat.items()
        if key not in left and value is not None
    )


def captions(found: dict[str, Any]) -> dict[str, str]:
    seeds = max((g["finished"] for g in found["groups"]), default=0)
    over = (
        f"medians over up to {seeds} seeds; bars, bands: 95 % bootstrap intervals over seeds and "
        "the draws within them"
        if seeds > 1
        else "one seed to a setting, so no interval over seeds"
    )
    draws = (
        "" if seeds > 1 else "; bars: the run’s own 95 % interval, over draws of the perturbation"
    )
    return {
        "half": f"The t₀ from which at most half of the first level is left, {over}{draws}. Hollow "
        "marks at the top: no fall seen. Values of a key stand at equal distances.",
        "level": f"Level at the first t₀, twins compared at the last step, {over}.",
        "curves": f"Medians over draws along t₀, twins compared at the last step, {over}.",
        "turns": "Angle between kernels one lag apart, the smallest lag that has turns both early "
        f"and late, {over}.",
        "accuracy": "A mark for each finished run with a half-fall point.",
    }
