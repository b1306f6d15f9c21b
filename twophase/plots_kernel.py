"""Figures of the kernel along the run: all pairs, reference steps, lags, size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from twophase.cone_findings import walked
from twophase.phases import arms_of
from twophase.plotstyle import (
    ARM_LABEL,
    COLOUR,
    Panel,
    arm_line,
    blank,
    mark_drops,
    scale_colours,
)
from twophase.tables import Row, Rows, Tables

TICKS = 8
APART = 0.06  # of the axis: closer labels would run into each other
LOG_FROM = 20  # sizes further apart than this factor are drawn on a log axis


def matrix(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """S over all pairs of checkpoints, one scale for all arms."""
    rows = [r for r in tables["cone_matrix"] if r["distance"] is not None]
    top = max((r["distance"] for r in rows), default=0.0)
    return [
        _matrix([r for r in rows if r["arm"] == arm], arm, top, milestones) for arm in arms_of(rows)
    ]


def _matrix(rows: Rows, arm: str, top: float, milestones: tuple[int, ...]) -> Panel:
    figure, axes = blank(f"S of all pairs · {ARM_LABEL[arm]}", "step", (4.5, 3.9))
    steps = sorted({r[k] for r in rows for k in ("step_i", "step_j")})
    cells = np.full((len(steps), len(steps)), np.nan)
    for r in rows:
        cells[steps.index(r["step_i"]), steps.index(r["step_j"])] = r["distance"]
    image = axes.imshow(cells, vmin=0, vmax=top or 1, origin="lower")
    ticks = range(0, len(steps), max(1, math.ceil(len(steps) / TICKS)))
    axes.set_xticks(ticks, [str(steps[k]) for k in ticks])
    axes.set_yticks(ticks, [str(steps[k]) for k in ticks])
    axes.set_ylabel("step")
    axes.grid(visible=False)
    for step in milestones if arm == "schedule" else ():
        place = float(np.interp(step, steps, range(len(steps))))
        axes.axvline(place, color="white", lw=0.9, ls=(0, (3, 2)))
        axes.axhline(place, color="white", lw=0.9, ls=(0, (3, 2)))
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("kernel distance S")
    alt = f"Kernel distance between all pairs of checkpoints, {arm}; largest {top:.2f}."
    return Panel(f"matrix-{arm}", alt, figure)


def cone(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Per arm: S to reference steps with the walk of free turns beside it, and S over lags."""
    panels = []
    for arm in arms_of(tables["cone_reference"]):
        drops = milestones if arm == "schedule" else ()
        panels.append(_reference(tables, arm, drops))
        if any(r["arm"] == arm for r in tables["cone_lagged"]):
            panels.append(_lagged(tables["cone_lagged"], arm, drops))
    return panels


def _reference(tables: Tables, arm: str, drops: tuple[int, ...]) -> Panel:
    figure, axes = blank(f"S to the kernel at τ · {ARM_LABEL[arm]}", "step")
    rows = [r for r in tables["cone_reference"] if r["arm"] == arm]
    colours = _lines(axes, rows, "tau", lambda r: r["step"])
    for tau, colour in colours.items():
        steps, walk = free_walk(tables["cone_matrix"], tables["cone_lagged"], arm, tau)
        axes.plot(steps, walk, color=colour, lw=1, ls=(0, (1, 1.6)), alpha=0.8)
    axes.plot([], [], color=COLOUR["soft"], lw=1, ls=(0, (1, 1.6)), label="walk")
    _finish(figure, axes, rows, drops, "τ")
    return Panel(f"reference-{arm}", f"Kernel distance to reference steps tau, {arm}.", figure)


def _lagged(rows: Rows, arm: str, drops: tuple[int, ...]) -> Panel:
    figure, axes = blank(f"S over a lag Δ · {ARM_LABEL[arm]}", "step at the start of the lag")
    rows = [r for r in rows if r["arm"] == arm]
    _lines(axes, rows, "lag", lambda r: r["step"])
    _finish(figure, axes, rows, drops, "Δ")
    return Panel(f"lagged-{arm}", f"Kernel distance over fixed lags, {arm}.", figure)


def free_walk(matrix: Rows, lagged: Rows, arm: str, tau: int) -> tuple[list[int], list[float]]:
    """The distance from tau that independent turns of the measured size would have reached."""
    lag = min((r["lag"] for r in lagged if r["arm"] == arm), default=None)
    if lag is None:
        return [], []
    table = {(r["step_i"], r["step_j"]): r["distance"] for r in matrix if r["arm"] == arm}
    chain, steps, levels = [tau], [tau], [0.0]
    while (chain[-1], chain[-1] + lag) in table:
        chain.append(chain[-1] + lag)
        level = walked(table, chain)
        if level is None:
            break
        steps.append(chain[-1])
        levels.append(level)
    return steps, levels


def _lines(axes: Axes, rows: Rows, key: str, x: Callable[[Row], float]) -> dict[int, str]:
    values = sorted({r[key] for r in rows})
    colours = dict(zip(values, scale_colours(len(values)), strict=True))
    for value, colour in colours.items():
        line = sorted(
            (x(r), r["distance"]) for r in rows if r[key] == value and r["distance"] is not None
        )
        axes.plot(
            *zip(*line, strict=True) if line else ([], []),
            ".-",
            color=colour,
            label=f"{value}",
            ms=6,
        )
    return colours


def _finish(figure: Figure, axes: Axes, rows: Rows, drops: tuple[int, ...], title: str) -> None:
    """Drops, legend, and the same distances in degrees on the right."""
    axes.set_ylim(0, max(1.05 * axes.get_ylim()[1], 1e-6))
    axes.set_xlim(left=0)
    axes.set_ylabel("kernel distance S")
    mark_drops(axes, drops, max(r["step"] for r in rows))
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    right.set_ylim(axes.get_ylim())
    top = axes.get_ylim()[1]
    marks = {0: 0.0}
    for degrees in range(10, 91, 10):
        distance = 1 - math.cos(math.radians(degrees))
        if max(marks.values()) + APART * top <= distance <= top:
            marks[degrees] = distance
    right.set_yticks(list(marks.values()), [f"{d}°" for d in marks])
    right.grid(visible=False)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, title=title, loc="outside right upper")


def size(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Norm and trace of the kernel: the scale that the cosine distance does not see."""
    panels = []
    names = {"frobenius_norm": "Frobenius norm of the kernel", "trace": "Trace of the kernel"}
    for column, title in names.items() if tables["kernel"] else ():
        figure, axes = blank(title, "step")
        for arm in arms_of(tables["kernel"]):
            line = [r for r in tables["kernel"] if r["arm"] == arm]
            axes.plot(
                [r["step"] for r in line],
                [math.nan if r[column] is None else r[column] for r in line],
                label=ARM_LABEL[arm],
                **arm_line(arm),
            )
        sizes = [r[column] for r in tables["kernel"] if r[column]]
        if sizes and max(sizes) > LOG_FROM * min(sizes):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(EngFormatter())
        mark_drops(axes, milestones, max(r["step"] for r in tables["kernel"]))
        axes.legend(loc="best")
        panels.append(Panel(f"kernel-{column}", f"{title} along the run.", figure))
    return panels
