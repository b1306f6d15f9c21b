"""What a path of directions would look like by chance: a free walk, and no order in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WALKS = 1000
SHUFFLES = 2000
FEWEST = 5  # directions: below it no order is rarer than 5 %, as there are only n!/2 of them


@dataclass(frozen=True)
class Null:
    """A statistic beside its distribution under a null model."""

    value: float
    low: float  # 2.5 and 97.5 % of the null
    high: float
    p: float  # (1 + how many are as extreme) / (1 + how many)


def compared(value: float, null: np.ndarray, *, small: bool) -> Null:
    """`small`: extreme means as small as the value, or smaller.

    Source of p: Phipson and Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9).
    """
    slack = 1e-12 * max(abs(value), 1e-300)  # an order and its reverse differ by rounding
    extreme = null <= value + slack if small else null >= value - slack
    low, high = np.quantile(null, (0.025, 0.975))
    p = (1 + int(extreme.sum())) / (1 + len(null))
    return Null(value, float(low), float(high), p)


def walks(steps: np.ndarray, dimension: int, count: int = WALKS) -> np.ndarray:
    """S [count, n + 1, n + 1] of random walks on the unit sphere with given steps S [n].

    u' = (1 - s) u + √(1 - (1 - s)²) w, w uniform among the unit vectors orthogonal to u. As w has
    mean 0, E <u_0, u_n> = Π (1 - s_i) in any dimension from 2 on; the scatter around it falls as
    1/√dimension.
    """
    generator = np.random.default_rng(0)  # the same table gives the same null
    path = np.zeros((count, len(steps) + 1, dimension))
    path[:, 0, 0] = 1.0
    for k, s in enumerate(steps.tolist()):
        u = path[:, k]
        w = generator.standard_normal((count, dimension))
        w -= (w * u).sum(1, keepdims=True) * u
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        path[:, k + 1] = (1 - s) * u + np.sqrt(max(0.0, s * (2 - s))) * w
    return 1 - path @ path.transpose(0, 2, 1)


def reached(s: np.ndarray) -> np.ndarray | None:
    """Median over pairs at least half the path apart of S / (1 - Π (1 - s)); S [..., n, n].

    s: the steps between the two. The denominator is what a free walk reaches on average. None for
    fewer than three directions, or if nothing moves.
    """
    n = s.shape[-1]
    cosines = 1 - np.diagonal(s, 1, -2, -1)
    far = [(a, b) for a in range(n) for b in range(a + max(2, n // 2), n)]
    walked = [1 - cosines[..., a:b].prod(-1) for a, b in far]
    ratios = [s[..., a, b] / w for (a, b), w in zip(far, walked, strict=True) if (w > 0).all()]
    return np.median(ratios, axis=0) if ratios else None


def free_walk(s: np.ndarray) -> Null | None:
    """`reached` beside that of walks with the path's own steps, in as many dimensions as it spans.

    The space of kernels has many more, in which walks scatter less: n is the most cautious choice.
    """
    value = reached(s)
    if value is None:
        return None
    null = reached(walks(np.diagonal(s, 1), max(2, len(s))))
    return compared(float(value), null, small=True)


def shuffled(s: np.ndarray, times: list[int]) -> dict[str, Null] | None:
    """Whether neighbours in time lie closer than any two: S beside S of shuffled times.

    "neighbours": mean S between neighbours. "order": correlation of S with |t_i - t_j| over pairs
    (Mantel 1967). None for fewer than `FEWEST` directions. It tells order from exchangeable
    jitter, not a drift from a jitter slow enough to be seen as such.
    """
    n = len(s)
    pairs = np.triu_indices(n, 1)
    if n < FEWEST or np.ptp(s[pairs]) == 0:
        return None
    lags = np.abs(np.subtract.outer(times, times))[pairs].astype(float)
    # with both centred and of norm 1 the correlation is their product; orders change neither norm
    lags = (lags - lags.mean()) / np.linalg.norm(lags - lags.mean())
    scatter = np.linalg.norm(s[pairs] - s[pairs].mean())
    generator = np.random.default_rng(0)
    orders = [np.arange(n), *(generator.permutation(n) for _ in range(SHUFFLES))]
    found = np.array(
        [
            (np.diagonal(t, 1).mean(), t[pairs] @ lags / scatter)
            for t in (s[np.ix_(order, order)] for order in orders)
        ]
    )
    return {
        "neighbours": compared(float(found[0, 0]), found[1:, 0], small=True),
        "order": compared(float(found[0, 1]), found[1:, 1], small=False),
    }
