"""Where a level that falls along a grid of steps turns: estimators and their uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy as np
from ruptures import KernelCPD

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

    r2 is the share of the variance that they explain; levels all equal are (1, 0). The search is
    that of ruptures (Truong, Oudre and Vayatis 2020, arXiv 1801.00718), exact.
    """
    whole = _spread(levels)
    if whole == 0:
        return 1, 0.0
    signal = np.asarray(levels) - sum(levels) / len(levels)  # its costs have a tolerance
    signal /= np.abs(signal).max()
    i = KernelCPD(kernel="linear", min_size=1).fit(signal[:, None]).predict(n_bkps=1)[0]
    return i, max(1 - (_spread(levels[:i]) + _spread(levels[i:])) / whole, 0.0)


def _spread(part: list[float]) -> float:
    mean = sum(part) / len(part)
    return sum((value - mean) ** 2 for value in part)


def change(grid: list[int], draws: list[list[float]]) -> dict:
    """Where the levels change most: between the steps `after` and `before`, by `split`.

    draws[k] are the values at grid[k], their medians the levels. [low, high] holds the change in
    95 % of the resamples of the draws, out to the steps of the grid beside it: it is never narrower
    than the grid.
    """
    i, r2 = split([median(v) for v in draws])
    low, high = i, i
    if min(map(len, draws)) > 1:
        found = sorted(split(levels)[0] for levels in _resampled(draws))
        low, high = _percentiles(found)
    return {
        "after": grid[i - 1],
        "before": grid[i],
        "r2": r2,
        "low": grid[low - 1],
        "high": grid[high],
    }


def _resampled(draws: list[list[float]]) -> list[list[float]]:
    """Levels, medians of the draws at each step, of `RESAMPLES` resamples of these."""
    generator = np.random.default_rng(0)  # the same table gives the same interval
    columns = [
        np.median(np.asarray(v)[generator.integers(len(v), size=(RESAMPLES, len(v)))], axis=1)
        for v in draws
    ]
    return np.stack(columns, axis=1).tolist()


def _percentiles(values: list) -> tuple:
    """The two ends of what covers `COVERED` of sorted values."""
    tail = (1 - COVERED) / 2
    return values[int(tail * len(values))], values[math.ceil((1 - tail) * len(values)) - 1]


def bootstrap(grid: list[int], draws: list[list[float]], share: float) -> Interval | None:
    """Interval of the crossing of `share` of the first level; draws are resampled at each step.

    draws[k] are the values at grid[k]. A resample that does not cross counts as beyond the grid.
    None with a single draw: it has no spread to resample.
    """
    if min(len(values) for values in draws) < 2:
        return None
    turns = [crossing(grid, row, share * row[0]) for row in _resampled(draws)]
    low, high = _percentiles(sorted(math.inf if turn is None else turn for turn in turns))
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
