"""Run directories with tables of known shape: both effects there, or neither."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np

from twophase import chaos, cone, config, kernels, linear, regression, train
from twophase.metrics import angle
from twophase.rundir import RunDir

T0 = (0, 20, 50, 100, 200, 400, 800)
CONFIG = {
    "name": "synthetic",
    "data": {"source": "digits", "label_noise": 0.2, "augment": "shift"},
    "training": {"steps": 1600, "milestones": [1200, 1400]},
    "chaos": {"t0": list(T0), "t1": [800, 820, 850, 900, 1000, 1200]},
    "kernels": {"probe": 64, "steps": [0, 50, *range(100, 1601, 100)]},
    "cone": {"tau": [0, 400, 800], "lags": [100, 200, 400]},
    "linear": {"switch": [0, 100, 400, 800], "regression": 32}
    | {"variants": ["taylor", "tangent", "nonlinear-frozen"]},
}
# arXiv's measures at t1 = T for t0 = 0 .. 800, of the size that digits and a thin ResNet give
LEVELS = {
    "schedule": {
        "dissimilarity": (0.088, 0.088, 0.070, 0.059, 0.047, 0.023, 1e-5),
        "loss_barrier_train": (0.027, 0.025, 0.023, 0.014, 0.007, 0.003, 0.0),
        "disagreement": (0.056, 0.042, 0.040, 0.033, 0.027, 0.019, 0.007),
    },
    "constant": {
        "dissimilarity": (0.208, 0.206, 0.179, 0.152, 0.105, 0.096, 0.058),
        "loss_barrier_train": (0.092, 0.095, 0.073, 0.041, 0.035, 0.021, 0.008),
        "disagreement": (0.100, 0.104, 0.080, 0.078, 0.069, 0.048, 0.030),
    },
}


def build(path: Path, effect: bool = True, overrides: list[str] = (), faster: int = 1) -> RunDir:
    """All tables of a run; without `effect` every measure is flat and the kernel walks freely.

    faster = 2: the levels of every other t0, so that all measures fall earlier.
    """
    run = RunDir.create(path, config.build(CONFIG, overrides))
    generator = np.random.default_rng(3 + run.config.seed)
    _train(run)
    _chaos(run, faster if effect else 0, generator)
    _cone(run, effect)
    _linear(run, effect)
    run.save_json(
        run.path / "environment.json",
        {
            "versions": {"python": "3.11.0", "torch": "2.13.0"},
            "machine": {"processor": "some CPU", "cores": 2},
            "dtype": "float32",
            "backends": {"torch": "ok", "triton": "no CUDA device"},
            "command": "twophase run quickstart",
            "commit": "0123456789ab",
            "stage_seconds": {"train": 20.5, "chaos": 150.0},
        },
    )
    return run


def _train(run: RunDir) -> None:
    rows = []
    for arm in run.config.arms:
        for step in run.config.checkpoints:
            rate = run.config.rate(arm, step)
            before = run.config.rate(arm, max(step - 1, 0))  # a drop acts from its step on
            loss = 0.5 * before**0.2 + 2 * math.exp(-step / 60)
            row = {"arm": arm, "step": step, "epoch": step * 64 / 1347, "rate": rate}
            scores = {"train_loss": loss, "train_error": loss / 4}
            rows.append({**row, **scores, "test_loss": 0.8 * loss, "test_error": loss / 9})
    run.save_table("train", train.COLUMNS, rows)


def _chaos(run: RunDir, faster: int, generator: np.random.Generator) -> None:
    rows, paths = [], []
    for arm in run.config.arms:
        for i, t0 in enumerate(T0):
            place = min(i * faster, len(T0) - 1)
            for draw in range(run.config.chaos.draws + 1):
                for t1 in (t for t in run.config.measured if t > t0):
                    rows.append(_twin(run, arm, place, t0, t1, draw, generator))
                paths += _path(run, arm, t0, draw, rows[-1]["loss_barrier_train"])
    run.save_table("chaos", chaos.COLUMNS, rows)
    run.save_table("barrier", chaos.PATH_COLUMNS, paths)
    run.save_table("growth", chaos.TABLES["growth"], _growth(run, faster > 0))
    key = ("arm", "t0", "t1", "draw", "kind")
    layers = [
        {**{k: r[k] for k in key}, "layer": "conv", "distance": r["feature_distance"]} for r in rows
    ]
    run.save_table("features", chaos.FEATURE_COLUMNS, layers)


def _twin(run: RunDir, arm: str, i: int, t0: int, t1: int, draw: int, generator) -> dict:
    """Draws scatter by 10 %; half of the final level is there at t1 = 400."""
    last = run.config.training.steps
    grown = (0.5 + 0.5 * t1 / last) * float(generator.uniform(0.9, 1.1)) * bool(draw)
    levels = {m: v[i] * grown for m, v in LEVELS[arm].items()}
    c, b = levels["dissimilarity"], levels["loss_barrier_train"]
    row = {"arm": arm, "t0": t0, "t1": t1, "draw": draw, **levels}
    return row | {
        "kind": "perturbed" if draw else "control",
        "eps": 1e-7 if draw else 0.0,
        "realised_l2": 4.9e-8 if draw else 0.0,
        "changed_fraction": 0.078 if draw else 0.0,
        "l2": 30 * math.sqrt(2 * c),
        "relative_l2": math.sqrt(2 * c),
        "largest_difference": c,
        "loss_barrier_test": b / 40,
        "error_barrier_train": b / 3,
        "error_barrier_test": b / 9,
        "kernel_distance": 2 * c if t1 == last else None,
        "feature_distance": c,
        "independent_disagreement": 2 * levels["disagreement"],
        "divergence": 10 * b,
        "softmax_distance": levels["disagreement"],
        "prediction_distance": c,
        "aligned_barrier_train": b / 2,
        "aligned_barrier_test": b / 80,
        "renamed_fraction": 0.1 * bool(draw),
    }


def _growth(run: RunDir, effect: bool) -> list[dict]:
    """Tangents that grow before step 100 and shrink after it; without the effect, all grow."""
    rows = []
    for arm in run.config.arms:
        for t0 in T0:
            for draw in range(run.config.chaos.draws + 1):
                rate = 0.1 if t0 < 100 or not effect else -0.02
                key = {"arm": arm, "t0": t0, "draw": draw}
                key["kind"] = "perturbed" if draw else "control"
                for step in range(0, 21, 5):
                    size = 1e-7 * math.exp(rate * step) * bool(draw)
                    noise = 1e-6 * (step > 0) * bool(draw)
                    rows.append({**key, "step": t0 + step, "l2": size + noise, "tangent": size})
    return rows


def _path(run: RunDir, arm: str, t0: int, draw: int, height: float) -> list[dict]:
    key = {"arm": arm, "t0": t0, "t1": run.config.training.steps, "draw": draw}
    key["kind"] = "perturbed" if draw else "control"
    rows = []
    for k in range(run.config.chaos.alphas):
        alpha = k / (run.config.chaos.alphas - 1)
        loss = 0.4 + 0.01 * alpha + 4 * height * alpha * (1 - alpha)
        scores = {"train_loss": loss, "train_error": loss / 4}
        row = {**key, "alpha": alpha, **scores}
        rows.append({**row, "test_loss": 0.3 + alpha * 0.01, "test_error": 0.04})
    return rows


def distance(arm: str, i: int, j: int, effect: bool) -> float:
    """Cone: an early turn towards the axis, then independent wobbles around it.

    Without the effect: a free walk of constant turn, whose cosines multiply.
    """
    a, b = sorted((i, j))
    if a == b:
        return 0.0
    if not effect:
        return 1 - 0.999 ** (b - a)
    wobble = {False: 0.05, True: 0.01}[arm == "schedule" and b > 1200]
    return wobble + 0.4 * abs(math.exp(-a / 80) - math.exp(-b / 80))


def _cone(run: RunDir, effect: bool) -> None:
    steps, c = run.config.kernels.steps, run.config
    rows = {name: [] for name in (*cone.TABLES, *kernels.TABLES)}
    for arm in c.arms:
        for i in steps:
            for j in steps:
                s = distance(arm, i, j, effect)
                rows["cone_matrix"].append({"arm": arm, "step_i": i, "step_j": j, "distance": s})
                if i in c.cone.tau and j >= i:
                    turn = {"arm": arm, "distance": s, "angle_deg": angle(s)}
                    rows["cone_reference"].append({**turn, "tau": i, "step": j})
                if j - i in c.cone.lags:
                    rows["cone_lagged"].append({"arm": arm, **cone.turn(i, j, s)})
                for layer, size in (("conv", 0.5), ("fc", 1.5)):
                    if j - i == min(c.cone.lags):
                        turn = cone.turn(i, j, size * s)
                        rows["cone_layers"].append({"arm": arm, "layer": layer, **turn})
            _kernel(rows, {"arm": arm, "step": i})
        rows["cone_neighbours"] += [
            {"arm": arm, **cone.turn(i, j, distance(arm, i, j, effect))} for i, j in pairwise(steps)
        ]
    check = {"arm": c.arms[0], "step": steps[-1], "samples": 16, "distance": 1e-13}
    for name in ("tiles", "float64"):
        rows["checks"].append({**check, "check": name, "relative_difference": 5e-7})
    for name, columns in (cone.TABLES | kernels.TABLES).items():
        run.save_table(name, columns, rows[name])


def _kernel(rows: dict[str, list], key: dict) -> None:
    """It turns to the labels within 100 steps and grows within 800."""
    i = key["step"]
    norm = 5e4 * (1 + 3 * i / (i + 400))
    ranks = {"entropy_rank": 30.0, "participation_rank": 5.0, "stable_rank": 3.0}
    fit = {"alignment": 0.6, "centred_alignment": 0.5 - 0.4 * math.exp(-i / 30)}
    size = {"frobenius_norm": norm, "trace": 5**0.5 * norm}
    rows["kernel"].append({**key, **size, **ranks, **fit})
    for k in range(10):
        rows["spectrum"].append({**key, "rank": k + 1, "eigenvalue": norm / (k + 2)})


def _linear(run: RunDir, effect: bool) -> None:
    """Errors fall to 0.04 over 150 steps for every variant, with less to lose by freezing alone."""
    rows, regressed = [], []
    lost = {"nonlinear-frozen": 0.02}
    for variant in (*run.config.linear.variants, "nonlinear"):
        for switch in run.config.linear.switch if variant != "nonlinear" else (1600,):
            height = lost.get(variant, 0.2)
            error = 0.04 + height * (math.exp(-switch / 150) if effect else switch < 1600)
            row = {"arm": "schedule", "variant": variant, "switch_step": switch, "step": 1600}
            scores = {"train_loss": 10 * error, "train_error": error, "test_loss": 8 * error}
            rows.append({**row, "diverged": False, **scores, "test_error": error})
            rows[-1] |= {} if "nonlinear" in variant else {"start_error": 1e-7}
    for switch in run.config.linear.switch if run.config.linear.regression else ():
        for mean, error in (("zero", 0.4), ("network", 0.3)):
            row = {"arm": "schedule", "switch_step": switch, "mean": mean, "test_samples": 450}
            samples = {"samples": run.config.linear.regression, "ridge": 1e-3}
            regressed.append({**row, **samples, "left_out_error": error, "test_error": error})
    run.save_table("linear", linear.COLUMNS, rows)
    run.save_table("regression", regression.COLUMNS, regressed)
