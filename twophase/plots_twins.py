"""Figures of twins layer by layer and step by step: features, and how fast distances grow."""

from __future__ import annotations

from statistics import median

import numpy as np

from twophase.phases import arms_of
from twophase.plotstyle import (
    ARM_COLOUR,
    ARM_LABEL,
    ARM_MARK,
    COLOUR,
    Panel,
    blank,
    plain,
    scale_colours,
    steps_axis,
)
from twophase.tables import Rows, Tables


def features(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """1 - CKA of every layer's outputs over t0, medians over draws; one panel per arm."""
    rows = [r for r in tables["features"] if r["kind"] == "perturbed" and r["distance"] is not None]
    top = max((r["distance"] for r in rows), default=0.0)
    return [_features([r for r in rows if r["arm"] == arm], arm, top) for arm in arms_of(rows)]


def _features(rows: Rows, arm: str, top: float) -> Panel:
    layers = list(dict.fromkeys(r["layer"] for r in rows))
    grid = sorted({r["t0"] for r in rows})
    cells = np.full((len(layers), len(grid)), np.nan)
    for i, layer in enumerate(layers):
        for j, t0 in enumerate(grid):
            draws = [r["distance"] for r in rows if r["layer"] == layer and r["t0"] == t0]
            cells[i, j] = median(draws) if draws else np.nan
    height = 0.9 + 0.17 * max(len(layers), 8)
    figure, axes = blank(
        f"1 − CKA of features · {ARM_LABEL[arm]}", "step of the perturbation, t₀", (4.5, height)
    )
    image = axes.imshow(cells, vmin=0, vmax=top or 1, aspect="auto")
    axes.set_xticks(range(len(grid)), [str(t) for t in grid])
    axes.set_yticks(range(len(layers)), list(map(plain, layers)), fontsize=7)
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    alt = f"1 - CKA of the features of {len(layers)} layers over t0, {arm}; largest {top:.2g}."
    return Panel(f"features-{arm}", alt, figure)


def exponents(tables: Tables, findings: dict, milestones: tuple[int, ...]) -> list[Panel]:
    """Distance of the twins at every step beside the tangent's, and the exponents over t0."""
    found = findings["growth"]
    if not found:
        return []
    rows = [r for r in tables["growth"] if r["kind"] == "perturbed"]
    return [*(_paths(rows, arm) for arm in found["arms"]), _exponents(found)]


def _paths(rows: Rows, arm: str) -> Panel:
    figure, axes = blank(f"Distance of the twins · {ARM_LABEL[arm]}", "steps since t₀")
    rows = [r for r in rows if r["arm"] == arm]
    grid = sorted({r["t0"] for r in rows})
    for t0, colour in zip(grid, scale_colours(len(grid)), strict=True):
        for column, dashes, label in (("l2", "-", f"{t0}"), ("tangent", (0, (1, 1.6)), None)):
            levels: dict[int, list[float]] = {}
            for r in rows:
                if r["t0"] == t0 and r[column]:
                    levels.setdefault(r["step"] - t0, []).append(r[column])
            line = [median(v) for v in levels.values()]
            axes.plot(list(levels), line, ls=dashes, color=colour, label=label, lw=1.3)
    axes.plot([], [], color=COLOUR["soft"], ls=(0, (1, 1.6)), label="tangent")
    axes.set_yscale("log")
    axes.set_ylabel("|θ − θ′|")
    figure.legend(*axes.get_legend_handles_labels(), title="t₀", loc="outside right upper")
    return Panel(f"paths-{arm}", f"Distance of twins and tangent over steps, {arm}.", figure)


def _exponents(found: dict) -> Panel:
    figure, axes = blank("Finite-time exponent", "step of the perturbation, t₀")
    grid: set[int] = set()
    for arm, part in found["arms"].items():
        grid |= set(part["t0"])
        for kind, dashes in (("twin", "-"), ("tangent", (0, (1, 1.6)))):
            line = {t0: median(f[kind]) for t0, f in part["t0"].items() if f[kind]}
            label = f"{kind}, {ARM_LABEL[arm]}"
            axes.plot(
                list(line), list(line.values()), ls=dashes, color=ARM_COLOUR[arm], label=label
            )
            for t0 in line:
                draws = part["t0"][t0][kind]
                mark = ARM_MARK[arm] if kind == "twin" else "x"
                axes.plot([t0] * len(draws), draws, mark, color=ARM_COLOUR[arm], alpha=0.6)
    axes.axhline(0, color=COLOUR["ink"], lw=0.9, ls=(0, (4, 2)), zorder=1)
    steps_axis(axes, sorted(grid))
    axes.set_ylabel("λ, 1/step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return Panel("exponents", "Finite-time Lyapunov exponents of twins and tangents.", figure)
