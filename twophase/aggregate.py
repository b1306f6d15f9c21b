"""Runs that differ by the seed alone, as one: medians over seeds and how far they can be trusted.

Training seeds are what a statement about training should hold over; draws of the perturbation tell
of one run only. So seeds are resampled, and the draws within each of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np

from twophase.metrics import angle
from twophase.phases import FALLEN, series
from twophase.points import Point, half
from twophase.turning import COVERED, crossing

RESAMPLES = 1000
Draws = list[list[list[float]]]  # [seed][place][draw], draws of any number


def groups(points: list[Point], measures: tuple[str, ...]) -> list[dict]:
    """Points with equal values of all keys but the seed, in order, each with what is common."""
    found: dict[str, list[Point]] = {}
    for point in points:
        values = {k: v for k, v in point.values.items() if k != "seed"}
        found.setdefault(json.dumps(values), []).append(point)
    return [_group(members, measures) for members in found.values()]


def _group(points: list[Point], measures: tuple[str, ...]) -> dict[str, Any]:
    done = [p for p in points if p.state == "finished"]
    errors = [e for p in done if (e := p.scores.get("test_error")) is not None]
    found = {m: measure(done, m) for m in measures}
    return {
        "values": {k: v for k, v in points[0].values.items() if k != "seed"},
        "points": [p.name for p in points],
        "seeds": len(points),
        "finished": len(done),
        "test_error": float(np.median(errors)) if errors else None,
        "measures": {m: f for m, f in found.items() if f},
        "turns": turns(done),
    }


def measure(points: list[Point], name: str) -> dict[str, Any] | None:
    """A measure along t0 over seeds, at the last t1; None where no run has it.

    levels: median over seeds of the median over draws; bands: its interval, None with one seed.
    half: median over seeds of each one's half-fall point, where more than half of them fall; with
    one seed its interval is the run's own, over draws.
    """
    points = [p for p in points if name in p.chaos]
    if not points:
        return None
    lines = [
        series(p.tables["chaos"], p.findings["chaos"]["arm"], name, p.run.config.training.steps)
        for p in points
    ]
    grid = sorted(set.intersection(*(set(line) for line in lines)))
    falls = [p.chaos[name] for p in points]
    levels = np.array([[np.median(line[t]) for t in grid] for line in lines])  # [seeds, t0]
    words = Counter(f["verdict"] for f in falls)
    fell = 2 * sum(half(f) is not None for f in falls) > len(falls)
    found = {
        "t0": grid,
        "seeds": len(points),
        "levels": np.median(levels, axis=0).tolist(),
        "each": levels.tolist(),
        "bands": None,
        "half": falls[0]["half"],
        "interval": falls[0]["interval"],
        "words": dict(words),
    }
    if len(points) > 1:
        picked = resampled([[line[t] for t in grid] for line in lines])
        found["bands"] = bands(np.median(picked, axis=1))
        found["half"] = _finite(np.median(halves(grid, levels)))
        low, high = bands(np.median([halves(grid, r) for r in picked], axis=1))
        found["interval"] = {"low": _finite(low), "high": _finite(high)}
    return found if fell else found | {"half": None, "interval": None}


def turns(points: list[Point]) -> dict[str, Any] | None:
    """Turn of the kernel per lag in degrees along the run: the median over seeds and its bands.

    Runs whose finest lag is another than the first one's are left out. A run has one kernel per
    step, so seeds alone are resampled.
    """
    cones = [p.cone for p in points if p.cone]
    cones = [c for c in cones if c["lag"] == cones[0]["lag"]]
    if not cones:
        return None
    grid = sorted(set.intersection(*(set(c["turns"]) for c in cones)))
    each = [[angle(c["turns"][t]) for t in grid] for c in cones]
    found = {"lag": cones[0]["lag"], "step": grid, "seeds": len(cones), "each": each}
    found["levels"] = np.median(each, axis=0).tolist()
    picked = resampled([[[v] for v in line] for line in each]) if len(cones) > 1 else None
    found["bands"] = None if picked is None else bands(np.median(picked, axis=1))
    return found


def resampled(draws: Draws, resamples: int = RESAMPLES) -> np.ndarray:
    """Medians over draws [resamples, seeds, places] of the two-stage bootstrap.

    Each resample takes as many seeds as there are, with replacement, and for each seed taken, at
    each place, as many of its draws as there are.
    """
    seeds, places = len(draws), len(draws[0])
    count = np.array([[len(d) for d in line] for line in draws])  # [seeds, places]
    table = np.full((seeds, places, count.max()), np.nan)
    for s, t in np.ndindex(seeds, places):
        table[s, t, : count[s, t]] = draws[s][t]
    generator = np.random.default_rng(0)  # the same runs give the same interval
    which = generator.integers(seeds, size=(resamples, seeds))
    n = count[which][..., None]  # [resamples, seeds, places, 1]
    draw = (generator.random((*which.shape, places, count.max())) * n).astype(int)
    values = table[which[..., None, None], np.arange(places)[:, None], draw]
    values[np.arange(count.max()) >= n] = np.nan
    return np.nanmedian(values, axis=-1)


def bands(values: np.ndarray) -> list:
    """[low, high] along the first axis, covering 95 %; a list of them if there are places.

    Order statistics, as some values may be infinite.
    """
    order, tail = np.sort(values, axis=0), (1 - COVERED) / 2
    last = len(values) - 1
    return np.stack([order[int(tail * last)], order[math.ceil((1 - tail) * last)]], -1).tolist()


def halves(grid: list[int], levels: np.ndarray) -> np.ndarray:
    """Half-fall point of each line of levels [lines, t0]; infinite where none is reached."""
    found = [crossing(grid, line, FALLEN * line[0]) for line in levels.tolist()]
    return np.array([math.inf if f is None else f for f in found])


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
