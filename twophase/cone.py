"""The cone effect: how the kernel turns, measured by angles between the run's kernels."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import entk
from twophase import kernels
from twophase.metrics import angle
from twophase.rundir import RunDir

TURN = ("distance", "angle_deg", "velocity", "deg_per_step")
MATRIX = ("arm", "step_i", "step_j", "distance")
REFERENCE = ("arm", "tau", "step", "distance", "angle_deg")
LAGGED = ("arm", "step", "lag", *TURN)
LAYERS = ("arm", "layer", "step", "lag", *TURN)
TABLES = {
    "cone_matrix": MATRIX,
    "cone_reference": REFERENCE,
    "cone_lagged": LAGGED,
    "cone_neighbours": LAGGED,  # lag: from one kernel to the next
    "cone_layers": LAYERS,  # the smallest of the lags; empty without kernels.by_layer
}


def stage(run: RunDir) -> None:
    """S over all pairs of steps, to the reference steps tau, at fixed lags and between neighbours.

    Source: section 5 of arXiv 2505.13900.
    """
    kernels.check(run)
    rows: dict[str, list[dict]] = {name: [] for name in TABLES}
    for arm in run.config.arms:
        for name, found in _arm(run, arm).items():
            rows[name] += [{"arm": arm, **row} for row in found]
    for name, columns in TABLES.items():
        run.save_table(name, columns, rows[name])


def _arm(run: RunDir, arm: str) -> dict[str, list[dict]]:
    config, steps = run.config, run.config.kernels.steps
    distances = entk.kernel_distance_matrix([run.kernel(arm, s) for s in steps]).tolist()
    table = {(a, b): distances[i][j] for i, a in enumerate(steps) for j, b in enumerate(steps)}
    lagged = [(t, t + lag) for lag in config.cone.lags for t in steps if t + lag in steps]
    return {
        "cone_matrix": [{"step_i": a, "step_j": b, "distance": s} for (a, b), s in table.items()],
        "cone_reference": [
            {"tau": tau, "step": t, "distance": table[tau, t], "angle_deg": angle(table[tau, t])}
            for tau in config.cone.tau
            for t in steps
            if t >= tau
        ],
        "cone_lagged": [turn(a, b, table[a, b]) for a, b in lagged],
        "cone_neighbours": [turn(a, b, table[a, b]) for a, b in pairwise(steps)],
        "cone_layers": _layers(run, arm) if config.kernels.by_layer else [],
    }


def turn(start: int, stop: int, distance: float | None) -> dict[str, float | None]:
    """S over a lag, and per step: v = S / lag and ω = arccos(1 - S) / lag in degrees.

    Source: Fort et al. 2020 (arXiv 2010.15110) for v; ω does not depend on the lag while the kernel
    turns evenly, where S grows with its square.
    """
    lag = stop - start
    degrees = None if distance is None else angle(distance)
    values = (distance, degrees, *(None if v is None else v / lag for v in (distance, degrees)))
    return {"step": start, "lag": lag, **dict(zip(TURN, values, strict=True))}


def _layers(run: RunDir, arm: str) -> list[dict]:
    """The turn of each layer's kernel over the smallest lag, two kernels in memory at a time.

    None where a kernel is zero: nothing flows through the layer.
    """
    steps, lag = run.config.kernels.steps, min(run.config.cone.lags, default=None)
    rows = []
    for a, b in ((t, t + lag) for t in steps if lag is not None and t + lag in steps):
        with (
            entk.open_kernel(run.kernel(arm, a)) as one,
            entk.open_kernel(run.kernel(arm, b)) as two,
        ):
            for layer in one.layers:
                distance = None
                with suppress(entk.UndefinedDistanceError):
                    distance = entk.kernel_distance(one.layer(layer), two.layer(layer))
                rows.append({"layer": layer, **turn(a, b, distance)})
    return rows
