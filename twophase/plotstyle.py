"""What all figures share: panels, colours that follow the page's theme, axes, bytes that repeat."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from twophase.turning import resolution

STEPS_OF_SCALE = 8


def _scale(low: float, high: float) -> list[str]:
    places = np.linspace(low, high, STEPS_OF_SCALE)
    return [to_hex(c) for c in matplotlib.colormaps["viridis"](places)]


# name: (light, dark). Okabe-Ito hues, told apart by the colour-blind; the dark ones are lighter
# for contrast. Inline in a page each becomes var(--name), so that one drawing serves both themes.
THEME: dict[str, tuple[str, str]] = {
    "ink": ("#1d2025", "#e6e7ea"),
    "soft": ("#5f646d", "#a4a9b3"),
    "rule": ("#dfe2e6", "#343942"),
    "blue": ("#0072b2", "#5ab4e8"),
    "orange": ("#d55e00", "#ff9550"),
    "green": ("#00805f", "#35c79c"),
    "pink": ("#b8558c", "#e394bf"),
    "amber": ("#a87500", "#e6b034"),
    **{
        f"scale{i}": pair
        for i, pair in enumerate(zip(_scale(0.0, 0.86), _scale(0.24, 1.0), strict=True))
    },
}
COLOUR = {name: light for name, (light, _) in THEME.items()}
ARM_COLOUR = {"schedule": COLOUR["blue"], "constant": COLOUR["orange"], "own": COLOUR["blue"]}
ARM_LABEL = {"schedule": "stepped rate", "constant": "constant rate", "own": "own training"}
ARM_MARK = {"schedule": "o", "constant": "s", "own": "o"}

STYLE = {
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "text.color": COLOUR["ink"],
    "axes.edgecolor": COLOUR["soft"],
    "axes.labelcolor": COLOUR["ink"],
    "axes.labelsize": 8.5,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOUR["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOUR["soft"],
    "ytick.color": COLOUR["soft"],
    "xtick.labelcolor": COLOUR["ink"],
    "ytick.labelcolor": COLOUR["ink"],
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "svg.hashsalt": "twophase",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
}


@dataclass(frozen=True)
class Panel:
    """One drawing; `alt` says in words what it shows."""

    name: str
    alt: str
    figure: Figure


def blank(title: str, x: str, size: tuple[float, float] = (4.5, 3.05)) -> tuple[Figure, Axes]:
    """A figure of one axes, without pyplot's global state; size in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    return figure, axes


def svg(panel: Panel) -> bytes:
    """A file of its own, on white."""
    FigureCanvasSVG(panel.figure)
    out = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        metadata = {"Date": None, "Creator": None}
        panel.figure.savefig(out, format="svg", metadata=metadata, facecolor="white")
    panel.figure.set_layout_engine("none")  # it is settled; a second format need not repeat it
    return out.getvalue()


def pdf(panels: list[Panel]) -> bytes:
    """All panels in one file, a page each: so the font is embedded once."""
    out = io.BytesIO()
    metadata = {"CreationDate": None, "Producer": None, "Creator": None}
    with matplotlib.rc_context(STYLE), PdfPages(out, metadata=metadata) as pages:
        for panel in panels:
            FigureCanvasPdf(panel.figure)
            pages.savefig(panel.figure, facecolor="white")
    return out.getvalue()


def inline(panel: Panel, drawing: bytes) -> str:
    """The same drawing for the inside of a page: no background, themed, ids of its own."""
    text = drawing.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_1">.*?</g>\s*', "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{panel.name}-", text)
    text = text.replace("'DejaVu Sans'", "var(--sans)").replace("xlink:href", "href")
    for name, light in COLOUR.items():
        text = text.replace(light, f"var(--{name})")
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version|xmlns:xlink|xmlns)="[^"]*"', "", head)
    label = f'role="img" aria-labelledby="{panel.name}-alt"'
    return f'{head} {label}><title id="{panel.name}-alt">{_escape(panel.alt)}</title>{rest}'


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plain(text: str) -> str:
    """A name for a drawing: without formulas between dollars, and without what XML cannot have."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")


def steps_axis(
    axes: Axes, grid: list[int], ticks: list[int] | None = None, which: str = "x"
) -> None:
    """log(1 + t/s) with s the grid's resolution: t = 0 has a place and no step is squeezed."""
    s = resolution(grid)
    getattr(axes, f"set_{which}scale")(
        "function",
        functions=(
            lambda t: np.sign(t) * np.log1p(np.abs(t) / s),
            lambda u: np.sign(u) * s * np.expm1(np.abs(u)),
        ),
    )
    low, high = np.log1p(min(grid) / s), np.log1p(max(grid) / s)
    margin = 0.05 * ((high - low) or 1)
    bounds = (-s * np.expm1(margin) if low == 0 else None, s * np.expm1(high + margin))
    getattr(axes, f"set_{which}lim")(*bounds)
    marks = ticks or grid
    getattr(axes, f"set_{which}ticks")(marks, [f"{t:,}".replace(",", "\u202f") for t in marks])
    axes.minorticks_off()


def arm_line(arm: str) -> dict:
    """Where arms may coincide: a broad pale line below a fine one, so that both are seen."""
    if arm == "constant":
        return {"color": ARM_COLOUR[arm], "lw": 3.6, "alpha": 0.5, "zorder": 2}
    return {"color": ARM_COLOUR[arm], "lw": 1.3, "zorder": 3}


def mark_drops(axes: Axes, milestones: tuple[int, ...], last: float) -> None:
    """A dashed line at each drop of the rate that the axis reaches."""
    for step in (m for m in milestones if m <= last):
        axes.axvline(step, color=COLOUR["soft"], linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)


def scale_colours(count: int) -> list[str]:
    """Up to eight colours from dark to light, in order of the values they stand for."""
    places = np.linspace(0, STEPS_OF_SCALE - 1, max(count, 1)).round().astype(int)
    return [COLOUR[f"scale{i}"] for i in places]


def css() -> str:
    """The theme as custom properties, light first."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in THEME.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in THEME.items())
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
