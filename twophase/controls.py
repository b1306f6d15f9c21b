"""What was checked and what was not: each control with its result."""

from __future__ import annotations

from typing import NamedTuple

from twophase.config import Config
from twophase.formats import number, percent, share, step
from twophase.phases import core
from twophase.tables import Rows, Tables
from twophase.wording_chaos import LETTER, horizon

SYMMETRIC = 1e-12  # float64 sums over two orders of the same kernel


class Control(NamedTuple):
    """A line of the controls table; `result` is "pass", "fail", "run" or "not run"."""

    name: str
    result: str
    detail: str


def controls(tables: Tables, findings: dict, config: Config) -> list[Control]:
    return [
        _twins(findings["chaos"]),
        _perturbed(findings["chaos"]),
        _constant(config),
        _trunk(tables["train"], config),
        _horizon(findings["chaos"]),
        _walk(findings["cone"]),
        _matrix(tables["cone_matrix"]),
        _baselines(findings["linear"]),
        _draws(config),
        Control("More than one training seed", "not run", f"one seed: {config.seed}"),
    ]


def _verdict(passed: bool) -> str:
    return "pass" if passed else "fail"


def _twins(chaos: dict | None) -> Control:
    name = "ε = 0 twins equal the main run"
    if not chaos or chaos["controls"]["exact"] is None:
        return Control(name, "not run", "no twin with ε = 0 in chaos.csv")
    found = chaos["controls"]
    worst = max(found["largest"].values())
    detail = f"{found['count']} comparisons, largest difference of any measure {number(worst)}"
    return Control(name, _verdict(found["exact"]), detail)


def _perturbed(chaos: dict | None) -> Control:
    name = "The perturbation survives rounding"
    moved = chaos and chaos["perturbation"]
    if not moved:
        return Control(name, "not run", "no perturbed twin in chaos.csv")
    low, middle, high = moved["realised_l2"]
    changed = moved["changed_fraction"]
    detail = (
        f"asked for ε = {number(moved['eps'])}; realised |Δθ|₂ {number(middle)} ({number(low)} to "
        f"{number(high)}); {percent(changed[1])} of the parameters moved at all"
    )
    return Control(name, _verdict(low > 0 and changed[0] > 0), detail)


def _constant(config: Config) -> Control:
    run = set(config.arms) >= {"schedule", "constant"}
    detail = "arms: " + ", ".join(config.arms)
    return Control("Constant-rate arm beside the schedule", "run" if run else "not run", detail)


def _trunk(rows: Rows, config: Config) -> Control:
    """The arms have to be one run until the rate first drops."""
    name = "Arms are equal up to the first drop"
    drop = min(config.training.milestones, default=config.training.steps)
    scores: dict[int, set] = {}
    for row in rows:
        if row["step"] <= drop:
            values = (row["train_loss"], row["test_loss"])
            scores.setdefault(row["step"], set()).add(values)
    if len(config.arms) < 2 or not scores:
        return Control(name, "not run", "needs two arms")
    equal = all(len(values) == 1 for values in scores.values())
    detail = f"training and test loss at {len(scores)} checkpoints up to step {step(drop)}"
    return Control(name, _verdict(equal), detail)


def _horizon(chaos: dict | None) -> Control:
    name = "Equal time left to grow, t₁ − t₀"
    found = chaos and chaos["same_horizon"]
    if not found:
        return Control(
            name,
            "not run",
            "the grids allow it for less than half of the t₀, or for less than three",
        )
    words = [
        f"{LETTER[m]} {f['verdict']}" + ("" if f["kept"] is None else f", {share(f['kept'])} left")
        for m, f in core(found["measures"]).items()
    ]
    steps = ", ".join(str(t) for t in found["t1"])
    detail = f"t₁ − t₀ {horizon(found)} at t₀ = {steps}: {'; '.join(words)}"
    return Control(name, "run", detail)


def _walk(cone: dict | None) -> Control:
    name = "Kernel path against a walk of free turns"
    arm = cone and cone["arms"][cone["arm"]]
    if not arm or arm["confinement"] is None:
        return Control(name, "not run", "too few kernels at equal lags in the late window")
    detail = f"late pairs reach {share(arm['confinement'])} of the walk’s distance"
    return Control(name, "run", detail)


def _matrix(rows: Rows) -> Control:
    name = "S is symmetric, and 0 on its diagonal"
    table = {(r["arm"], r["step_i"], r["step_j"]): r["distance"] for r in rows}
    pairs = [(s, table.get((arm, j, i))) for (arm, i, j), s in table.items()]
    if not pairs or any(a is None or b is None for a, b in pairs):
        return Control(name, "not run", "cone_matrix.csv is not there or has gaps")
    skew = max(abs(a - b) for a, b in pairs)
    own = max((abs(s) for (_, i, j), s in table.items() if i == j), default=0.0)
    detail = f"largest skew {number(skew)}, largest distance of a kernel to itself {number(own)}"
    return Control(name, _verdict(skew <= SYMMETRIC and own <= SYMMETRIC), detail)


def _baselines(linear: dict | None) -> Control:
    name = "Lazy and non-linear baselines"
    if not linear or linear["lazy"] is None or linear["nonlinear"] is None:
        return Control(name, "not run", "linear.csv lacks one of them")
    detail = f"test error {percent(linear['lazy'])} lazy, {percent(linear['nonlinear'])} non-linear"
    return Control(name, "run", detail)


def _draws(config: Config) -> Control:
    count = config.chaos.draws
    result = "run" if count > 1 else "not run"
    return Control("More than one perturbation draw", result, f"{count} per t₀ and arm")
