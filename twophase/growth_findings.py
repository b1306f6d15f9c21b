"""How fast twins part after t0, in numbers and in a word: finite-time Lyapunov exponents."""

from __future__ import annotations

from statistics import median

from twophase.growth import exponent
from twophase.tables import Rows

WORDS = {  # of the tangent at the first and at the last t0
    (True, False): "grows at first only",
    (True, True): "grows throughout",
    (False, False): "does not grow",
    (False, True): "grows later only",
}


def growth(rows: Rows) -> dict | None:
    """Per arm and t0 the exponents of each draw, in 1/step: of the twins, and of the tangent.

    exceeds: median over draws of what the twins' distance is, at the end, over the tangent's; far
    above 1 where the rounding of each step has outgrown the perturbation. contracts_from: the t0
    from which on no tangent grows; None if one of the last t0 does. verdict: one of `WORDS`.
    None without rows.
    """
    arms: dict[str, dict] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        paths: dict[int, dict[int, Rows]] = {}
        for row in rows:
            if row["arm"] == arm and row["kind"] == "perturbed":
                paths.setdefault(row["t0"], {}).setdefault(row["draw"], []).append(row)
        found = {t0: _at(list(draws.values())) for t0, draws in sorted(paths.items())}
        found = {t0: f for t0, f in found.items() if f["tangent"]}
        if found:
            first, last = (found[t0]["tangent"] for t0 in (min(found), max(found)))
            word = WORDS[min(first) > 0, max(last) > 0]
            arms[arm] = {"t0": found, "contracts_from": _contracts_from(found), "verdict": word}
    if not arms:
        return None
    return {"arms": arms, "arm": "constant" if "constant" in arms else next(iter(arms))}


def _at(draws: list[Rows]) -> dict:
    ends = [path[-1] for path in draws]
    ratios = [row["l2"] / row["tangent"] for row in ends if row["l2"] and row["tangent"]]
    return {
        "steps": ends[0]["step"] - draws[0][0]["step"],
        "twin": [e for path in draws if (e := exponent(path, "l2")) is not None],
        "tangent": [e for path in draws if (e := exponent(path, "tangent")) is not None],
        "exceeds": median(ratios) if ratios else None,
    }


def _contracts_from(found: dict[int, dict]) -> int | None:
    first = None
    for t0 in reversed(found):
        if max(found[t0]["tangent"]) > 0:
            break
        first = t0
    return first
