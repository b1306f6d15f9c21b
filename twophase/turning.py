"""Where a level that falls along a grid of steps turns: estimators and their uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy as np

RESAMPLES = 500
COVERED = 0.95  # of the bootstrap interval


@dataclass(frozen=True)
class Interval:
    """Bootstrap percentiles of a crossing; `high` is None where it lies beyond the grid."""

    low: float | None
    high: float | None
    found: float  # share of resamples that cross at all


def crossing(grid: list[int], levels: list[float], level: float) -> float | None:
    """Step from which the levels stay at or below `level`, linear in log(1 + t/s) between steps.

    s: `resolution` of the grid. None if they start below it or do not end below it.
    """
    if levels[0] <= level or levels[-1] > level:
        return None
    i = max(k for k, value in enumerate(levels) if value > level)
    share = (levels[i] - level) / (levels[i] - levels[i + 1])
    s = resolution(grid)
    a, b = math.log1p(grid[i] / s), math.log1p(grid[i + 1] / s)
    return s * math.expm1(a + share * (b - a))


def resolution(grid: list[int]) -> int:
    """The first positive step: below it a grid cannot tell one step from another."""
    return min((step for step in grid if step > 0), default=1)


def split(levels: list[float]) -> tuple[int, float]:
    """(i, r2): two constants, before index i and from i on, that fit best by least squares.

    r2 is the share of the variance that they explain; 0 for levels all equal.
    """
    cuts = range(1, len(levels))
    i = min(cuts, key=lambda k: _spread(levels[:k]) + _spread(levels[k:]))
    whole = _spread(levels)
    r2 = 1 - (_spread(levels[:i]) + _spread(levels[i:])) / whole if whole > 0 else 0.0
    return i, max(r2, 0.0)


def _spread(part: list[float]) -> float:
    mean = sum(part) / len(part)
    return sum((value - mean) ** 2 for value in part)


def bootstrap(grid: list[int], draws: list[list[float]], share: float) -> Interval | None:
    """Interval of the crossing of `share` of the first level; draws are resampled at each step.

    draws[k] are the values at grid[k]. A resample that does not cross counts as beyond the grid.
    None with a single draw: it has no spread to resample.
    """
    if min(len(values) for values in draws) < 2:
        return None
    generator = np.random.default_rng(0)  # the same table gives the same interval
    levels = np.stack(
        [
            np.median(np.asarray(v)[generator.integers(len(v), size=(RESAMPLES, len(v)))], axis=1)
            for v in draws
        ],
        axis=1,
    )
    turns = [crossing(grid, row, share * row[0]) for row in levels.tolist()]
    order = sorted(math.inf if turn is None else turn for turn in turns)
    tail = (1 - COVERED) / 2
    low, high = order[int(tail * RESAMPLES)], order[math.ceil((1 - tail) * RESAMPLES) - 1]
    found = sum(turn is not None for turn in turns) / RESAMPLES
    return Interval(_finite(low), _finite(high), found)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def slope_ratio(grid: list[int], levels: list[float], start: int, stop: int) -> float | None:
    """Median level in the last third of (start, stop] over that in the middle third.

    1: flat. A walk of independent turns gives 1.6 while it is near its start, 1.3 where it has
    reached 0.8, and 1.2 at 0.95.
    """
    third = (stop - start) / 3
    middle, late = [], []
    for step, level in zip(grid, levels, strict=True):
        if start + third < step <= start + 2 * third:
            middle.append(level)
        elif start + 2 * third < step <= stop:
            late.append(level)
    if not middle or not late or median(middle) <= 0:
        return None
    return median(late) / median(middle)
