"""What the tables say: how each measure falls, how the kernel turns, what the rate explains.

Words follow from numbers by the thresholds below; "not seen" is a finding like another.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import median

from twophase.cone_findings import cone
from twophase.growth_findings import growth
from twophase.tables import Rows, Tables
from twophase.turning import Interval, bootstrap, change, crossing, resolution

MEASURES = {
    "dissimilarity": "parameter dissimilarity C",
    "loss_barrier_train": "loss barrier B, train",
    "loss_barrier_test": "loss barrier B, test",
    "error_barrier_train": "error barrier, train",
    "error_barrier_test": "error barrier, test",
    "disagreement": "disagreement D, test",
    "kernel_distance": "kernel distance S of the twins",
    "divergence": "KL divergence of the predictions",
    "softmax_distance": "L2 distance of the softmax",
    "prediction_distance": "1 − cosine of the logits",
    "feature_distance": "1 − CKA of the last features",
    "aligned_barrier_train": "loss barrier after matching, train",
    "aligned_barrier_test": "loss barrier after matching, test",
}
FALLEN = 0.5  # falls: at the last t0 at most this share of the level at the first t0 is left
PARTLY = 0.8  # falls in part: at most this share is left
MATERIAL = {  # levels below these are too small to speak of a fall
    "dissimilarity": 1e-4,
    "loss_barrier_train": 0.01,
    "loss_barrier_test": 0.01,
    "error_barrier_train": 0.005,
    "error_barrier_test": 0.005,
    "disagreement": 0.01,
    "kernel_distance": 0.01,
    "divergence": 0.01,
    "softmax_distance": 0.01,
    "prediction_distance": 0.01,
    "feature_distance": 0.01,
    "aligned_barrier_train": 0.01,
    "aligned_barrier_test": 0.01,
}
GAINED = 0.01  # of test error, what a later switch has to save against the lazy run
ABOVE_CONTROL = 10.0  # and they have to stand out of the eps = 0 control by this factor
NEAR = 3.0  # turns agree if the largest s + t is at most this many times the smallest
SAME_HORIZON = 0.1  # t1 - t0 may differ by this share and count as one time left to grow


def summary(tables: Tables, last: int, milestones: tuple[int, ...]) -> dict:
    """All findings of a run of `last` steps; a part whose table is absent is None."""
    return {
        "chaos": chaos(tables["chaos"], last) if tables["chaos"] else None,
        "cone": cone(tables, last, milestones) if tables["cone_lagged"] else None,
        "growth": growth(tables["growth"]) if tables["growth"] else None,
        "linear": linear(tables["linear"]) if tables["linear"] else None,
    }


def judged(arms: list[str]) -> str:
    """The arm that verdicts rest on: a fall at constant rate cannot be the schedule's work."""
    return "constant" if "constant" in arms else arms[0]


def arms_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def series(rows: Rows, arm: str, measure: str, t1: int) -> dict[int, list[float]]:
    """{t0: values of the perturbed draws} at one t1."""
    found: dict[int, list[float]] = {}
    for row in rows:
        wanted = row["arm"] == arm and row["t1"] == t1 and row["kind"] == "perturbed"
        if wanted and row.get(measure) is not None:
            found.setdefault(row["t0"], []).append(row[measure])
    return dict(sorted(found.items()))


def chaos(rows: Rows, last: int) -> dict:
    """Per arm: each measure's fall at the final t1, the verdict; the controls; the schedule."""
    controls = control_levels(rows)
    arms = {}
    for arm in arms_of(rows):
        falls = {m: fall(m, series(rows, arm, m, last), controls.get(m)) for m in MEASURES}
        falls = {m: f for m, f in falls.items() if f is not None}
        equal = same_horizon(rows, arm, controls)
        arms[arm] = {
            "measures": falls,
            "same_horizon": equal,
            "verdict": verdict(falls, equal),
            "agreement": agreement(falls),
        }
    arm = judged(list(arms))
    return {
        "arm": arm,
        "t1": last,
        "arms": arms,
        "verdict": arms[arm]["verdict"],
        "controls": {
            "count": sum(row["kind"] == "control" for row in rows),
            "largest": controls,
            "exact": not any(controls.values()) if controls else None,
        },
        "perturbation": perturbation(rows),
        "schedule_share": {m: schedule_share(arms, m) for m in MEASURES},
        "same_horizon": arms[arm]["same_horizon"],
        "of_independent": of_independent(rows, arm, last),
    }


def fall(measure: str, values: dict[int, list[float]], control: float | None) -> dict | None:
    """How one measure falls along t0; None where it was not measured.

    levels: medians over draws. half: step from which they stay at or below half of the first.
    change: what `turning.change` finds, the second method; methods_agree: its interval and that of
    half meet. separated: every draw at the first t0 lies above every draw at the last.
    """
    if len(values) < 2:
        return None
    grid, draws = list(values), list(values.values())
    levels = [median(v) for v in draws]
    early, late = levels[0], levels[-1]
    half, interval = crossing(grid, levels, FALLEN * early), bootstrap(grid, draws, FALLEN)
    turn = change(grid, draws)
    floor = max(MATERIAL[measure], ABOVE_CONTROL * (control or 0.0))
    found = {
        "t0": grid,
        "levels": levels,
        "draws": min(len(v) for v in draws),
        "early": early,
        "late": late,
        "kept": late / early if early > 0 else None,
        "half": half,
        "interval": asdict(interval) if interval else None,
        "change": turn,
        "methods_agree": None if half is None else _meet(half, interval, turn),
        "separated": min(draws[0]) > max(draws[-1]),
        "material": early >= floor,
    }
    return found | {"verdict": _word(found)}


def _meet(half: float, interval: Interval | None, turn: dict) -> bool:
    low, high = (interval.low, interval.high) if interval else (half, half)
    low = half if low is None else low
    return low <= turn["high"] and (high is None or high >= turn["low"])


def _word(found: dict) -> str:
    if len(found["t0"]) < 3:
        return "too few t₀"
    if not found["material"]:
        return "too small"
    if not found["separated"] or found["kept"] > PARTLY:
        return "not seen"
    return "falls" if found["kept"] <= FALLEN else "falls in part"


def core(falls: dict[str, dict]) -> dict[str, dict]:
    """C, B and D; B is the loss barrier, train or test, with the larger level at the first t0."""
    barriers = [m for m in ("loss_barrier_train", "loss_barrier_test") if m in falls]
    chosen = max(barriers, key=lambda m: falls[m]["early"], default=None)
    return {m: falls[m] for m in ("dissimilarity", chosen, "disagreement") if m in falls}


def verdict(falls: dict[str, dict], equal: dict | None) -> str:
    """Of C, B and D: all fall, "seen"; some fall, or in part, "seen in part"; none, "not seen".

    `equal`: the falls at equal t1 - t0, where the grids allow them; "seen" has to hold there too.
    """
    words = [f["verdict"] for f in core(falls).values()]
    if not words or all(word == "too few t₀" for word in words):
        return "not measured"
    if not any(word.startswith("falls") for word in words):
        return "not seen"
    words += [f["verdict"] for f in core(equal["measures"]).values()] if equal else []
    return "seen" if all(word == "falls" for word in words) else "seen in part"


def agreement(falls: dict[str, dict]) -> dict | None:
    """Whether the measures that fall turn together: (s + latest half) / (s + earliest half).

    s: resolution of the grid of t0. By the second method they do if all its intervals have a part
    in common, from `latest low` to `earliest high`.
    """
    fallen = {m: f for m, f in falls.items() if f["verdict"] == "falls"}
    if len(fallen) < 2:
        return None
    halves = {m: f["half"] for m, f in fallen.items()}
    shared = [f["change"] for f in fallen.values()]
    shared = (max(c["low"] for c in shared), min(c["high"] for c in shared))
    low, high = min(halves.values()), max(halves.values())
    s = resolution(next(iter(falls.values()))["t0"])
    factor = (s + high) / (s + low)
    return {"measures": list(halves), "low": low, "high": high, "factor": factor} | {
        "agree": factor <= NEAR,
        "change": shared if shared[0] < shared[1] else None,
    }


def schedule_share(arms: dict[str, dict], measure: str) -> float | None:
    """1 - (1 - kept at constant rate) / (1 - kept with the schedule), cut to [0, 1].

    0: the fall is all there at constant rate; 1: none of it is. None where there is no fall with
    the schedule, or no arm of constant rate.
    """
    parts = [arms.get(arm, {}).get("measures", {}).get(measure) for arm in ("constant", "schedule")]
    if any(p is None or p["kept"] is None for p in parts):
        return None
    if not parts[1]["verdict"].startswith("falls"):
        return None
    constant, schedule = (1 - p["kept"] for p in parts)
    return min(1.0, max(0.0, 1 - constant / schedule))


def control_levels(rows: Rows) -> dict[str, float]:
    """Largest magnitude of each measure over the eps = 0 twins."""
    found: dict[str, float] = {}
    for row in rows:
        for key in (*MEASURES, "l2", "largest_difference") if row["kind"] == "control" else ():
            if row.get(key) is not None:
                found[key] = max(found.get(key, 0.0), abs(row[key]))
    return found


def of_independent(rows: Rows, arm: str, t1: int) -> dict[int, float]:
    """{t0: median D over the median of what independent errors would give}."""
    found = series(rows, arm, "disagreement", t1)
    expected = series(rows, arm, "independent_disagreement", t1)
    return {
        t0: median(v) / level
        for t0, v in found.items()
        if t0 in expected and (level := median(expected[t0])) > 0
    }


def perturbation(rows: Rows) -> dict | None:
    """What rounding left of eps: realised norms and the share of parameters that moved at all."""
    moved = [row for row in rows if row["kind"] == "perturbed" and row["realised_l2"] is not None]
    if not moved:
        return None
    norms, shares = ([row[k] for row in moved] for k in ("realised_l2", "changed_fraction"))
    return {
        "eps": moved[0]["eps"],
        "realised_l2": [min(norms), median(norms), max(norms)],
        "changed_fraction": [min(shares), median(shares), max(shares)],
    }


def same_horizon(rows: Rows, arm: str, controls: dict[str, float]) -> dict | None:
    """The falls again at equal t1 - t0, so that a late twin has as long to grow as an early one.

    Of the horizons with the most t0 the one that differs least between them, then the longest.
    None where that is less than half of the t0, or than three.
    """
    pairs = {(r["t0"], r["t1"]) for r in rows if r["arm"] == arm and r["kind"] == "perturbed"}
    best: tuple = (0, 0.0, 0, {})
    for horizon in {t1 - t0 for t0, t1 in pairs}:
        close = [p for p in pairs if abs(p[1] - p[0] - horizon) <= SAME_HORIZON * horizon]
        near = {}
        for t0, t1 in sorted(close, key=lambda p: (p[0], abs(p[1] - p[0] - horizon))):
            near.setdefault(t0, t1)
        spread = max(abs(t1 - t0 - horizon) for t0, t1 in near.items()) / horizon
        best = max(best, (len(near), -spread, horizon, near), key=lambda b: b[:3])
    count, _, horizon, near = best
    if count < max(3, len({t0 for t0, _ in pairs}) / 2):
        return None
    falls = {}
    for measure in MEASURES:
        values = {t0: series(rows, arm, measure, t1).get(t0) for t0, t1 in near.items()}
        if all(values.values()):
            falls[measure] = fall(measure, values, controls.get(measure))
    return {"horizon": horizon, "t1": near, "measures": falls}


def linear(rows: Rows) -> dict:
    """Test error at the end against the switch step, and the share of the lazy run's gap closed.

    "seen": some later switch beats the lazy run, and none does worse than an earlier one by more
    than one test sample; "seen in part": only the first of these.
    """
    switched = {r["switch_step"]: r for r in rows if r["kind"] in ("linearised", "lazy")}
    errors = {t: r["test_error"] for t, r in sorted(switched.items())}
    known = {t: e for t, e in errors.items() if e is not None}
    full = next((r["test_error"] for r in rows if r["kind"] == "nonlinear"), None)
    lazy = next((r["test_error"] for r in rows if r["kind"] == "lazy"), None)
    gap = lazy - full if lazy is not None and full is not None else None
    closed = {t: (lazy - e) / gap for t, e in known.items()} if gap and gap > 0 else {}
    sample = 1 / rows[0]["test_samples"] if rows[0].get("test_samples") else 0.0
    best = {t: min((s for s in known if s < t), key=known.get) for t in list(known)[1:]}
    rises = [(a, t) for t, a in best.items() if known[t] > known[a] + sample * (1 + 1e-9)]
    gains = [lazy - e for t, e in known.items() if t > 0] if lazy is not None else []
    word = "not measured"
    if gains:
        lost = rises or len(known) < len(errors)
        word = "seen in part" if lost else "seen"
        word = word if max(gains) >= max(GAINED, sample) else "not seen"
    return {
        "sample": sample,
        "rises": rises,
        "test_error": errors,
        "nonlinear": full,
        "lazy": lazy,
        "gap_closed": closed,
        "half": _half_closed(closed),
        "diverged": sorted(t for t, e in errors.items() if e is None),
        "verdict": word,
    }


def _half_closed(closed: dict[int, float]) -> float | None:
    if len(closed) < 2:
        return None
    return crossing(list(closed), [1 - share for share in closed.values()], 0.5)
