"""How the kernel turns: per lag, away from reference steps, and beside a walk of free turns."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from statistics import median

import numpy as np

from twophase import geometry, nulls
from twophase.kernel_findings import by_itself, layers
from twophase.metrics import angle
from twophase.tables import Rows, Tables
from twophase.turning import crossing, slope_ratio

SLOWED = 0.6  # the late turn per lag is at most this share of the first one, in degrees
FLAT = 1.15  # of the level in the middle third, what the last third may reach and count as flat
CONFINED = 0.8  # of the distance that independent turns of the same size would have reached
NARROW, WIDE = 20.0, 40.0  # degrees: below "narrow", above "wide"
RARE = 0.05  # p of shuffled times at or below which late kernels have an order in time


def cone(tables: Tables, last: int, milestones: tuple[int, ...]) -> dict | None:
    """Per arm the turn per lag, plateaus, aperture and verdict; the share of the schedule."""
    arms = {}
    for arm in dict.fromkeys(row["arm"] for row in tables["cone_lagged"]):
        found = _arm(tables, arm, last, milestones if arm == "schedule" else ())
        if found:
            arms[arm] = found
    if not arms:
        return None
    name = "constant" if "constant" in arms else next(iter(arms))
    return {
        "arm": name,
        "arms": arms,
        "verdict": arms[name]["verdict"],
        "schedule_share": _share(arms),
        "kernel": by_itself(tables["kernel"], tables["train"], milestones),
    }


def _arm(tables: Tables, arm: str, last: int, milestones: tuple[int, ...]) -> dict | None:
    """Findings of one arm; late is the second half of the steps up to the last kernel before the
    first drop.

    So no verdict rests on the drop; what comes after it is told apart as `after_drop`.
    """
    rows = [r for r in tables["cone_lagged"] if r["arm"] == arm and r["distance"] is not None]
    if not rows:
        return None
    drop = min(milestones, default=last)
    stop = max((end for r in rows if (end := r["step"] + r["lag"]) <= drop), default=0)
    start = stop / 2
    lag, turns, late = _finest(rows, start, stop)
    if not late:
        return None
    dropped = [angle(r["distance"]) for t, r in turns.items() if milestones and t >= drop]
    first = turns[min(turns)]
    floor = median(r["distance"] for r in late)
    early = angle(first["distance"])
    found = {
        "lag": lag,
        "turns": {t: r["distance"] for t, r in sorted(turns.items())},
        "window": [start, stop],
        "early": {"step": first["step"], "distance": first["distance"], "deg": early},
        "floor": {"distance": floor, "deg": median(angle(r["distance"]) for r in late)},
        "after_drop_deg": median(dropped) if dropped else None,
        "half": _half(turns, floor, stop),
        "plateaus": plateaus(tables["cone_reference"], arm, stop),
        "path": _path(tables["cone_matrix"], arm),
        "layers": layers(tables["cone_layers"], arm, (start, stop)),
        "layers_lag": min((r["lag"] for r in tables["cone_layers"]), default=None),
        **_inside(tables["cone_matrix"], arm, (start, stop), lag),
    }
    found["turn_ratio"] = found["floor"]["deg"] / early if early else None
    return found | _judge(found)


def _finest(rows: Rows, start: float, stop: int) -> tuple[int, dict[int, dict], Rows]:
    """The smallest lag between kernels both early and in the window, its turns, and the late ones.

    The kernels may lie closer together at first.
    """
    for lag in sorted({r["lag"] for r in rows}):
        turns = {r["step"]: r for r in rows if r["lag"] == lag}
        late = [r for t, r in turns.items() if start <= t and t + lag <= stop]
        if late and min(turns) < start:
            return lag, turns, late
    return 0, {}, []


def _half(turns: dict[int, dict], floor: float, stop: int) -> float | None:
    """Step from which the turn per lag stays within half its way from the first to the floor."""
    grid = [t for t in sorted(turns) if t <= stop]
    levels = [turns[t]["distance"] for t in grid]
    return crossing(grid, levels, (levels[0] + floor) / 2) if len(grid) > 1 else None


def plateaus(rows: Rows, arm: str, stop: int) -> list[dict]:
    """For each tau: the level in the last third of (tau, stop], and how much it still rises."""
    found = []
    for tau in sorted({r["tau"] for r in rows if r["arm"] == arm}):
        later = {
            r["step"]: r
            for r in rows
            if r["arm"] == arm and r["tau"] == tau < r["step"] <= stop and r["distance"] is not None
        }
        grid = sorted(later)
        rise = slope_ratio(grid, [later[t]["distance"] for t in grid], tau, stop)
        if rise is None or len(grid) < 4:
            continue
        end = [angle(s) for s in last_third(rows, arm, tau, stop)]
        found.append({"tau": tau, "deg": median(end), "rise": rise, "flat": rise <= FLAT})
    return found


def last_third(rows: Rows, arm: str, tau: int, stop: float) -> list[float]:
    """S from tau in the last third of (tau, stop]."""
    start = tau + 2 * (stop - tau) / 3
    return [
        r["distance"]
        for r in rows
        if (r["arm"], r["tau"]) == (arm, tau)
        and start < r["step"] <= stop
        and r["distance"] is not None
    ]


def square(
    rows: Rows, arm: str, window: tuple[float, float] = (0, math.inf)
) -> tuple[list[int], np.ndarray]:
    """(steps, S [n, n]) of the kernels in the window, but those that lack a distance to others."""
    table = {(r["step_i"], r["step_j"]): r["distance"] for r in rows if r["arm"] == arm}
    kept: list[int] = []
    for t in sorted({i for pair in table for i in pair if window[0] <= i <= window[1]}):
        pairs = [pair for k in (*kept, t) for pair in ((t, k), (k, t))]
        if all(table.get(pair) is not None for pair in pairs):
            kept.append(t)
    cells = [table[i, j] for i in kept for j in kept]
    return kept, np.array(cells).reshape(len(kept), len(kept))


def _path(rows: Rows, arm: str) -> dict | None:
    """All kernels of the arm as points, by classical scaling."""
    steps, s = square(rows, arm)
    return {"steps": steps} | asdict(geometry.scaling(s)) if len(steps) > 2 else None


def _inside(rows: Rows, arm: str, window: tuple[float, float], lag: int) -> dict:
    """Aperture, mean direction and null models of the kernels in the window.

    confinement: how far late pairs, at least half the window apart, got of what a walk of free
    turns of one lag each would. Independent turns in many dimensions multiply their cosines.
    """
    steps, s = square(rows, arm, window)
    if not steps:
        return {"widest_deg": None, "confinement": None, "inside": None, "walk": None} | {
            "shuffled": None,
            "order": None,
        }
    chain = [k for k, t in enumerate(steps) if (t - steps[0]) % lag == 0]
    walk = nulls.free_walk(s[np.ix_(chain, chain)])
    shuffled = nulls.shuffled(s, steps)
    mean = geometry.mean_direction(s)
    apertures = geometry.apertures(s)
    return {
        "widest_deg": apertures[-1],
        "confinement": walk.value if walk else None,
        "walk": asdict(walk) if walk else None,
        "inside": {
            "steps": steps,
            "aperture_deg": apertures,
            "to_start_deg": [angle(v) for v in s[0].tolist()],
            "to_mean_deg": mean.angles,
            "resultant": mean.resultant,
            "dimension": mean.dimension,
        },
        "shuffled": {k: asdict(v) for k, v in shuffled.items()} if shuffled else None,
        "order": _order(shuffled),
    }


def _order(shuffled: dict[str, nulls.Null] | None) -> str | None:
    """ "seen" if neighbours are close and S rises with the time between, both rare by chance."""
    if shuffled is None:
        return None
    rare = sum(null.p <= RARE for null in shuffled.values())
    return {2: "seen", 1: "seen in part", 0: "not seen"}[rare]


def walked(table: dict[tuple[int, int], float | None], chain: list[int]) -> float | None:
    """1 - prod(1 - S) over neighbours of the chain; None where one was not measured."""
    steps = [table.get(pair) for pair in pairwise(chain)]
    if not steps or any(s is None for s in steps):
        return None
    return 1 - math.prod(1 - s for s in steps)


def _judge(found: dict) -> dict:
    """Slowed, flattened, confined: three of three "seen", two "seen in part", else "not seen".

    One that could not be measured is None, and there is no verdict then.
    """
    levels = [p["flat"] for p in found["plateaus"] if p["tau"] > 0]
    ratio, confinement = found["turn_ratio"], found["confinement"]
    tests = {
        "slowed": None if ratio is None else ratio <= SLOWED,
        "flattens": sum(levels) > len(levels) / 2 if levels else None,
        "confined": None if confinement is None else confinement <= CONFINED,
    }
    word = {3: "seen", 2: "seen in part"}.get(sum(v is True for v in tests.values()), "not seen")
    width = found["widest_deg"]
    size = None if width is None else "moderate"
    if size and not NARROW <= width <= WIDE:
        size = "narrow" if width < NARROW else "wide"
    return tests | {"verdict": "not measured" if None in tests.values() else word, "width": size}


def _share(arms: dict[str, dict]) -> float | None:
    """Of the fall of the turn per lag from the first to the end, what only the schedule shows."""
    if "constant" not in arms or "schedule" not in arms:
        return None
    end = arms["schedule"]["after_drop_deg"]
    early = arms["schedule"]["early"]["deg"]
    if end is None or end >= early:
        return None
    constant = early - arms["constant"]["floor"]["deg"]
    return min(1.0, max(0.0, 1 - constant / (early - end)))
