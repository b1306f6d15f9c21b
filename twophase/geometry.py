"""Where directions lie, from their cosine distances alone.

S [n, n] belongs to unit vectors u_i (kernels over their norms): 1 - S is their Gram matrix and
|u_i - u_j|² = 2 S_ij. So no kernel is read again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twophase.metrics import angle

AXES = 3


@dataclass(frozen=True)
class Mean:
    """The mean direction m / |m|, m = Σ u_i / n."""

    resultant: float  # |m|: 1 for equal directions, 0 for none
    angles: list[float]  # [n], degrees between u_i and m
    dimension: float  # participation ratio of the scatter around m, at most n - 1


def mean_direction(s: np.ndarray) -> Mean:
    """|m|² = 1 - s̄, <u_i, m> = 1 - r_i, with r_i the mean of row i of S and s̄ that of all.

    1 - cos(u_i, m) = (r_i - s̄ / (1 + |m|)) / |m|, the same without cancellation. Directions whose
    mean is 0 have no mean direction; kernels, whose cosines are not negative, have one. Source:
    Mardia and Jupp 2000, "Directional Statistics" (resultant).
    """
    rows, whole = s.mean(1), s.mean()
    resultant = float(np.sqrt(1 - whole))
    apart = (rows - whole / (1 + resultant)) / resultant
    values = eigenvalues(s)
    scatter = float(values.sum())
    dimension = scatter**2 / float((values**2).sum()) if scatter > 0 else 0.0
    return Mean(resultant, [angle(a) for a in apart.tolist()], dimension)


def eigenvalues(s: np.ndarray) -> np.ndarray:
    """Of the scatter Σ (u_i - m)(u_i - m)ᵀ, descending: those of the Gram matrix -H S H."""
    return np.linalg.eigvalsh(_centred(s))[::-1]


def _centred(s: np.ndarray) -> np.ndarray:
    """-H S H [n, n] with H = I - 1 1ᵀ/n: <u_i - m, u_j - m>."""
    rows = s.mean(1)
    return rows[:, None] + rows - s.mean() - s


def apertures(s: np.ndarray) -> list[float]:
    """Largest angle between any two of the first k directions, in degrees, for k = 1 .. n."""
    return [angle(float(s[: k + 1, : k + 1].max())) for k in range(len(s))]


@dataclass(frozen=True)
class Scaling:
    """Points whose distances are the chords |u_i - u_j|, as nearly as in so few dimensions."""

    points: list[list[float]]  # [n, axes]
    explained: list[float]  # [axes], share of the scatter along each axis
    negative: float  # share of negative eigenvalues in Σ |λ|: rounding, if S is of unit vectors


def scaling(s: np.ndarray, axes: int = AXES) -> Scaling:
    """Classical multidimensional scaling of the squared chords 2 S.

    -H D² H / 2 = -H S H = V λ Vᵀ; point i is V[i] √λ, so axes are ordered by λ. Signs are free:
    each axis points from the first half of the points to the second. Sources: Torgerson 1952; Gower
    1966.
    """
    values, vectors = np.linalg.eigh(_centred(s))
    values, vectors = values[::-1], vectors[:, ::-1]
    size = float(np.abs(values).sum())
    kept = np.clip(values[:axes], 0, None)
    points = vectors[:, :axes] * np.sqrt(kept)
    points *= np.where(points[: len(points) // 2].sum(0) > 0, -1.0, 1.0)
    positive = float(np.clip(values, 0, None).sum())
    return Scaling(
        points=points.tolist(),
        explained=[float(v) / positive if positive > 0 else 0.0 for v in kept],
        negative=float(np.abs(values[values < 0]).sum()) / size if size > 0 else 0.0,
    )
