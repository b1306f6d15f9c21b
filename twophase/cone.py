"""The cone effect: how the kernel turns, measured by angles between the run's kernels."""

from __future__ import annotations

import entk
from twophase.metrics import angle
from twophase.rundir import RunDir

MATRIX = ("arm", "step_i", "step_j", "distance")
REFERENCE = ("arm", "tau", "step", "distance", "angle_deg")
LAGGED = ("arm", "step", "lag", "distance", "angle_deg")


def stage(run: RunDir) -> None:
    """S over all pairs of steps, to the reference steps tau, and at fixed lags.

    Source: section 5 of arXiv 2505.13900.
    """
    config = run.config
    steps = config.kernels.steps
    matrix, reference, lagged = [], [], []
    for arm in config.arms:
        distances = entk.kernel_distance_matrix([run.kernel(arm, s) for s in steps]).tolist()
        table = {(a, b): distances[i][j] for i, a in enumerate(steps) for j, b in enumerate(steps)}
        matrix += [
            {"arm": arm, "step_i": a, "step_j": b, "distance": s} for (a, b), s in table.items()
        ]
        reference += [
            {"arm": arm, "tau": tau, "step": t, **_turn(table[tau, t])}
            for tau in config.cone.tau
            for t in steps
            if t >= tau
        ]
        lagged += [
            {"arm": arm, "step": t, "lag": lag, **_turn(table[t, t + lag])}
            for lag in config.cone.lags
            for t in steps
            if t + lag in steps
        ]
    run.save_table("cone_matrix", MATRIX, matrix)
    run.save_table("cone_reference", REFERENCE, reference)
    run.save_table("cone_lagged", LAGGED, lagged)


def _turn(distance: float) -> dict[str, float]:
    return {"distance": distance, "angle_deg": angle(distance)}
