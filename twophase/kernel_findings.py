"""What the kernel is like by itself along a run, and which of its layers turn."""

from __future__ import annotations

from statistics import median

from twophase.tables import Rows

ALIGNED = 0.02  # rise of the centred alignment with the labels that counts
GROWN = 2.0  # and the factor of the norm
FIRST_AND_LAST = (
    *("frobenius_norm", "entropy_rank", "participation_rank", "stable_rank"),
    *("alignment", "centred_alignment"),
)


def by_itself(rows: Rows, train: Rows, milestones: tuple[int, ...]) -> dict[str, dict]:
    """Per arm: first and last value of each column, the range of the norm, and what came first."""
    found = {}
    for arm in dict.fromkeys(r["arm"] for r in rows):
        line = sorted((r for r in rows if r["arm"] == arm), key=lambda r: r["step"])
        norms = [r["frobenius_norm"] for r in line if r["frobenius_norm"]]
        if not norms:
            continue
        drop = min(milestones, default=None) if arm == "schedule" else None
        loss = {r["step"]: r["train_loss"] for r in train if r["arm"] == arm}
        before = [r | {"loss": loss.get(r["step"])} for r in line if not drop or r["step"] <= drop]
        found[arm] = {c: [line[0].get(c), line[-1].get(c)] for c in FIRST_AND_LAST} | {
            "largest_ratio": max(norms) / min(norms),
            "silent": silent_alignment(before),
        }
    return found


def silent_alignment(line: Rows) -> dict:
    """Whether the kernel turns to the labels before it grows and before the loss falls.

    halfway: the step of the grid from which each stays past the half of its way. Source: Atanasov
    et al. 2021 (arXiv 2111.00034).
    """
    columns = ("centred_alignment", "frobenius_norm", "loss")
    kept = [r for r in line if all(r[c] is not None for c in columns)]
    half = {c: halfway([r["step"] for r in kept], [r[c] for r in kept]) for c in columns}
    found = {"halfway": half, "steps": [r["step"] for r in kept]}
    found |= {"way": {c: way([r[c] for r in kept]) for c in columns}}
    if None in half.values():
        return found | {"verdict": "not known"}
    first, last = kept[0], kept[-1]
    found["alignment"] = [first["centred_alignment"], last["centred_alignment"]]
    if last["centred_alignment"] - first["centred_alignment"] < ALIGNED:
        return found | {"verdict": "no rise"}
    grown = last["frobenius_norm"] >= GROWN * first["frobenius_norm"]
    others = min(half["frobenius_norm"], half["loss"])
    silent = grown and half["centred_alignment"] < others
    return found | {"verdict": "silent" if silent else "not silent"}


def way(levels: list[float]) -> list[float] | None:
    """Each level as a share of the way from the first, 0, to the last, 1."""
    if not levels or levels[0] == levels[-1]:
        return None
    return [(v - levels[0]) / (levels[-1] - levels[0]) for v in levels]


def halfway(grid: list[int], levels: list[float]) -> int | None:
    """The first step of the grid from which levels stay past half of the way; None: no way."""
    shares = way(levels)
    if shares is None:
        return None
    return grid[1 + max(k for k, share in enumerate(shares) if share < 0.5)]


def layers(rows: Rows, arm: str, window: tuple[float, float]) -> dict[str, dict]:
    """Per layer, in order of the model: the first turn and the median late one, in degrees."""
    found: dict[str, dict] = {}
    for layer in dict.fromkeys(r["layer"] for r in rows):
        line = {
            r["step"]: r
            for r in rows
            if r["arm"] == arm and r["layer"] == layer and r["angle_deg"] is not None
        }
        late = [
            r["angle_deg"] for t, r in line.items() if window[0] <= t and t + r["lag"] <= window[1]
        ]
        if late:
            found[layer] = {"first_deg": line[min(line)]["angle_deg"], "late_deg": median(late)}
    return found
