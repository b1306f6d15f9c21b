"""The figures: matplotlib without global state, the same bytes for the same tables."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from statistics import median

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from twophase.phases import MEASURES, series

ARM_COLOUR = {"schedule": "#0072B2", "constant": "#D55E00"}  # Okabe-Ito, safe for the colour-blind
ARM_LABEL = {"schedule": "stepped rate", "constant": "constant rate (control)"}
STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": "twophase",
    "svg.fonttype": "path",
    "figure.facecolor": "white",
}
Tables = dict[str, list[dict]]


def draw(make: Callable[[], Figure | None]) -> str | None:
    """A figure as SVG text; None if its tables are not there."""
    with matplotlib.rc_context(STYLE):
        figure = make()
        if figure is None:
            return None
        FigureCanvasSVG(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _figure(columns: int, rows: int = 1, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def _arms(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _mark_drops(ax: Axes, milestones: tuple[int, ...]) -> None:
    for step in milestones:
        ax.axvline(step, color="#888", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)


def _t0_axis(ax: Axes, grid: list[int]) -> None:
    """log(1 + t0), so that t0 = 0 has a place."""
    ax.set_xscale("function", functions=(_log1p, np.expm1))
    ax.set_xticks(grid, [str(t) for t in grid])
    ax.minorticks_off()
    ax.set_xlabel("step of the perturbation, t0")


def _log1p(values):
    return np.log1p(np.maximum(values, 0))


def chaos(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    rows = tables.get("chaos")
    if not rows:
        return None
    shown = ("dissimilarity", "loss_barrier_train", "disagreement", "kernel_distance")
    figure, axes = _figure(2, 2)
    for ax, measure in zip(axes, shown, strict=True):
        for arm in _arms(rows):
            values = series(rows, arm, measure, last)
            if not values:
                continue
            colour = ARM_COLOUR[arm]
            ax.plot(
                list(values),
                [median(v) for v in values.values()],
                color=colour,
                label=ARM_LABEL[arm],
            )
            for t0, draws in values.items():
                ax.plot([t0] * len(draws), draws, "o", color=colour, alpha=0.55, mew=0)
            _t0_axis(ax, list(values))
        ax.axhline(0, color="black", linewidth=1, linestyle=(0, (1, 2)), label="eps = 0 control")
        ax.set_title(MEASURES[measure])
    axes[0].legend()
    return figure


def growth(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    """Dissimilarity and disagreement along t1, a line for each t0."""
    rows = [r for r in tables.get("chaos") or [] if r["kind"] == "perturbed"]
    if not rows:
        return None
    arm = "constant" if "constant" in _arms(rows) else _arms(rows)[0]
    rows = [r for r in rows if r["arm"] == arm]
    grid = sorted({r["t0"] for r in rows})
    colours = matplotlib.colormaps["viridis"]
    figure, axes = _figure(2)
    for ax, measure in zip(axes, ("dissimilarity", "disagreement"), strict=True):
        for i, t0 in enumerate(grid):
            times = sorted({r["t1"] for r in rows if r["t0"] == t0})
            levels = [median(series(rows, arm, measure, t)[t0]) for t in times]
            ax.plot(
                times, levels, "o-", color=colours(0.9 * i / max(len(grid) - 1, 1)), label=str(t0)
            )
        ax.set_title(MEASURES[measure])
        ax.set_xlabel(f"step of the comparison, t1 ({ARM_LABEL[arm]})")
    axes[0].set_yscale("log")
    axes[1].legend(title="t0", ncols=2, title_fontsize=8)
    return figure


def barrier(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    rows = [r for r in tables.get("barrier") or [] if r["kind"] == "perturbed" and r["draw"] == 1]
    if not rows:
        return None
    arms = _arms(rows)
    figure, axes = _figure(len(arms))
    colours = matplotlib.colormaps["viridis"]
    grid = sorted({r["t0"] for r in rows})
    for ax, arm in zip(axes, arms, strict=True):
        for i, t0 in enumerate(grid):
            line = [r for r in rows if r["arm"] == arm and r["t0"] == t0]
            ax.plot(
                [r["alpha"] for r in line],
                [r["train_loss"] for r in line],
                color=colours(0.9 * i / max(len(grid) - 1, 1)),
                label=str(t0),
            )
        ax.set_title(f"training loss between the twins, {ARM_LABEL[arm]}")
        ax.set_xlabel("alpha: 0 main run, 1 twin")
    axes[-1].legend(title="t0", ncols=2, title_fontsize=8)
    return figure


def heatmap(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    rows = tables.get("cone_matrix")
    if not rows:
        return None
    arms = _arms(rows)
    figure, axes = _figure(len(arms), height=3.9)
    top = max(r["distance"] for r in rows)
    for ax, arm in zip(axes, arms, strict=True):
        table = {(r["step_i"], r["step_j"]): r["distance"] for r in rows if r["arm"] == arm}
        steps = sorted({i for i, _ in table})
        image = [[table[i, j] for j in steps] for i in steps]
        picture = ax.imshow(image, cmap="viridis", vmin=0, vmax=top, origin="lower")
        ticks = range(0, len(steps), max(1, len(steps) // 8))
        ax.set_xticks(ticks, [str(steps[k]) for k in ticks], rotation=45)
        ax.set_yticks(ticks, [str(steps[k]) for k in ticks])
        ax.grid(visible=False)
        for step in milestones if arm == "schedule" else ():
            place = sum(s < step for s in steps) - 0.5
            ax.axvline(place, color="white", linewidth=0.8)
            ax.axhline(place, color="white", linewidth=0.8)
        ax.set_title(ARM_LABEL[arm])
        ax.set_xlabel("step")
    axes[0].set_ylabel("step")
    figure.colorbar(picture, ax=axes, label="kernel distance S", shrink=0.85)
    return figure


def cone(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    if not tables.get("cone_reference"):
        return None
    arms = _arms(tables["cone_reference"])
    figure, axes = _figure(2, len(arms))
    for row, arm in enumerate(arms):
        left, right = axes[2 * row : 2 * row + 2]
        drops = milestones if arm == "schedule" else ()
        _lines(left, tables["cone_reference"], arm, "tau", lambda r: r["step"])
        left.set_title(f"S to the kernel at step tau, {ARM_LABEL[arm]}")
        _lines(right, tables["cone_lagged"], arm, "lag", lambda r: r["step"] + r["lag"])
        right.set_title(f"S over a lag, {ARM_LABEL[arm]}")
        for ax in (left, right):
            _mark_drops(ax, drops)
            ax.set_ylim(bottom=0)
            ax.set_xlabel("step")
            _angles(ax)
    return figure


def _lines(ax: Axes, rows: list[dict], arm: str, key: str, x: Callable[[dict], float]) -> None:
    values = list(dict.fromkeys(r[key] for r in rows if r["arm"] == arm))
    colours = matplotlib.colormaps["viridis"]
    for i, value in enumerate(values):
        line = [r for r in rows if r["arm"] == arm and r[key] == value]
        colour = colours(0.85 * i / max(len(values) - 1, 1))
        ax.plot(
            [x(r) for r in line],
            [r["distance"] for r in line],
            ".-",
            color=colour,
            label=str(value),
        )
    ax.legend(title=key, ncols=2, title_fontsize=8)


def _angles(ax: Axes) -> None:
    """The same distances in degrees, on the right."""
    other = ax.twinx()
    other.spines["right"].set_visible(True)
    low, high = ax.get_ylim()
    marks = [d for d in (10, 20, 30, 40, 50, 60, 70) if low <= 1 - _cos(d) <= high]
    other.set_ylim(low, high)
    other.set_yticks([1 - _cos(d) for d in marks], [f"{d}°" for d in marks])
    other.grid(visible=False)


def _cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def scale(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    rows = tables.get("kernel")
    if not rows:
        return None
    figure, axes = _figure(2)
    for ax, key, title in zip(
        axes,
        ("frobenius_norm", "trace"),
        ("Frobenius norm of the kernel", "its trace"),
        strict=True,
    ):
        for arm in _arms(rows):
            line = [r for r in rows if r["arm"] == arm]
            ax.plot(
                [r["step"] for r in line],
                [r[key] for r in line],
                color=ARM_COLOUR[arm],
                label=ARM_LABEL[arm],
            )
        ax.set_yscale("log")
        ax.set_title(title)
        ax.set_xlabel("step")
        _mark_drops(ax, milestones)
    axes[0].legend()
    return figure


def linear(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    rows = tables.get("linear")
    if not rows:
        return None
    switched = [
        r for r in rows if r["kind"] in ("linearised", "lazy") and r["test_error"] is not None
    ]
    full = [r for r in rows if r["kind"] == "nonlinear"]
    figure, axes = _figure(2)
    for ax, key, title in zip(
        axes,
        ("test_error", "train_loss"),
        ("test error at the end", "training loss at the end"),
        strict=True,
    ):
        ax.plot(
            [r["switch_step"] for r in switched],
            [r[key] for r in switched],
            "o-",
            color="#009E73",
            label="linearised from t on",
        )
        for r in switched:
            if r["kind"] == "lazy":
                ax.plot(
                    [r["switch_step"]],
                    [r[key]],
                    "s",
                    color="#CC79A7",
                    label="linearised from the start (lazy)",
                )
        for r in full:
            ax.axhline(r[key], color="black", linestyle=(0, (4, 2)), label="never linearised")
        ax.set_title(title)
        ax.set_xlabel("step of the switch, t")
        ax.set_ylim(bottom=0)
    axes[0].legend()
    return figure


def training(tables: Tables, last: int, milestones: tuple[int, ...]) -> Figure | None:
    rows = tables.get("train")
    if not rows:
        return None
    figure, axes = _figure(3)
    for arm in _arms(rows):
        line = [r for r in rows if r["arm"] == arm]
        steps = [r["step"] for r in line]
        colour = ARM_COLOUR[arm]
        for ax, what in zip(axes, ("loss", "error"), strict=False):
            ax.plot(
                steps,
                [r[f"train_{what}"] for r in line],
                color=colour,
                label=f"train, {ARM_LABEL[arm]}",
            )
            ax.plot(
                steps,
                [r[f"test_{what}"] for r in line],
                color=colour,
                linestyle="--",
                label=f"test, {ARM_LABEL[arm]}",
            )
            ax.set_title(f"{what}")
        axes[2].step(steps, [r["rate"] for r in line], color=colour, where="post")
    axes[2].set_title("learning rate")
    axes[2].set_yscale("log")
    for ax in axes:
        ax.set_xlabel("step")
        _mark_drops(ax, milestones)
    axes[0].legend()
    return figure


FIGURES: dict[str, Callable[[Tables, int, tuple[int, ...]], Figure | None]] = {
    "chaos": chaos,
    "growth": growth,
    "barrier": barrier,
    "heatmap": heatmap,
    "cone": cone,
    "scale": scale,
    "linear": linear,
    "training": training,
}
