"""report.html, report.json and figures: what was found, in words, numbers and pictures."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from twophase import config as configs
from twophase import phases, plots
from twophase.rundir import RunDir, write_atomic

TABLES = (
    *("train", "chaos", "barrier", "kernel"),
    *("cone_matrix", "cone_reference", "cone_lagged", "linear"),
)


def write(run: RunDir) -> None:
    """Write the report from the tables that exist; a missing one is named in it."""
    tables = {name: load(run, name) for name in TABLES if run.table(name).exists()}
    last, milestones = run.config.training.steps, run.config.training.milestones
    found = phases.summary(tables, last, milestones)
    figures = {}
    for name, figure in plots.FIGURES.items():
        svg = plots.draw(lambda make=figure: make(tables, last, milestones))
        if svg is not None:
            write_atomic(run.path / "figures" / f"{name}.svg", svg.encode())
            figures[name] = Markup(svg)  # matplotlib's own output, not the user's text
    environment = run.path / "environment.json"
    facts = {
        "name": run.config.name,
        "config": run.config.model_dump(mode="json"),
        "environment": run.load_json(environment) if environment.exists() else {},
        "findings": found,
        "verdicts": phases.verdicts(found),
        "warnings": warnings(tables, found),
    }
    run.save_json(run.path / "report.json", {**facts, "tables": tables})
    page = _template().render(
        **facts,
        toml=configs.dump(run.config),
        figures=figures,
        captions=captions(run),
        arm_label=plots.ARM_LABEL,
        measures=phases.MEASURES,
        final=_final(tables, last),
        path=str(run.path),
    )
    write_atomic(run.report, page.encode())


def load(run: RunDir, name: str) -> list[dict[str, Any]]:
    """A table with numbers as numbers; an empty cell and a number that is not finite are None."""
    return [{k: _value(v) for k, v in row.items()} for row in run.load_table(name)]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else None


def warnings(tables: dict, found: dict) -> list[str]:
    """What a reader has to know before the figures."""
    lines = [
        f"tables/{name}.csv is missing: its stage has not run"
        for name in TABLES
        if name not in tables
    ]
    chaos = found.get("chaos")
    if chaos and not chaos["control_exact"]:
        lines.append(
            f"an eps = 0 control differs from the main run by up to {chaos['control_worst']:.1e}: "
            "this machine or backend is not deterministic, and small divergences mean nothing"
        )
    for t in found.get("linear", {}).get("diverged", ()):
        lines.append(f"the linearised run from step {t} diverged; its scores are missing")
    return lines


def captions(run: RunDir) -> dict[str, str]:
    """n, output mode, eps and dtype behind each figure."""
    c = run.config
    model = c.model.name
    if model in ("mlp", "thin-resnet"):
        model += f" {c.model.widths}"
    base = f"{model} on {c.data.source}, seed {c.seed}, float32."
    norm = {"reestimate": "re-estimated", "interpolate": "interpolated"}[c.chaos.batchnorm]
    twins = (
        f"eps = {c.chaos.eps:g} ({c.chaos.scale}), {c.chaos.draws} perturbation draws, "
        f"{c.chaos.alphas} points on the line, batch norm {norm}, baseline {c.chaos.baseline}; "
        f"{base}"
    )
    kernel = (
        f"eNTK of {c.kernels.probe} training inputs, outputs={c.kernels.outputs!r}, batch norm in "
        f"eval mode with re-estimated statistics, cosine distance summed in float64; {base}"
    )
    drops = ", ".join(map(str, c.training.milestones)) or "never"
    last = c.training.steps
    return {
        "chaos": f"Twins at the last step, {last}, against the step t0 at which one was perturbed; "
        f"dots are draws, lines medians; S on {c.kernels.probe} inputs. {twins}",
        "growth": f"The same twins along the comparison step t1; medians over draws. {twins}",
        "barrier": f"Training loss on the straight line between the main run and the first draw's "
        f"twin, at step {last}. {twins}",
        "heatmap": f"S between the kernels of all pairs of checkpoints; white lines: drops of the "
        f"rate ({drops}). {kernel}",
        "cone": f"Left: S to the kernel at a reference step tau. Right: S over a fixed lag, at its "
        f"end. Dashed: drops of the rate ({drops}). {kernel}",
        "scale": f"What the cosine distance does not see: the size of the kernel. {kernel}",
        "linear": f"Trained on to step {last} as the Taylor model at step t, arm {c.linear.arm!r}: "
        f"batch norm frozen, momentum {c.linear.momentum}, rate times {c.linear.rate_factor:g}; "
        f"{base}",
        "training": f"Both arms of the main run, batch-norm statistics re-estimated before each "
        f"evaluation. {base}",
    }


def _final(tables: dict, last: int) -> list[dict]:
    return [row for row in tables.get("train", ()) if row["step"] == last]


def _template():
    environment = Environment(
        loader=PackageLoader("twophase"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["num"] = _number
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.1f} %"
    environment.filters["degrees"] = lambda v: "–" if v is None else f"{v:.0f}°"
    return environment.get_template("report.html")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"
