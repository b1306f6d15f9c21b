"""What the report says of twins, in sentences."""

from __future__ import annotations

import math
from statistics import median

from twophase.formats import Answer, interval, number, share, step
from twophase.phases import MEASURES, core
from twophase.plotstyle import ARM_LABEL

SPOKEN = ("dissimilarity", "loss_barrier_train", "loss_barrier_test", "disagreement")
LETTER = {"dissimilarity": "C", "disagreement": "D"} | dict.fromkeys(SPOKEN[1:3], "B")


def chaos(found: dict | None) -> Answer:
    question = "Chaos effect"
    if not found:
        return Answer(question, "not measured", "There is no table of twins yet.")
    arm = found["arms"][found["arm"]]
    falls = arm["measures"]
    grid = next(iter(falls.values()))["t0"] if falls else [0]
    reason = (
        f"{_equal_time(arm)}Twins perturbed at t₀ = {step(grid[0])} to {step(grid[-1])}, compared "
        f"at t₁ = {step(found['t1'])} in the {ARM_LABEL[found['arm']]} arm. {_agreement(found)}"
        f"{elsewhere(found)}"
    )
    points = [_fallen(m, falls[m]) for m in SPOKEN if m in falls]
    points += _independent(found) + _matched(falls)
    return Answer(question, found["verdict"], reason.strip(), tuple(points))


def _equal_time(arm: dict) -> str:
    """Whether what is seen at the last t1 is there with equal time left, too."""
    if not arm["verdict"].startswith("seen"):
        return ""
    equal = arm["same_horizon"]
    if not equal:
        return "Not compared at equal time left, t₁ − t₀: late twins had less of it. "
    falls = core(equal["measures"])
    whole = "too" if all(f["verdict"] == "falls" for f in falls.values()) else "only in part"
    parts = [
        f"{LETTER[m]} {number(f['early'])}\u00a0→\u00a0{number(f['late'])}, {f['verdict']}"
        for m, f in falls.items()
    ]
    return (
        f"With equal time left, t₁ − t₀ {horizon(equal)}, the fall is there {whole} (t₀ = "
        f"{step(min(equal['t1']))} to {step(max(equal['t1']))}: {'; '.join(parts)}). "
    )


def horizon(equal: dict) -> str:
    """The common t1 - t0, with the sign for exact or about."""
    exact = all(t1 - t0 == equal["horizon"] for t0, t1 in equal["t1"].items())
    return f"{'=' if exact else '≈'} {step(equal['horizon'])}"


def _fallen(measure: str, fall: dict) -> str:
    levels = f"{number(fall['early'])}\u00a0→\u00a0{number(fall['late'])}"
    label = MEASURES[measure]
    label = label[0].upper() + label[1:]
    if fall["verdict"] == "too small":
        return f"{label}: {levels}, too small to judge"
    if not fall["verdict"].startswith("falls"):
        return f"{label}: {levels}, {fall['verdict']}"
    half = "" if fall["half"] is None else f", half by t₀\u00a0≈\u00a0{interval(fall)}"
    return f"{label}: {levels} ({share(fall['kept'])} left){half}"


def _independent(found: dict) -> list[str]:
    """How much of what independent errors would give the twins disagree on."""
    shares = found["of_independent"]
    if not shares:
        return []
    grid = list(shares)
    return [
        f"Disagreement is {share(shares[grid[0]])} of what independent errors as frequent would "
        f"give at the first t₀, {share(shares[grid[-1]])} at the last"
    ]


def _matched(falls: dict[str, dict]) -> list[str]:
    """What is left of the barrier at the first t0 once units are renamed."""
    parts = []
    for part in ("train", "test"):
        before, after = (falls.get(f"{k}_barrier_{part}") for k in ("loss", "aligned"))
        if before and after:
            parts.append(f"{part} {number(before['early'])}\u00a0→\u00a0{number(after['early'])}")
    return [f"Renaming hidden units changes B at the first t₀: {', '.join(parts)}"] if parts else []


def elsewhere(found: dict) -> str:
    """The same verdict in the arms that it does not rest on."""
    others = {arm: part["verdict"] for arm, part in found["arms"].items() if arm != found["arm"]}
    return "".join(f" In the {ARM_LABEL[arm]} arm: {word}." for arm, word in others.items())


def _agreement(found: dict) -> str:
    agreed = found["arms"][found["arm"]]["agreement"]
    if not agreed:
        return ""
    word = "agree" if agreed["agree"] else "do not agree"
    shared = agreed["change"]
    second = (
        f"have t₀ = {step(shared[0])} to {step(shared[1])} in common"
        if shared
        else "have no t₀ in common"
    )
    return (
        f"The {len(agreed['measures'])} measures that fall {word} on when: half-fall points lie "
        f"between t₀ = {step(agreed['low'])} and {step(agreed['high'])}; the intervals of the "
        f"second method, a change between two levels, {second}."
    )


def growth(found: dict) -> Answer:
    arm = found["arms"][found["arm"]]
    grid = list(arm["t0"])
    parts = []
    for t0 in (grid[0], grid[-1]):
        here = arm["t0"][t0]
        rate = median(here["tangent"])
        pace = f", doubling every {number(math.log(2) / rate)} steps" if rate > 0 else ""
        parts.append(f"{number(rate)} per step at t₀ = {step(t0)}{pace}")
    since = arm["contracts_from"]
    turn = "" if since is None else f" From t₀ = {step(since)} on none of them grows."
    past = {t0: f["exceeds"] for t0, f in arm["t0"].items() if f["exceeds"] is not None}
    worst = max(past, key=past.get, default=None)
    noise = (
        ""
        if worst is None
        else (
            f" The twins end up to {number(past[worst])} times as far apart as their tangents (at "
            f"t₀ = {step(worst)}): above 1 it is the rounding of each step, or no straight path."
        )
    )
    reason = (
        f"Exponent of the tangent over {arm['t0'][grid[0]]['steps']} steps, median over draws in "
        f"the {ARM_LABEL[found['arm']]} arm: {'; '.join(parts)}.{turn}{noise}"
    )
    return Answer("Growth of a small difference", arm["verdict"], reason)


def twins(found: dict | None) -> Answer:
    question = "ε = 0 twins"
    if not found or found["controls"]["exact"] is None:
        return Answer(question, "not measured", "There is no twin with ε = 0.")
    control = found["controls"]
    if control["exact"]:
        reason = f"All {control['count']} comparisons with the main run give 0 in every measure."
        return Answer(question, "exactly 0", reason)
    worst = max(control["largest"].items(), key=lambda item: item[1])
    reason = f"Largest: {worst[0]} = {number(worst[1])}. Runs here do not repeat bit for bit."
    return Answer(question, "not 0", reason)
