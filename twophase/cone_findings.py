"""How the kernel turns: per lag, away from reference steps, and beside a walk of free turns."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from twophase.metrics import angle
from twophase.tables import Rows, Tables
from twophase.turning import crossing, slope_ratio

SLOWED = 0.6  # the late turn per lag is at most this share of the first one, in degrees
FLAT = 1.15  # of the level in the middle third, what the last third may reach and count as flat
CONFINED = 0.8  # of the distance that independent turns of the same size would have reached
NARROW, WIDE = 20.0, 40.0  # degrees: below "narrow", above "wide"


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
        "kernel": scale(tables["kernel"]),
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
        **_spread(tables["cone_matrix"], arm, (start, stop), lag),
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
        end = [angle(later[t]["distance"]) for t in grid if t > tau + 2 * (stop - tau) / 3]
        found.append({"tau": tau, "deg": median(end), "rise": rise, "flat": rise <= FLAT})
    return found


def _spread(rows: Rows, arm: str, window: tuple[float, float], lag: int) -> dict:
    """Widest angle in the window; how far it got of what a walk of free turns would.

    Independent turns in many dimensions multiply their cosines: the walk's distance from i to j
    is 1 - prod(1 - s) over the lags between. confinement: median of S / walk over pairs at least
    half the window apart.
    """
    table = {(r["step_i"], r["step_j"]): r["distance"] for r in rows if r["arm"] == arm}
    inside = sorted({i for pair in table for i in pair if window[0] <= i <= window[1]})
    pairs = [table[i, j] for i in inside for j in inside if table.get((i, j)) is not None]
    chain = [t for t in inside if (t - inside[0]) % lag == 0]
    ratios = []
    for a, i in enumerate(chain):
        for b in range(a + max(2, len(chain) // 2), len(chain)):
            walk = walked(table, chain[a : b + 1])
            if walk and table.get((i, chain[b])) is not None:
                ratios.append(table[i, chain[b]] / walk)
    return {
        "widest_deg": angle(max(pairs)) if pairs else None,
        "confinement": median(ratios) if ratios else None,
    }


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


def scale(rows: Rows) -> dict:
    """Per arm: norm at the first and last step, and the largest ratio between any two steps."""
    found = {}
    for arm in dict.fromkeys(r["arm"] for r in rows):
        line = {r["step"]: r["frobenius_norm"] for r in rows if r["arm"] == arm}
        norms = [line[t] for t in sorted(line) if line[t]]
        if norms:
            ratio = max(norms) / min(norms)
            found[arm] = {"first": norms[0], "last": norms[-1], "largest_ratio": ratio}
    return found
