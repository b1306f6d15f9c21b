"""The report's sentences and captions, from the findings and the config."""

from __future__ import annotations

from typing import NamedTuple

from twophase.config import Config
from twophase.phases import MEASURES, core
from twophase.plotstyle import ARM_LABEL

THIN = "\u202f"
SPOKEN = ("dissimilarity", "loss_barrier_train", "loss_barrier_test", "disagreement")
LETTER = {"dissimilarity": "C", "disagreement": "D"} | dict.fromkeys(SPOKEN[1:3], "B")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Answer(NamedTuple):
    """One question of the opening: what, the word for it, and why that word."""

    question: str
    word: str
    reason: str
    points: tuple[str, ...] = ()


def number(value: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", THIN)
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.3g}"
        return f"{value:.0f}" if "e" in text else text
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}{THIN}×{THIN}10{str(int(exponent)).translate(RAISED)}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g}{THIN}%"


def share(value: float | None) -> str:
    """Percent without decimals, for sentences."""
    return "–" if value is None else f"{100 * value:.0f}{THIN}%"


def degrees(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}°"


def step(value: float | None) -> str:
    return "–" if value is None else number(round(value))


def interval(fall: dict) -> str:
    """The half-fall step with its bootstrap interval."""
    if fall["half"] is None:
        return "not reached"
    found = fall["interval"]
    if not found or found["low"] is None:
        return step(fall["half"])
    high = step(found["high"]) if found["high"] is not None else f">{step(fall['t0'][-1])}"
    return f"{step(fall['half'])} [{step(found['low'])}, {high}]"


def answers(findings: dict) -> list[Answer]:
    """The opening, in words and numbers."""
    return [
        _chaos(findings["chaos"]),
        _cone(findings["cone"]),
        _twins(findings["chaos"]),
        _schedule(findings),
    ]


def _chaos(found: dict | None) -> Answer:
    question = "Chaos effect"
    if not found:
        return Answer(question, "not measured", "There is no table of twins yet.")
    arm = found["arms"][found["arm"]]
    falls = arm["measures"]
    grid = next(iter(falls.values()))["t0"] if falls else [0]
    reason = (
        f"{_equal_time(arm)}Twins perturbed at t₀ = {step(grid[0])} to {step(grid[-1])}, compared "
        f"at t₁ = {step(found['t1'])} in the {ARM_LABEL[found['arm']]} arm. {_agreement(found)}"
        f"{_elsewhere(found)}"
    )
    points = [_fallen(m, falls[m]) for m in SPOKEN if m in falls]
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


def _elsewhere(found: dict) -> str:
    """The same verdict in the arms that it does not rest on."""
    others = {arm: part["verdict"] for arm, part in found["arms"].items() if arm != found["arm"]}
    return "".join(f" In the {ARM_LABEL[arm]} arm: {word}." for arm, word in others.items())


def _agreement(found: dict) -> str:
    agreed = found["arms"][found["arm"]]["agreement"]
    if not agreed:
        return ""
    word = "agree" if agreed["agree"] else "do not agree"
    return (
        f"The {len(agreed['measures'])} measures that fall {word} on when: half-fall points lie "
        f"between t₀ = {step(agreed['low'])} and {step(agreed['high'])}."
    )


def _cone(found: dict | None) -> Answer:
    question = "Cone effect"
    if not found:
        return Answer(question, "not measured", "There are no kernel distances yet.")
    arm = found["arms"][found["arm"]]
    start, stop = (step(t) for t in arm["window"])
    levels = [p for p in arm["plateaus"] if p["tau"] > 0]
    reason = (
        f"Kernels over steps {start} to {stop} of the {ARM_LABEL[found['arm']]} arm; the widest "
        f"angle between any two is {degrees(arm['widest_deg'])}"
        + (f", a {arm['width']} cone." if found["verdict"].startswith("seen") else ".")
        + _elsewhere(found)
    )
    slows = {True: "slows", False: "does not slow enough"}
    flat = {True: "flattens", False: "does not flatten"}
    close = {True: "stay", False: "do not stay"}
    points = [
        f"The turn over {arm['lag']} steps {slows.get(arm['slowed'], 'is not known')}: "
        f"{degrees(arm['early']['deg'])} at first, {degrees(arm['floor']['deg'])} late"
    ]
    if levels:
        near = f"{degrees(levels[-1]['deg'])} from τ = {step(levels[-1]['tau'])}"
        points.append(f"The distance to reference steps {flat[arm['flattens']]}, near {near}")
    if arm["confinement"] is not None:
        points.append(
            f"Late pairs {close[arm['confined']]} closer than free turns: "
            f"{share(arm['confinement'])} of the distance of a walk"
        )
    if arm["verdict"] == "not measured":
        points.append("Too few kernels for a verdict")
    return Answer(question, found["verdict"], reason, tuple(points))


def _twins(found: dict | None) -> Answer:
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


def _schedule(findings: dict) -> Answer:
    question = "Explained by the rate’s drops"
    chaos, cone = findings["chaos"], findings["cone"]
    shares = {k: v for k, v in (chaos or {}).get("schedule_share", {}).items() if v is not None}
    parts = [f"{MEASURES[m]} {share(v)}" for m, v in shares.items()]
    if cone and cone["schedule_share"] is not None:
        parts.append(f"turn of the kernel {share(cone['schedule_share'])}")
        shares["cone"] = cone["schedule_share"]
    if not parts:
        return Answer(question, "not known", "It needs both arms, and a fall in the stepped one.")
    low, high = min(shares.values()), max(shares.values())
    word = share(high) if share(low) == share(high) else f"{100 * low:.0f}–{share(high)}"
    reason = f"Share of each fall that is missing at constant rate: {', '.join(parts)}."
    return Answer(question, word, reason)


def captions(config: Config, dtype: str) -> dict[str, str]:
    """What stands under each figure: n, output mode, ε, dtype, arms, draws."""
    c, k, last = config.chaos, config.kernels, step(config.training.steps)
    drops = " and ".join(step(m) for m in config.training.milestones) or "no step"
    arms = " and ".join(ARM_LABEL[a] for a in config.arms)
    norm = {"reestimate": "re-estimated", "interpolate": "interpolated"}[c.batchnorm]
    twins = (
        f"ε = {number(c.eps)} ({c.scale}), {c.draws} draws per t₀, {arms}, {dtype}, batch-norm "
        f"statistics {norm}"
    )
    kernel = (
        f"eNTK of n = {k.probe} training inputs, outputs = “{k.outputs}”, {dtype}, sums in "
        "float64, batch norm in eval mode with re-estimated statistics"
    )
    line = f"{c.alphas} points on the line, baseline {c.baseline}"
    return {
        "overview": "Left: medians over draws divided by the level at the first t₀, and the "
        "kernel’s own turn per lag; dashed: half. Right: half-fall points with 95 % bootstrap "
        f"intervals over draws. {twins}.",
        "chaos": f"Twins perturbed at t₀, compared at t₁ = {last}: points are draws, lines "
        f"medians, diamonds half of the first level, dotted the ε = 0 twin. {twins}; {line}; "
        f"kernel distance with n = {k.probe}, outputs = “{k.outputs}”. The stepped rate drops "
        f"at {drops}.",
        "growth": f"Relative distance of the parameters along t₁, medians over draws. {twins}.",
        "maps": f"The same measures at every t₁, medians over draws. {twins}; {line}.",
        "barrier": "Loss on the straight line between main run and twin, above the straight line "
        f"of its ends (dashed), at t₁ = {last}; mean over draws. {twins}; {c.alphas} points.",
        "matrix": "Kernel distance S between all pairs of checkpoints, one colour scale. White "
        f"dashed: drops of the rate ({drops}). {kernel}.",
        "cone": "Left: distance to the kernel at reference steps τ; dotted, what a walk of "
        "independent turns of the measured size would reach. Right: distance over fixed lags Δ. "
        f"The right axes give the same in degrees. {kernel}.",
        "kernel": f"The size of the kernel, which the cosine distance does not see. {kernel}.",
        "training": "The main run; batch-norm statistics re-estimated before each evaluation, "
        f"{dtype}. Dashed verticals: drops of the rate.",
    }
