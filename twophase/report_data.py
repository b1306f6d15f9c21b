"""The numbers behind each figure of a run's report, as tables of one line for each curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twophase import phases
from twophase.plots_chaos import MAPS, MATCHED, PREDICTIONS, excess
from twophase.tables import Rows, Tables, pivot


def _perturbed(found: Tables, name: str) -> Rows:
    return [row for row in found[name] if row["kind"] == "perturbed"]


def _by_measure(found: Tables, names: Iterable[str]) -> Rows:
    """Rows of (measure, arm, t0, t1, value), so that a pivot can list measures."""
    return [
        {"measure": m, "arm": r["arm"], "t0": r["t0"], "t1": r["t1"], "value": r[m]}
        for m in names
        for r in _perturbed(found, "chaos")
        if r.get(m) is not None
    ]


def _excess(found: Tables) -> Rows:
    rows = _perturbed(found, "barrier")
    groups = {(r["arm"], r["t0"]): [] for r in rows}
    for r in rows:
        groups[r["arm"], r["t0"]].append(r)
    return [
        {"loss": part, "arm": arm, "t0": t0, "alpha": alpha, "value": value}
        for part in ("train", "test")
        for (arm, t0), group in groups.items()
        for alpha, value in excess(group, f"{part}_loss").items()
    ]


def _at_the_end(found: Tables, names: Iterable[str] = tuple(phases.MEASURES)) -> Rows:
    rows = _by_measure(found, names)
    last = max((r["t1"] for r in rows), default=0)
    return [r for r in rows if r["t1"] == last]


def _melt(rows: Rows, columns: tuple[str, ...]) -> Rows:
    return [{**r, "quantity": c, "value": r[c]} for c in columns for r in rows]


FIT = ("alignment", "centred_alignment")
RANKS = ("entropy_rank", "participation_rank", "stable_rank")
SCORES = ("train_loss", "train_error", "test_loss", "test_error")
DATA: dict[str, Callable[[Tables], dict]] = {
    "chaos": lambda f: pivot(_at_the_end(f), ("measure", "arm"), "t0", "value"),
    "predictions": lambda f: pivot(
        _at_the_end(f, (*PREDICTIONS, "independent_disagreement")),
        ("measure", "arm"),
        "t0",
        "value",
    ),
    "matched": lambda f: pivot(
        _at_the_end(f, (*MATCHED, "renamed_fraction")), ("measure", "arm"), "t0", "value"
    ),
    "maps": lambda f: pivot(_by_measure(f, MAPS), ("measure", "arm", "t1"), "t0", "value"),
    "features": lambda f: pivot(_perturbed(f, "features"), ("arm", "layer"), "t0", "distance"),
    "growth": lambda f: pivot(_perturbed(f, "chaos"), ("arm", "t0"), "t1", "relative_l2"),
    "barrier": lambda f: pivot(_excess(f), ("loss", "arm", "t0"), "alpha", "value"),
    "matrix": lambda f: pivot(f["cone_matrix"], ("arm", "step_i"), "step_j", "distance"),
    "cone": lambda f: pivot(f["cone_reference"], ("arm", "tau"), "step", "angle_deg"),
    "lags": lambda f: pivot(f["cone_lagged"], ("arm", "lag"), "step", "angle_deg"),
    "speed": lambda f: pivot(f["cone_neighbours"], ("arm",), "step", "deg_per_step"),
    "layers": lambda f: pivot(f["cone_layers"], ("arm", "layer"), "step", "angle_deg"),
    "labels": lambda f: pivot(_melt(f["kernel"], FIT), ("quantity", "arm"), "step", "value"),
    "rank": lambda f: pivot(_melt(f["kernel"], RANKS), ("quantity", "arm"), "step", "value"),
    "kernel": lambda f: pivot(
        _melt(f["kernel"], ("frobenius_norm", "trace")), ("quantity", "arm"), "step", "value"
    ),
    "linear": lambda f: pivot(
        _melt(f["linear"], SCORES), ("variant", "switch_step"), "quantity", "value"
    ),
    "training": lambda f: pivot(
        _melt(f["train"], ("rate", *SCORES)), ("quantity", "arm"), "step", "value"
    ),
}


def geometry(cone: dict | None) -> dict:
    """Tables of what is drawn of the cone and follows from its distances."""
    angles, points = [], []
    for arm, part in (cone or {"arms": {}})["arms"].items():
        inside, path = part["inside"] or {"steps": ()}, part["path"] or {"steps": ()}
        angles += [
            {"angle": name.removesuffix("_deg"), "arm": arm, "step": t, "value": inside[name][k]}
            for name in ("aperture_deg", "to_start_deg", "to_mean_deg")
            for k, t in enumerate(inside["steps"])
        ]
        points += [
            {"axis": f"axis {k + 1}", "arm": arm, "step": t, "value": value}
            for t, point in zip(path["steps"], path.get("points", ()), strict=True)
            for k, value in enumerate(point)
        ]
    return {
        "inside": pivot(angles, ("angle", "arm"), "step", "value"),
        "path": pivot(points, ("axis", "arm"), "step", "value"),
    }


def sizes(found: Tables) -> dict:
    """Rows and the range of every numeric column."""
    sizes = {}
    for name, rows in found.items():
        ranges = {}
        for column in rows[0] if rows else ():
            values = [r[column] for r in rows if isinstance(r[column], int | float)]
            if values:
                ranges[column] = {"min": min(values), "max": max(values), "values": len(values)}
        sizes[name] = {"rows": len(rows), "columns": ranges}
    return sizes
