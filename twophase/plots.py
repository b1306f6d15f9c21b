"""All figures by name; here those that belong to the run as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import matplotlib

from twophase.phases import MEASURES, arms_of
from twophase.plots_chaos import barrier, falls, growth, maps, matched, predictions
from twophase.plots_geometry import inside, labels, layers, path, rank, speed
from twophase.plots_kernel import cone, matrix, size
from twophase.plots_linear import linear
from twophase.plots_twins import exponents, features
from twophase.plotstyle import (
    ARM_COLOUR,
    ARM_LABEL,
    ARM_MARK,
    COLOUR,
    STYLE,
    Panel,
    arm_line,
    blank,
    mark_drops,
    steps_axis,
)
from twophase.tables import Rows, Tables

CORE = {
    "dissimilarity": ("C", "blue", "o"),
    "loss_barrier_train": ("B train", "orange", "s"),
    "loss_barrier_test": ("B test", "amber", "v"),
    "disagreement": ("D", "green", "^"),
    "kernel_distance": ("S of the twins", "pink", "D"),
}


def overview(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """All measures on one time axis, each over its first level; and where each one turns."""
    found = findings["chaos"]
    measured = found and any(part["measures"] for part in found["arms"].values())
    return [_together(findings), _turns(found)] if measured else []


def _together(findings: dict) -> Panel:
    found = findings["chaos"]
    arm = found["arm"]
    figure, axes = blank(
        f"All measures, over their first level · {ARM_LABEL[arm]}", "step, t₀ or t", (4.5, 3.6)
    )
    grid: set[int] = {0}
    for measure, (label, colour, mark) in CORE.items():
        fall = found["arms"][arm]["measures"].get(measure)
        if fall and fall["material"]:
            grid |= set(fall["t0"])
            levels = [level / fall["early"] for level in fall["levels"]]
            axes.plot(fall["t0"], levels, mark + "-", color=COLOUR[colour], label=label)
    turn = (findings["cone"] or {}).get("arms", {}).get(arm)
    if turn and turn["early"]["distance"]:
        line = {t: s / turn["early"]["distance"] for t, s in turn["turns"].items()}
        line = {t: s for t, s in line.items() if t <= max(grid)} or line
        label = f"S over {turn['lag']} steps"
        axes.plot(list(line), list(line.values()), "x--", color=COLOUR["ink"], lw=1.1, label=label)
    axes.axhline(0.5, color=COLOUR["soft"], lw=0.9, ls=(0, (3, 2)), zorder=1)
    steps_axis(axes, sorted(grid))
    axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return Panel("overview-together", "All measures over their first level against time.", figure)


def _turns(found: dict) -> Panel:
    """Half-fall points with bootstrap intervals, a line for each measure, a mark for each arm.

    Pale bars behind: where the second method has the change.
    """
    title = "Where each measure has fallen to half"
    names = [m for m in MEASURES if any(m in a["measures"] for a in found["arms"].values())]
    size = (4.5, max(3.6, 0.3 * len(names) + 1.1))
    figure, axes = blank(title, "step of the perturbation, t₀", size)
    grid = sorted(
        {t for a in found["arms"].values() for f in a["measures"].values() for t in f["t0"]}
    )
    for k, (arm, part) in enumerate(found["arms"].items()):
        offset = 0.2 * (2 * k - (len(found["arms"]) - 1))
        axes.plot([], [], ARM_MARK[arm], color=ARM_COLOUR[arm], label=ARM_LABEL[arm])
        for i, measure in enumerate(names):
            fall = part["measures"].get(measure)
            if not fall:
                continue
            y, colour = i + offset, ARM_COLOUR[arm]
            if fall["half"] is None or not fall["verdict"].startswith("falls"):
                axes.text(
                    grid[0], y, f" {fall['verdict']}", color=colour, va="center", fontsize=7.5
                )
                continue
            turn = fall["change"]
            axes.plot([turn["low"], turn["high"]], [y, y], color=colour, lw=6, alpha=0.14, zorder=1)
            interval = fall["interval"]
            if interval and interval["low"] is not None:
                high = grid[-1] if interval["high"] is None else interval["high"]
                axes.plot([interval["low"], high], [y, y], color=colour, lw=2.2, alpha=0.45)
            axes.plot(fall["half"], y, ARM_MARK[arm], color=colour, ms=5.5)
    steps_axis(axes, grid)
    axes.set_yticks(range(len(names)), [_short(m) for m in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return Panel(
        "overview-turns", "Half-fall point and change of each measure, with intervals.", figure
    )


def _short(measure: str) -> str:
    name = MEASURES[measure]
    return name.split(" of the")[0] if len(name) > 26 else name


def training(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Loss and error of the main run, the learning rate, where it is known, in a strip below."""
    rows = tables["train"]
    return [_curves(rows, what, milestones) for what in ("loss", "error")] if rows else []


def _curves(rows: Rows, what: str, milestones: tuple[int, ...]) -> Panel:
    figure, axes = blank(what.capitalize(), "", (4.5, 3.6))
    rated = any(r["rate"] for r in rows)
    axes.remove()
    axes, *strip = figure.subplots(
        1 + rated, 1, sharex=True, height_ratios=(4, 1)[: 1 + rated], squeeze=False
    )[:, 0]
    axes.set_title(what.capitalize())
    for arm in arms_of(rows):
        line = [r for r in rows if r["arm"] == arm]
        steps = [r["step"] for r in line]
        for part, dashes in (("train", "-"), ("test", (0, (3, 1.5)))):
            values = [r[f"{part}_{what}"] for r in line]
            values = [math.nan if v is None else v for v in values]
            label = f"{part}, {ARM_LABEL[arm]}"
            axes.plot(steps, values, ls=dashes, label=label, **arm_line(arm))
        for part in strip:
            part.step(steps, [r["rate"] for r in line], where="post", **arm_line(arm))
    for part in (axes, *strip):
        mark_drops(part, milestones, max(r["step"] for r in rows))
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    for part in strip:
        part.set_yscale("log")
        part.set_ylabel("rate")
    figure.axes[-1].set_xlabel("step")
    alt = f"Training and test {what} of the main run{', with the learning rate' * rated}."
    return Panel(f"training-{what}", alt, figure)


Make = Callable[[Tables, dict, tuple[int, ...]], list[Panel]]
FIGURES: dict[str, Make] = {
    "overview": overview,
    "chaos": falls,
    "predictions": predictions,
    "features": features,
    "growth": growth,
    "exponents": exponents,
    "maps": maps,
    "barrier": barrier,
    "matched": matched,
    "matrix": matrix,
    "cone": cone,
    "inside": inside,
    "speed": speed,
    "path": path,
    "layers": layers,
    "labels": labels,
    "rank": rank,
    "kernel": size,
    "linear": linear,
    "training": training,
}


def draw(name: str, tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """The panels of one figure; none if its tables are not there."""
    with matplotlib.rc_context(STYLE):
        return FIGURES[name](tables, findings, milestones)
