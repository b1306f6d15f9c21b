"""Figures of the twins: measures against t0, growth, maps over (t0, t1), the line between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median

import numpy as np
from matplotlib.axes import Axes

from twophase.phases import FALLEN, MATERIAL, MEASURES, arms_of, series
from twophase.plotstyle import (
    ARM_COLOUR,
    ARM_LABEL,
    ARM_MARK,
    COLOUR,
    Panel,
    blank,
    mark_drops,
    scale_colours,
    steps_axis,
)
from twophase.tables import Rows, Tables

NOTE = {"textcoords": "offset points", "ha": "right", "fontsize": 7.5}
MAPS = ("dissimilarity", "loss_barrier_train", "disagreement")
PREDICTIONS = ("divergence", "softmax_distance", "prediction_distance", "feature_distance")
MATCHED = ("aligned_barrier_train", "aligned_barrier_test")


def falls(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """One panel per measure at the final t1: draws, medians, half-fall point, control."""
    names = [m for m in MEASURES if m not in (*PREDICTIONS, *MATCHED)]
    return _falls(tables, findings, milestones, names)


def predictions(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """The same of what the twins say and how they come to it."""
    return _falls(tables, findings, milestones, PREDICTIONS)


def matched(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """The same of the barriers after the twins' units were renamed."""
    return _falls(tables, findings, milestones, MATCHED)


def _falls(
    tables: Tables, findings: dict, milestones: tuple[int, ...], names: Sequence[str]
) -> list[Panel]:
    found = findings["chaos"]
    if not found:
        return []
    measures = [m for m in names if any(m in a["measures"] for a in found["arms"].values())]
    return [_fall(tables["chaos"], found, m, milestones, m == measures[0]) for m in measures]


def _fall(
    rows: Rows, found: dict, measure: str, milestones: tuple[int, ...], legend: bool
) -> Panel:
    label = MEASURES[measure]
    figure, axes = blank(label[0].upper() + label[1:], "step of the perturbation, t₀")
    grid: set[int] = set()
    alt = []
    for arm, part in found["arms"].items():
        fall = part["measures"].get(measure)
        if fall is None:
            continue
        colour, mark = ARM_COLOUR[arm], ARM_MARK[arm]
        grid |= set(fall["t0"])
        axes.plot(fall["t0"], fall["levels"], color=colour, label=ARM_LABEL[arm])
        for t0, draws in series(rows, arm, measure, found["t1"]).items():
            axes.plot([t0] * len(draws), draws, mark, color=colour, alpha=0.6, mew=0)
        if fall["half"] is not None and fall["verdict"].startswith("falls"):
            axes.plot(
                fall["half"], FALLEN * fall["early"], "D", mfc="none", mec=colour, ms=8, mew=1.3
            )
        if measure == "disagreement":
            _independent(axes, rows, arm, found["t1"], named=arm == found["arm"])
        alt.append(f"{ARM_LABEL[arm]} from {fall['early']:.3g} to {fall['late']:.3g}")
    control = found["controls"]["largest"].get(measure)
    if control is not None:
        axes.axhline(
            control, color=COLOUR["ink"], lw=1.1, ls=(0, (1, 1.6)), zorder=3, label="ε = 0 twin"
        )
    steps_axis(axes, sorted(grid))
    mark_drops(axes, milestones, max(grid))
    top = max(1.05 * axes.dataLim.y1, MATERIAL[measure])  # zeros are not to fill the panel
    axes.set_ylim(-0.03 * top, top)
    if legend:
        half = {"mfc": "none", "mec": COLOUR["ink"], "ms": 7, "mew": 1.2}
        axes.plot([], [], "D", **half, label="half of its first level")
        axes.legend(loc="best")
    return Panel(f"chaos-{measure}", f"{label} against t0: {'; '.join(alt)}.", figure)


def _independent(axes: Axes, rows: Rows, arm: str, t1: int, named: bool) -> None:
    """What the disagreement would be of independent errors, in the arm's colour."""
    levels = {t0: median(v) for t0, v in series(rows, arm, "independent_disagreement", t1).items()}
    axes.plot(list(levels), list(levels.values()), ":", color=ARM_COLOUR[arm], lw=1.1)
    t0, level = next(reversed(levels.items()), (0, None))
    if named and level is not None:
        axes.annotate("independent errors", (t0, level), (0, 6), **NOTE, color=ARM_COLOUR[arm])


def spread(times: list[int]) -> list[int]:
    """Those that leave their labels room: a tenth of the axis between them; ends are among them."""
    room = (times[-1] - times[0]) / 10
    kept = times[:1]
    for t in times[1:-1]:
        if t - kept[-1] >= room and times[-1] - t >= room:
            kept.append(t)
    return sorted({*kept, times[-1]})


def growth(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Relative distance of the twins along t1, a line for each t0; one panel per arm."""
    rows = [r for r in tables["chaos"] if r["kind"] == "perturbed"]
    if len({r["t1"] for r in rows}) < 2:
        return []
    panels = []
    known = [r["relative_l2"] for r in rows if r["relative_l2"]]
    limits = (10 ** math.floor(math.log10(min(known))), 2 * max(known)) if known else (1e-7, 1)
    for arm in arms_of(rows):
        mine = [r for r in rows if r["arm"] == arm]
        times = sorted({r["t1"] for r in mine})
        figure, axes = blank(
            f"Distance of the twins, {ARM_LABEL[arm]}", "step of the comparison, t₁"
        )
        grid = sorted({r["t0"] for r in mine})
        for t0, colour in zip(grid, scale_colours(len(grid)), strict=True):
            line = {t: series(mine, arm, "relative_l2", t).get(t0) for t in times}
            line = {t: median(v) for t, v in line.items() if v and median(v) > 0}
            axes.plot(list(line), list(line.values()), ".-", color=colour, label=f"{t0}", ms=7)
        axes.set_yscale("log")
        axes.set_ylim(*limits)
        axes.set_ylabel("|θ − θ′| / |θ|")
        axes.set_xticks(spread(times))
        mark_drops(axes, milestones if arm == "schedule" else (), times[-1])
        figure.legend(*axes.get_legend_handles_labels(), title="t₀", loc="outside right upper")
        panels.append(Panel(f"growth-{arm}", f"Relative distance of twins over t1, {arm}.", figure))
    return panels


def maps(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """C, B and D over the grid of (t0, t1) in every arm; the number stands in the cell."""
    rows = [r for r in tables["chaos"] if r["kind"] == "perturbed"]
    if len({r["t1"] for r in rows}) < 2:
        return []
    panels = []
    for measure in MAPS:
        known = [r[measure] for r in rows if r.get(measure) is not None]
        for arm in arms_of(rows) if known else ():
            mine = [r for r in rows if r["arm"] == arm]
            panels.append(_map(mine, measure, arm, max(known)))
    return panels


def _map(rows: Rows, measure: str, arm: str, top: float) -> Panel:
    label = MEASURES[measure]
    figure, axes = blank(
        f"{label[0].upper()}{label[1:]} · {ARM_LABEL[arm]}", "step of the perturbation, t₀"
    )
    early, late = sorted({r["t0"] for r in rows}), sorted({r["t1"] for r in rows})
    cells = np.full((len(late), len(early)), np.nan)
    for i, t1 in enumerate(late):
        for t0, draws in series(rows, arm, measure, t1).items():
            cells[i, early.index(t0)] = median(draws)
    image = axes.imshow(cells, vmin=0, vmax=top or 1, origin="lower", aspect="auto")
    for (i, j), value in np.ndenumerate(cells):
        if np.isfinite(value):
            tone = "black" if image.norm(value) > 0.6 else "white"
            text = "0" if value == 0 else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
            axes.text(j, i, text, ha="center", va="center", color=tone, fontsize=7.5)
    axes.set_xticks(range(len(early)), [str(t) for t in early])
    axes.set_yticks(range(len(late)), [str(t) for t in late])
    axes.set_ylabel("step of the comparison, t₁")
    axes.grid(visible=False)
    return Panel(f"map-{measure}-{arm}", f"{label} over the grid of t0 and t1, {arm}.", figure)


def barrier(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Loss above the straight line between its ends, along the line between the twins' weights."""
    rows = [r for r in tables["barrier"] if r["kind"] == "perturbed"]
    return [_barrier(rows, arm, part) for part in ("train", "test") for arm in arms_of(rows)]


def _barrier(rows: Rows, arm: str, part: str) -> Panel:
    figure, axes = blank(
        f"{part.capitalize()} loss between the twins · {ARM_LABEL[arm]}",
        "α   (0: main run, 1: twin)",
    )
    rows = [r for r in rows if r["arm"] == arm]
    grid = sorted({r["t0"] for r in rows})
    for t0, colour in zip(grid, scale_colours(len(grid)), strict=True):
        curve = excess([r for r in rows if r["t0"] == t0], f"{part}_loss")
        axes.plot(list(curve), list(curve.values()), color=colour, label=f"{t0}")
    axes.axhline(0, color=COLOUR["ink"], lw=1.0, ls=(0, (4, 2)), zorder=1)
    axes.plot([0, 1], [0, 0], "o", color=COLOUR["ink"], ms=4.5, clip_on=False)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.0005), max(high, 0.002))  # rounding is not to look like a barrier
    axes.set_ylabel("loss above the line of its ends")
    figure.legend(*axes.get_legend_handles_labels(), title="t₀", loc="outside right upper")
    alt = f"{part} loss above the linear baseline against alpha, a line per t0, {arm}."
    return Panel(f"barrier-{part}-{arm}", alt, figure)


def excess(rows: Rows, column: str) -> dict[float, float]:
    """{alpha: L(alpha) - ((1 - alpha) L(0) + alpha L(1))}, the mean over draws."""
    found: dict[float, list[float]] = {}
    for draw in sorted({r["draw"] for r in rows}):
        line = {r["alpha"]: r[column] for r in rows if r["draw"] == draw}
        if 0.0 not in line or 1.0 not in line or None in line.values():
            continue
        for alpha, value in sorted(line.items()):
            straight = (1 - alpha) * line[0.0] + alpha * line[1.0]
            found.setdefault(alpha, []).append(value - straight)
    return {alpha: mean(values) for alpha, values in found.items()}
