"""Figures over several runs: what falls when against each key, and all curves on one axis."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import cycle
from textwrap import shorten
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twophase.across import cells, named, ordered
from twophase.grid import shown
from twophase.phases import MEASURES
from twophase.plotstyle import COLOUR, STYLE, Panel, blank, plain, scale_colours, steps_axis
from twophase.points import Point, half

MARKS = "osv^DPX"
NAMED = 8  # groups that still have a colour and a line in the legend each
LONGEST = 38  # characters of a label


def text(label: str) -> str:
    """A label as matplotlib is to draw it: a dollar is no formula."""
    return plain(shorten(label, LONGEST, placeholder="…"))


def colours(count: int) -> list[str]:
    """Shades in order, or the one colour that is easy to see on either ground."""
    return scale_colours(count) if count > 1 else [COLOUR["blue"]]


def title(measure: str, what: str) -> str:
    label = MEASURES[measure]
    return f"{label[0].upper()}{label[1:]} · {what}"


def halves(found: dict[str, Any], points: list[Point]) -> list[Panel]:
    """Half-fall points against each key, a panel for each measure."""
    return [_half(found, k, m) for m in found["measures"] for k in found["varied"]]


def _half(found: dict, key: str, measure: str) -> Panel:
    figure, axes = blank(title(measure, "half-fall point"), text(key))
    grid = sorted({t for g in found["groups"] for t in _fall(g, measure).get("t0", ())})

    def draw(x: float, fall: dict, style: dict) -> None:
        if fall["half"] is None:
            axes.plot(x, 0.975, transform=axes.get_xaxis_transform(), **style, mfc="none")
            return
        interval = fall["interval"]
        if interval and interval["low"] is not None:
            high = grid[-1] if interval["high"] is None else interval["high"]
            axes.plot([x, x], [interval["low"], high], color=style["color"], lw=2.2, alpha=0.45)
        axes.plot(x, fall["half"], **style)

    _against(figure, axes, found, key, measure, draw)
    steps_axis(axes, grid or [0, 1], which="y")
    axes.set_ylabel("step of the perturbation, t₀")
    if any(f and f["half"] is None for f in (_fall(g, measure) for g in found["groups"])):
        axes.plot([], [], "o", color=COLOUR["soft"], mfc="none", label="no fall seen")
    _legend(figure, axes, found, key)
    name = f"half-{found['keys'].index(key)}-{measure}"
    return Panel(name, f"Half-fall point of {MEASURES[measure]} against {key}.", figure)


def levels(found: dict[str, Any], points: list[Point]) -> list[Panel]:
    """Levels at the first t0 against each key."""
    return [_level(found, k, m) for m in found["measures"] for k in found["varied"]]


def _level(found: dict, key: str, measure: str) -> Panel:
    figure, axes = blank(title(measure, "first t₀"), text(key))

    def draw(x: float, fall: dict, style: dict) -> None:
        if fall["bands"]:
            axes.plot([x, x], fall["bands"][0], color=style["color"], lw=2.2, alpha=0.45)
        axes.plot(x, fall["levels"][0], **style)

    _against(figure, axes, found, key, measure, draw)
    axes.set_ylim(0, max(1.05 * axes.dataLim.y1, 1e-9))
    _legend(figure, axes, found, key)
    name = f"level-{found['keys'].index(key)}-{measure}"
    return Panel(name, f"{MEASURES[measure]} at the first t0 against {key}.", figure)


def _against(
    figure: Figure,
    axes: Axes,
    found: dict,
    key: str,
    measure: str,
    draw: Callable[[float, dict, dict], None],
) -> None:
    """Marks at evenly spaced values of a key; other keys have colours and stand side by side."""
    values = ordered([g["values"][key] for g in found["groups"]])
    places = {json.dumps(v): i for i, v in enumerate(values)}
    rows = cells(found["groups"], key)
    step = min(0.14, 0.6 / len(rows))
    for k, (row, colour, mark) in enumerate(zip(rows, colours(len(rows)), cycle(MARKS))):
        style = {"color": colour, "marker": mark, "ls": "none", "ms": 5.5}
        for value, group in row.items():
            fall = _fall(group, measure)
            if fall:
                draw(places[value] + step * (k - (len(rows) - 1) / 2), fall, style)
        first = next(iter(row.values()))["values"]
        rest = {k: v for k, v in first.items() if k != key}
        if rest:
            axes.plot([], [], **style, label=text(named(rest, found["short"])))
    axes.set_xticks(range(len(values)), [text(shown(v)) for v in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.grid(visible=False, axis="x")


def _fall(group: dict, measure: str) -> dict:
    return group["measures"].get(measure) or {}


def _legend(figure: Figure, axes: Axes, found: dict, key: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles and len(handles) <= 2 * NAMED:
        figure.legend(handles, labels, loc="outside lower center", ncols=2)


def curves(found: dict[str, Any], points: list[Point]) -> list[Panel]:
    """Each measure along t0, all settings on one axis."""
    return [_curves(found, m) for m in found["measures"]]


def _curves(found: dict, measure: str) -> Panel:
    figure, axes = blank(title(measure, "all settings"), "step of the perturbation, t₀", (4.5, 3.6))
    grid: set[int] = set()
    for group, style in _styles(found):
        fall = _fall(group, measure)
        if fall:
            grid |= set(fall["t0"])
            _line(axes, fall["t0"], fall, style, len(found["groups"]))
    steps_axis(axes, sorted(grid) or [0, 1])
    axes.set_ylim(bottom=0)
    _legend(figure, axes, found, "")
    alt = f"{MEASURES[measure]} along t0 for {len(found['groups'])} settings."
    return Panel(f"curves-{measure}", alt, figure)


def turns(found: dict[str, Any], points: list[Point]) -> list[Panel]:
    """Turn of the kernel per lag along the run, all settings on one axis."""
    known = [(g, s) for g, s in _styles(found) if g["turns"]]
    if not known:
        return []
    lags = sorted({g["turns"]["lag"] for g, _ in known})
    name = f"Turn of the kernel over {' or '.join(map(str, lags))} steps"
    figure, axes = blank(name, "step at the start of the lag", (4.5, 3.6))
    for group, style in known:
        _line(axes, group["turns"]["step"], group["turns"], style, len(known))
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_ylabel("degrees")
    _legend(figure, axes, found, "")
    return [Panel("turns", f"{name} for {len(known)} settings.", figure)]


def _line(axes: Axes, x: list[int], line: dict, style: dict, count: int) -> None:
    """The median with its band over seeds; where few settings share the axis each seed as well."""
    axes.plot(x, line["levels"], ".-", ms=6, **style)
    if line["bands"]:
        low, high = zip(*line["bands"], strict=True)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.16, lw=0)
        for each in line["each"] if count <= 2 else ():
            axes.plot(x, each, color=style["color"], lw=0.7, alpha=0.6)


def _styles(found: dict) -> list[tuple[dict, dict]]:
    """(group, how to draw it): a colour each, or for many groups one per value of the first key."""
    groups = found["groups"]
    if len(groups) <= NAMED:
        names = [text(g["label"]) if found["varied"] else None for g in groups]
        return [
            (g, {"color": c, "label": n})
            for g, c, n in zip(groups, colours(len(groups)), names, strict=True)
        ]
    key = found["varied"][0]
    values = ordered([g["values"][key] for g in groups])
    shades = dict(zip(map(json.dumps, values), colours(len(values)), strict=True))
    styles, seen = [], set()
    for group in groups:
        value = json.dumps(group["values"][key])
        label = None if value in seen else text(named({key: group["values"][key]}, found["short"]))
        seen.add(value)
        styles.append((group, {"color": shades[value], "label": label}))
    return styles


def accuracy(found: dict[str, Any], points: list[Point]) -> list[Panel]:
    """Final test error against the half-fall point, a mark for each finished run."""
    panels = []
    for measure in found["measures"]:
        pairs = [
            (where, error)
            for p in points
            if p.state == "finished"
            and (where := half(p.chaos.get(measure))) is not None
            and (error := p.scores.get("test_error")) is not None
        ]
        if len(pairs) < 2:
            continue
        figure, axes = blank(title(measure, "test error"), "half-fall point, t₀")
        axes.plot(*zip(*pairs, strict=True), "o", color=COLOUR["blue"], alpha=0.75)
        steps_axis(axes, sorted({t for p in points for t in p.run.config.chaos.t0}) or [0, 1])
        axes.set_ylabel("final test error")
        alt = f"Final test error against the half-fall point of {MEASURES[measure]}."
        panels.append(Panel(f"accuracy-{measure}", alt, figure))
    return panels


FIGURES: dict[str, Callable[[dict[str, Any], list[Point]], list[Panel]]] = {
    "half": halves,
    "level": levels,
    "curves": curves,
    "turns": turns,
    "accuracy": accuracy,
}


def draw(found: dict[str, Any], points: list[Point]) -> dict[str, list[Panel]]:
    """{figure: panels}; none where there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        return {name: make(found, points) for name, make in FIGURES.items()}
