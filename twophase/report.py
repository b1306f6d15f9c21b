"""report.html, report.json and figures/, from whatever tables of a run exist."""

from __future__ import annotations

import base64
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from twophase import (
    cone_findings,
    formats,
    kernel_findings,
    linear_findings,
    nulls,
    paper,
    phases,
    plots,
    plotstyle,
    tables,
    turning,
    wording,
    wording_linear,
)
from twophase import config as configs
from twophase.controls import controls
from twophase.disk import write_atomic
from twophase.plotstyle import Panel
from twophase.report_data import DATA, geometry, sizes
from twophase.rundir import RunDir

# figure: (section, heading, tables behind it)
FIGURES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "overview": ("phases", "All measures on one time axis", ("chaos", "cone_lagged")),
    "chaos": ("chaos", "Twins at the end of training", ("chaos",)),
    "predictions": ("chaos", "What the twins say, and their features", ("chaos",)),
    "features": ("chaos", "Layer by layer", ("features",)),
    "maps": ("chaos", "Over the time of perturbation and the time of comparison", ("chaos",)),
    "growth": ("chaos", "How the twins part", ("chaos",)),
    "exponents": ("chaos", "How fast they part: beside the tangent", ("growth",)),
    "barrier": ("chaos", "On the line between the twins", ("barrier",)),
    "matched": ("chaos", "The barrier after units are renamed", ("chaos",)),
    "matrix": ("cone", "All pairs of checkpoints", ("cone_matrix",)),
    "cone": ("cone", "To reference steps, and over lags", ("cone_reference", "cone_lagged")),
    "inside": ("cone", "Inside the cone", ("cone_matrix",)),
    "speed": ("cone", "How fast the kernel turns", ("cone_neighbours", "cone_lagged")),
    "path": ("cone", "The path of the kernel", ("cone_matrix",)),
    "layers": ("cone", "Kernels of the layers", ("cone_layers",)),
    "labels": ("cone", "The kernel and the labels", ("kernel", "train")),
    "rank": ("cone", "Spectrum of the kernel", ("kernel", "spectrum")),
    "kernel": ("cone", "Size of the kernel", ("kernel",)),
    "linear": ("linear", "Switching to the linear model", ("linear", "regression")),
    "training": ("training", "The main run", ("train",)),
}
IF_ASKED = ("exponents", "matched", "layers")  # left out where the config does not ask for them
SECTIONS = {
    "phases": "When the phases change",
    "chaos": "Chaos effect",
    "cone": "Cone effect",
    "linear": "Linear switch",
    "training": "Training",
}


def write(run: RunDir) -> None:
    """Write the report; a table that is missing is named in it, and its figures are left out."""
    found, warnings = tables.load(run)
    steps, milestones = run.config.training.steps, run.config.training.milestones
    findings = phases.summary(found, steps, milestones)
    environment = _environment(run)
    facts = {
        "name": run.config.name,
        "answers": [a._asdict() for a in wording.answers(findings)],
        "warnings": warnings + _more_warnings(findings),
        "findings": findings,
        "paper": [row._asdict() for row in paper.beside(found, findings)],
        "controls": [c._asdict() for c in controls(found, findings, run.config)],
        "config": run.config.model_dump(mode="json"),
        "environment": environment,
        "thresholds": thresholds(),
        "data": {name: make(found) for name, make in DATA.items()} | geometry(findings["cone"]),
    }
    panels = {
        name: plots.draw(name, found, findings, milestones)
        for name, (_, _, sources) in FIGURES.items()
        if tables.STAGE[sources[0]] in run.config.stages
    }
    panels = {name: group for name, group in panels.items() if group or name not in IF_ASKED}
    drawn = inlined(run.path / "figures", panels)
    files = {name: [panel for panel, _ in panels] for name, panels in drawn.items()}
    run.save_json(run.path / "report.json", facts | {"figures": files, "tables": sizes(found)})
    write_atomic(run.report, _page(run, facts, drawn).encode())


def _environment(run: RunDir) -> dict:
    """The record of the machine; without this stage's own time, so that it can be written again."""
    path = run.path / "environment.json"
    found = run.load_json(path) if path.exists() else {}
    if "report" in found.get("stage_seconds", {}):
        found["stage_seconds"].pop("report")
    return found


def inlined(folder: Path, panels: dict[str, list[Panel]]) -> dict[str, list[tuple[str, Markup]]]:
    """{figure: (panel, drawing for the page)}; all are also written to the folder, and as PDF."""
    drawn: dict[str, list[tuple[str, Markup]]] = {name: [] for name in panels}
    for name, group in panels.items():
        for panel in group:
            drawing = plotstyle.svg(panel)
            write_atomic(folder / f"{panel.name}.svg", drawing)
            # matplotlib escapes the text it draws, and inline() the description
            drawn[name].append((panel.name, Markup(plotstyle.inline(panel, drawing))))
    pages = plotstyle.pdf([panel for group in panels.values() for panel in group])
    write_atomic(folder / "all.pdf", pages)
    return drawn


def _more_warnings(findings: dict) -> list[str]:
    lines = []
    chaos = findings["chaos"]
    if chaos and chaos["controls"]["exact"] is False:
        lines.append("The ε = 0 twins differ from the main run: small divergences mean nothing.")
    for name, found in (findings["linear"] or {"variants": {}})["variants"].items():
        for t in found["diverged"]:
            lines.append(f"The run switched to “{name}” at step {t} diverged; it has no scores.")
    return lines


def thresholds() -> dict[str, Any]:
    """The numbers that decide the report's words."""
    return {
        "fallen": phases.FALLEN,
        "partly": phases.PARTLY,
        "material": phases.MATERIAL,
        "gained": linear_findings.GAINED,
        "above_control": phases.ABOVE_CONTROL,
        "near": phases.NEAR,
        "slowed": cone_findings.SLOWED,
        "flat": cone_findings.FLAT,
        "confined": cone_findings.CONFINED,
        "rare": cone_findings.RARE,
        "aligned": kernel_findings.ALIGNED,
        "grown": kernel_findings.GROWN,
        "shuffles": nulls.SHUFFLES,
        "walks": nulls.WALKS,
        "narrow_deg": cone_findings.NARROW,
        "wide_deg": cone_findings.WIDE,
        "resamples": turning.RESAMPLES,
    }


def template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("twophase"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("number", "percent", "share", "degrees", "step", "interval")
    environment.filters |= {name: getattr(formats, name) for name in names}
    environment.filters["middle"] = lambda values: median(values) if values else None
    environment.filters["variant_label"] = wording_linear.variant_label
    return environment.get_template(name)


def _page(run: RunDir, facts: dict, drawn: dict) -> str:
    dtype = facts["environment"].get("dtype", "float32")
    existing = [name for name in tables.STAGE if run.table(name).exists()]
    return template("report.html").render(
        **facts,
        run_path=str(run.path),
        toml=configs.dump(run.config),
        drawn=drawn,
        figures={name: FIGURES[name] for name in drawn},
        sections={k: v for k, v in SECTIONS.items() if any(FIGURES[n][0] == k for n in drawn)},
        stages=tables.STAGE,
        captions=wording.captions(run.config, dtype),
        means=wording_linear.MEAN,
        network=wording.network(run.config),
        samples=wording.samples(run.config),
        outputs=wording.outputs(run.config),
        files={name: data_uri(run.table(name).read_bytes()) for name in existing},
        measures=phases.MEASURES,
        core=phases.core,
        arm_label=plotstyle.ARM_LABEL,
        theme=Markup(plotstyle.css()),  # our own constants
    )


def data_uri(content: bytes) -> str:
    return "data:text/csv;base64," + base64.b64encode(content).decode()
