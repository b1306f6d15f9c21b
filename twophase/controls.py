"""What was checked and what was not: each control with its result."""

from __future__ import annotations

from typing import NamedTuple

from twophase import linear_findings
from twophase.config import Config
from twophase.formats import number, percent, share, step
from twophase.nulls import FEWEST, WALKS
from twophase.phases import core
from twophase.tables import Rows, Tables
from twophase.wording_chaos import LETTER, horizon
from twophase.wording_linear import points

SYMMETRIC = 1e-12  # float64 sums over two orders of the same kernel
EUCLIDEAN = 1e-9  # S of 1e-4 or more has 12 digits
ROUNDING = 2.0**-12  # half of the digits of float32, relative
AGAIN = {
    "float64": "Kernel computed again in float64",
    "tiles": "Kernel computed again in other tiles",
}


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
        _order(findings["cone"]),
        _matrix(tables["cone_matrix"]),
        _euclidean(findings["cone"]),
        *_computed_again(tables),
        _baselines(findings["linear"]),
        _switch(findings["linear"]),
        _lazy_momentum(findings["linear"]),
        _frozen(findings["linear"]),
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
    walk = arm["walk"]
    detail = (
        f"late pairs reach {share(arm['confinement'])} of the walk’s distance; 95 % of "
        f"{number(WALKS)} random walks {share(walk['low'])} to {share(walk['high'])}, p = "
        f"{number(walk['p'])}"
    )
    return Control(name, "run", detail)


def _order(cone: dict | None) -> Control:
    name = "Late kernels against shuffled time"
    arm = cone and cone["arms"][cone["arm"]]
    if not arm or not arm["shuffled"]:
        return Control(name, "not run", f"fewer than {FEWEST} kernels in the late window")
    order, near = arm["shuffled"]["order"], arm["shuffled"]["neighbours"]
    detail = (
        f"order {arm['order']}: S between neighbours {number(near['value'])} (shuffled "
        f"{number(near['low'])} to {number(near['high'])}, p = {number(near['p'])}); correlation "
        f"of S with the time between {number(order['value'])}, p = {number(order['p'])}"
    )
    return Control(name, "run", detail)


def _euclidean(cone: dict | None) -> Control:
    """2 S are squared distances of unit vectors, so no eigenvalue of their scatter is negative."""
    name = "Distances are those of directions"
    paths = [arm["path"] for arm in (cone or {"arms": {}})["arms"].values() if arm["path"]]
    if not paths:
        return Control(name, "not run", "fewer than three kernels")
    worst = max(path["negative"] for path in paths)
    detail = f"negative eigenvalues of the scatter are {number(worst)} of all"
    return Control(name, _verdict(worst <= EUCLIDEAN), detail)


def _computed_again(tables: Tables) -> list[Control]:
    """Rounding beside the smallest turn that is measured, which it has to leave alone."""
    rows = {r["check"]: r for r in tables["checks"]}
    turns = [r["distance"] for r in tables["cone_neighbours"] if r["distance"]]
    found = []
    for check, name in AGAIN.items():
        row = rows.get(check)
        if not row or None in row.values():
            found.append(Control(name, "not run", "checks.csv is not there or has gaps"))
            continue
        smallest = f"; smallest turn measured S = {number(min(turns))}" if turns else ""
        detail = (
            f"{row['samples']} samples at step {step(row['step'])}: relative difference "
            f"{number(row['relative_difference'])}, S = {number(row['distance'])}{smallest}"
        )
        small = row["relative_difference"] <= ROUNDING
        clear = not turns or row["distance"] <= ROUNDING * min(turns)
        found.append(Control(name, _verdict(small and clear), detail))
    return found


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
    lazy = linear and linear["variant"] and linear["variants"][linear["variant"]]["lazy"]
    if lazy is None or linear["nonlinear"] is None:
        return Control(name, "not run", "linear.csv lacks one of them")
    detail = f"test error {percent(lazy)} lazy, {percent(linear['nonlinear'])} non-linear"
    return Control(name, "run", detail)


def _switch(linear: dict | None) -> Control:
    name = "The linear model equals the network at t"
    if not linear or linear["start_error"] is None:
        return Control(name, "not run", "no linearised run in linear.csv")
    worst = linear["start_error"]
    detail = f"largest difference {number(worst)} of the network’s largest output"
    return Control(name, _verdict(worst <= linear_findings.ROUNDING), detail)


def _lazy_momentum(linear: dict | None) -> Control:
    name = "At t = 0 keeping momentum changes nothing"
    if not linear or linear["momentum_at_0"] is None:
        return Control(name, "not run", "needs a variant with -keep beside the same without, at 0")
    return Control(name, _verdict(linear["momentum_at_0"]), "there is none to keep yet")


def _frozen(linear: dict | None) -> Control:
    name = "Frozen batch norm told apart from linearisation"
    if not linear or not linear["costs"]:
        return Control(name, "not run", "needs linear.variants to have nonlinear-frozen")
    t, cost = max(linear["costs"].items())
    detail = (
        f"at t = {step(t)} freezing costs {points(cost['freezing'])} points of test error, "
        f"linearising {points(cost['linearising'])} more"
    )
    return Control(name, "run", detail)


def _draws(config: Config) -> Control:
    count = config.chaos.draws
    result = "run" if count > 1 else "not run"
    return Control("More than one perturbation draw", result, f"{count} per t₀ and arm")
