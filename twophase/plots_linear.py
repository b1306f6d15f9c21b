"""Figures of the linear switch."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from twophase.plotstyle import COLOUR, Panel, blank, steps_axis
from twophase.tables import Rows, Tables

KIND = {"taylor": ("green", "o"), "tangent": ("blue", "s"), "nonlinear": ("orange", "^")}
WIDE = 30  # losses further apart than this go on a logarithmic axis
LEGEND = {"loc": "outside lower center", "ncols": 2, "handlelength": 3.0}
REGRESSION = {"zero": ("pink", "x"), "network": ("amber", "+")}


def linear(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Scores at the end against the switch step, beside the run that was never switched."""
    if not any(r["variant"] != "nonlinear" for r in tables["linear"]):
        return []
    return [_errors(tables, findings["linear"]), _losses(tables)]


def _errors(tables: Tables, found: dict) -> Panel:
    title = "Test error at the end"
    figure, axes = blank(title, "step of the switch, t", (4.5, 3.9))
    _lines(axes, tables["linear"], "test_error")
    for mean, line in (found["regression"] or {"test_error": {}})["test_error"].items():
        colour, mark = REGRESSION[mean]
        label = f"regression, mean {mean}"
        axes.plot(*_sorted(line), mark, ls=(0, (1, 1.6)), color=COLOUR[colour], lw=1.1, label=label)
    if found["at_switch"]:
        axes.plot(
            *_sorted(found["at_switch"]), ".-", color=COLOUR["soft"], lw=0.8, label="network at t"
        )
    axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), **LEGEND)
    return Panel("linear-test_error", f"{title} against the switch step.", figure)


def _losses(tables: Tables) -> Panel:
    title = "Training loss at the end"
    figure, axes = blank(title, "step of the switch, t", (4.5, 3.9))
    _lines(axes, tables["linear"], "train_loss")
    losses = [r["train_loss"] for r in tables["linear"] if r["train_loss"]]
    if losses and max(losses) > WIDE * min(losses):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), **LEGEND)
    return Panel("linear-train_loss", f"{title} against the switch step.", figure)


def _lines(axes: Axes, rows: Rows, column: str) -> None:
    """A line for each variant: colour its kind, dashes kept momentum, hollow running statistics."""
    switched = [r for r in rows if r["variant"] != "nonlinear"]
    for name in dict.fromkeys(r["variant"] for r in switched):
        line = {r["switch_step"]: r[column] for r in switched if r["variant"] == name}
        colour, mark = KIND[name.split("-")[0]]
        fill = {"markerfacecolor": "none"} if "running" in name else {}
        axes.plot(
            *_sorted(line),
            mark,
            ls="--" if "keep" in name else "-",
            color=COLOUR[colour],
            label=name,
            **fill,
        )
    for r in rows:
        if r["variant"] == "nonlinear" and r[column] is not None:
            label = "never switched"
            axes.axhline(r[column], color=COLOUR["ink"], ls=(0, (4, 2)), lw=1.2, label=label)
    steps_axis(axes, sorted({r["switch_step"] for r in switched}))


def _sorted(line: dict[int, float | None]) -> tuple[list[int], list[float]]:
    """In order of the step; a run that diverged is a gap."""
    steps = sorted(line)
    return steps, [math.nan if line[t] is None else line[t] for t in steps]
