"""Figures inside the cone: speed, aperture, path, layers; and the kernel beside its labels."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from twophase.phases import arms_of
from twophase.plots_kernel import LOG_FROM
from twophase.plotstyle import (
    ARM_LABEL,
    COLOUR,
    Panel,
    arm_line,
    blank,
    mark_drops,
    plain,
    scale_colours,
)
from twophase.tables import Rows, Tables

SPEEDS = {"deg_per_step": "Angular velocity ω", "velocity": "Velocity v = S / Δ"}
UNITS = {"deg_per_step": "degrees per step", "velocity": "S per step"}
INSIDE = {
    "aperture_deg": ("widest so far", "ink", "-"),
    "to_start_deg": ("to the first", "blue", "."),
    "to_mean_deg": ("to the mean", "green", "."),
}
RANKS = {"entropy_rank": "entropy", "participation_rank": "participation", "stable_rank": "stable"}
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.3)))
WAYS = {
    "centred_alignment": ("centred alignment", "green"),
    "frobenius_norm": ("norm of the kernel", "blue"),
    "loss": ("training loss", "orange"),
}


def speed(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Per step, from each kernel to the next."""
    rows = tables["cone_neighbours"]
    panels = []
    for column, title in SPEEDS.items() if any(r["distance"] for r in rows) else ():
        figure, axes = blank(title, "step")
        for arm in arms_of(rows):
            line = [r for r in rows if r["arm"] == arm and r[column]]
            middle = [r["step"] + r["lag"] / 2 for r in line]
            axes.plot(middle, [r[column] for r in line], label=ARM_LABEL[arm], **arm_line(arm))
        _scaled(axes, [r[column] for r in rows if r[column]])
        axes.set_xlim(left=0)
        axes.set_ylabel(UNITS[column])
        mark_drops(axes, milestones, max(r["step"] + r["lag"] for r in rows))
        axes.legend(loc="best")
        alt = f"{title} of the kernel along the run, in {UNITS[column]}."
        panels.append(Panel(f"speed-{column}", alt, figure))
    return panels


def inside(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Per arm, over the late window: aperture, angle to its start and to the mean direction."""
    panels = []
    found = (findings["cone"] or {"arms": {}})["arms"]
    inside = {arm: part["inside"] for arm, part in found.items() if part["inside"]}
    top = max((max(part["aperture_deg"]) for part in inside.values()), default=0.0)
    for arm, part in inside.items():
        figure, axes = blank(f"Angles of late kernels · {ARM_LABEL[arm]}", "step")
        for column, (label, colour, mark) in INSIDE.items():
            style = {"drawstyle": "steps-post"} if mark == "-" else {"marker": mark, "ms": 6}
            axes.plot(part["steps"], part[column], color=COLOUR[colour], label=label, **style)
        axes.set_ylim(0, 1.08 * top or 1)
        axes.yaxis.set_major_formatter("{x:g}°")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        alt = f"Angles between late kernels, to the first and to their mean, {arm}."
        panels.append(Panel(f"inside-{arm}", alt, figure))
    return panels


def path(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Per arm: the kernels as points of the plane in which they spread most, and the third axis."""
    panels = []
    for arm, part in (findings["cone"] or {"arms": {}})["arms"].items():
        found = part["path"]
        if not found or not found["explained"][0]:
            continue
        figure, axes = blank("", "", (4.5, 3.0))
        axes.remove()
        both = figure.subplots(1, 2)
        figure.suptitle(
            f"Path of the kernel · {ARM_LABEL[arm]}", x=0.01, ha="left", weight="bold", fontsize=9
        )
        points = np.array(found["points"])
        for place, (axes, (i, j)) in enumerate(zip(both, ((0, 1), (2, 1)), strict=True)):
            _draw_path(axes, points[:, [i, j]], found["steps"], named=place == 0)
            axes.set_xlabel(_axis(found, i))
            axes.set_ylabel(_axis(found, j))
        alt = (
            f"Kernels of the {ARM_LABEL[arm]} arm as points in the plane of largest spread, "
            f"{found['steps'][0]} to {found['steps'][-1]}."
        )
        panels.append(Panel(f"path-{arm}", alt, figure))
    return panels


def _axis(found: dict, k: int) -> str:
    return f"axis {k + 1} ({100 * found['explained'][k]:.0f} %)"


def _draw_path(axes: Axes, points: np.ndarray, steps: list[int], *, named: bool) -> None:
    for k, colour in enumerate(scale_colours(len(points))):
        axes.plot(*points[k : k + 2].T, color=colour, lw=1.1, zorder=2)
        axes.plot(*points[k], "o", color=colour, ms=4, zorder=3)
    for k in (0, len(points) // 2, len(points) - 1) if named else ():
        axes.annotate(str(steps[k]), points[k], (4, 4), textcoords="offset points", fontsize=7.5)
    axes.set_aspect("equal", adjustable="datalim")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def layers(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Per arm: the angle that each layer's kernel turns by, over layers and steps."""
    rows = [r for r in tables["cone_layers"] if r["angle_deg"] is not None]
    top = max((r["angle_deg"] for r in rows), default=0.0)
    panels = []
    for arm in arms_of(rows):
        part = [r for r in rows if r["arm"] == arm]
        names = list(dict.fromkeys(r["layer"] for r in part))
        steps = sorted({r["step"] for r in part})
        cells = np.full((len(names), len(steps)), np.nan)
        for r in part:
            cells[names.index(r["layer"]), steps.index(r["step"])] = r["angle_deg"]
        title = f"Turn over {part[0]['lag']} steps · {ARM_LABEL[arm]}"
        figure, axes = blank(title, "step", (4.5, 1.4 + 0.16 * len(names)))
        image = axes.imshow(cells, vmin=0, vmax=top or 1, aspect="auto")
        axes.set_yticks(range(len(names)), list(map(plain, names)), fontsize=7)
        ticks = range(0, len(steps), max(1, math.ceil(len(steps) / 6)))
        axes.set_xticks(ticks, [str(steps[k]) for k in ticks])
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, pad=0.02, format="{x:g}°")
        bar.outline.set_visible(False)
        alt = f"Angle that the kernel of each layer turns by, {arm}; largest {top:.0f} degrees."
        panels.append(Panel(f"layers-{arm}", alt, figure))
    return panels


def rank(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Effective ranks, and the largest eigenvalues."""
    rows = [r for r in tables["kernel"] if r["stable_rank"]]
    if not rows:
        return []
    figure, axes = blank("Effective rank of the kernel", "step")
    for column, dashes in zip(RANKS, DASHES, strict=True):
        for arm in arms_of(rows):
            _line(axes, rows, arm, column, ls=dashes)
        axes.plot([], [], color=COLOUR["ink"], ls=dashes, lw=1.3, label=RANKS[column])
    _legend_of_arms(axes, rows)
    _scaled(axes, [r[c] for r in rows for c in RANKS if r[c]])
    mark_drops(axes, milestones, max(r["step"] for r in rows))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    panels = [Panel("rank", "Effective ranks of the kernel along the run.", figure)]
    spectrum = [r for r in tables["spectrum"] if (r["eigenvalue"] or 0) > 0]
    for arm in arms_of(spectrum):
        figure, axes = blank(f"Largest eigenvalues · {ARM_LABEL[arm]}", "step")
        ranks = sorted({r["rank"] for r in spectrum})
        for k, colour in zip(ranks, scale_colours(len(ranks)), strict=True):
            line = [r for r in spectrum if r["arm"] == arm and r["rank"] == k]
            steps, values = [r["step"] for r in line], [r["eigenvalue"] for r in line]
            axes.plot(steps, values, color=colour, lw=1.2)
        axes.set_yscale("log")
        mark_drops(axes, milestones if arm == "schedule" else (), max(r["step"] for r in rows))
        panels.append(Panel(f"spectrum-{arm}", f"Largest eigenvalues, {arm}.", figure))
    return panels


def labels(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Alignment with the labels; and its way beside those of the norm and of the loss."""
    rows = tables["kernel"]
    if not any(r["alignment"] for r in rows):
        return []
    figure, axes = blank("Alignment with the labels", "step")
    for arm in arms_of(rows):
        _line(axes, rows, arm, "alignment", ls=DASHES[1])
        _line(axes, rows, arm, "centred_alignment")
    axes.plot([], [], color=COLOUR["ink"], lw=1.3, label="centred")
    axes.plot([], [], color=COLOUR["ink"], ls=DASHES[1], lw=1.3, label="as it is")
    _legend_of_arms(axes, rows)
    axes.set_ylim(bottom=0)
    mark_drops(axes, milestones, max(r["step"] for r in rows))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    panels = [Panel("labels-alignment", "Alignment of the kernel with the labels.", figure)]
    return panels + _ways(findings["cone"])


def _ways(cone: dict | None) -> list[Panel]:
    found = ((cone or {}).get("kernel") or {}).get(cone["arm"] if cone else None)
    if not found or not all(found["silent"]["way"].values()):
        return []
    silent = found["silent"]
    figure, axes = blank(f"Which comes first · {ARM_LABEL[cone['arm']]}", "step")
    for column, (label, colour) in WAYS.items():
        axes.plot(
            silent["steps"], silent["way"][column], ".-", color=COLOUR[colour], label=label, ms=5
        )
    axes.axhline(0.5, color=COLOUR["soft"], lw=0.9, ls=(0, (3, 2)), zorder=1)
    axes.set_ylabel("share of the way")
    axes.set_ylim(*np.clip(axes.get_ylim(), -1, 2))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    alt = "Way of alignment, norm and training loss from their first to their last value."
    return [Panel("labels-ways", alt, figure)]


def _line(axes: Axes, rows: Rows, arm: str, column: str, **style) -> None:
    line = [r for r in rows if r["arm"] == arm]
    values = [math.nan if r[column] is None else r[column] for r in line]
    axes.plot([r["step"] for r in line], values, **arm_line(arm), **style)


def _scaled(axes: Axes, values: list[float]) -> None:
    """Log where values are far apart, else from 0."""
    if max(values) <= LOG_FROM * min(values):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend_of_arms(axes: Axes, rows: Rows) -> None:
    for arm in arms_of(rows):
        axes.plot([], [], label=ARM_LABEL[arm], **arm_line(arm))
