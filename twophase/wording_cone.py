"""Sentences and captions of the cone effect."""

from __future__ import annotations

from statistics import median

from twophase.formats import Answer, degrees, number, share, step
from twophase.plotstyle import ARM_LABEL
from twophase.wording_chaos import elsewhere

ORDER = {
    "seen": "Late kernels keep an order in time, neighbours are closest",
    "seen in part": "Late kernels keep some order in time",
    "not seen": "Late kernels show no order in time, they could as well be shuffled",
}
SILENT = {
    "silent": "The kernel turns to the labels while it is small and the loss high",
    "not silent": "The kernel does not turn to the labels ahead of its growth and the loss",
    "no rise": "The kernel does not turn to the labels",
}


def cone(found: dict | None) -> Answer:
    question = "Cone effect"
    if not found:
        return Answer(question, "not measured", "There are no kernel distances yet.")
    arm = found["arms"][found["arm"]]
    start, stop = (step(t) for t in arm["window"])
    reason = (
        f"Kernels over steps {start} to {stop} of the {ARM_LABEL[found['arm']]} arm; the widest "
        f"angle between any two is {degrees(arm['widest_deg'])}"
        + (f", a {arm['width']} cone." if found["verdict"].startswith("seen") else ".")
        + elsewhere(found)
    )
    points = [*_tests(arm), *_mean(arm), *_order(arm), *_layers(arm)]
    points += _silent(found["kernel"].get(found["arm"]))
    if arm["verdict"] == "not measured":
        points.append("Too few kernels for a verdict")
    return Answer(question, found["verdict"], reason, tuple(points))


def _tests(arm: dict) -> list[str]:
    """What the verdict rests on."""
    slows = {True: "slows", False: "does not slow enough"}
    flat = {True: "flattens", False: "does not flatten"}
    close = {True: "stay", False: "do not stay"}
    points = [
        f"The turn over {arm['lag']} steps {slows.get(arm['slowed'], 'is not known')}: "
        f"{degrees(arm['early']['deg'])} at first, {degrees(arm['floor']['deg'])} late"
    ]
    levels = [p for p in arm["plateaus"] if p["tau"] > 0]
    if levels:
        near = f"{degrees(levels[-1]['deg'])} from τ = {step(levels[-1]['tau'])}"
        points.append(f"The distance to reference steps {flat[arm['flattens']]}, near {near}")
    if arm["walk"]:
        points.append(
            f"Late pairs {close[arm['confined']]} closer than free turns: "
            f"{share(arm['confinement'])} of the distance of a walk (95\u202f% of walks: "
            f"{share(arm['walk']['low'])} to {share(arm['walk']['high'])})"
        )
    return points


def _mean(arm: dict) -> list[str]:
    inside = arm["inside"]
    if not inside or len(inside["steps"]) < 3:
        return []
    near = degrees(median(inside["to_mean_deg"]))
    return [
        f"Late kernels lie {near} from their mean direction, in {number(inside['dimension'])} "
        f"effective dimensions of at most {len(inside['steps']) - 1}"
    ]


def _order(arm: dict) -> list[str]:
    if not arm["order"]:
        return []
    order = arm["shuffled"]["order"]
    return [
        f"{ORDER[arm['order']]} (correlation of S with the time between {order['value']:.2f}, p = "
        f"{number(order['p'])})"
    ]


def _layers(arm: dict) -> list[str]:
    late = {layer: found["late_deg"] for layer, found in arm["layers"].items()}
    if len(late) < 2:
        return []
    most, least = max(late, key=late.get), min(late, key=late.get)
    return [
        f"Over {arm['layers_lag']} steps late, {most} turns most, by {degrees(late[most])}, and "
        f"{least} least, by {degrees(late[least])}"
    ]


def _silent(kernel: dict | None) -> list[str]:
    silent = kernel and kernel["silent"]
    if not silent or silent["verdict"] == "not known":
        return []
    first, last = silent["alignment"]
    half = silent["halfway"]
    when = (
        f"; halfway by step {step(half['centred_alignment'])}, the norm by "
        f"{step(half['frobenius_norm'])}, the training loss by {step(half['loss'])}"
    )
    return [
        f"{SILENT[silent['verdict']]}: centred alignment {number(first)}\u00a0→\u00a0"
        f"{number(last)}{when if silent['verdict'] != 'no rise' else ''}"
    ]


def captions(kernel: str, drops: str) -> dict[str, str]:
    """`kernel`: how kernels were computed; `drops`: the steps at which the rate drops."""
    return {
        "matrix": "Kernel distance S between all pairs of checkpoints, one colour scale. White "
        f"dashed: drops of the rate ({drops}). {kernel}.",
        "cone": "Left: distance to the kernel at reference steps τ; dotted, what a walk of "
        "independent turns of the measured size would reach. Right: distance over fixed lags Δ. "
        f"The right axes give the same in degrees. {kernel}.",
        "inside": "Of the kernels in the late window: the widest angle between any two so far, the "
        "angle to the first of them, and the angle to their mean direction, which comes from their "
        f"distances alone. {kernel}.",
        "speed": "What the kernel turns by per step, from each kernel to the next: the angle ω = "
        "arccos(1 − S)/Δ, and v = S/Δ as in Fort et al. (2020). Of a kernel that turns evenly ω "
        "does not depend on the spacing of kernels, and v does; of one that jitters both do. "
        f"{kernel}.",
        "path": "Classical scaling of the squared chords 2S between unit kernels: the plane in "
        "which they spread most, and the third axis; on the axes, the share of the spread that "
        "each explains. From dark to light, step by step. A free walk also looks like an arc here, "
        f"with shares of about 61, 15 and 7 %. {kernel}.",
        "layers": "Angle between the kernels of each layer alone over the smallest lag; one colour "
        f"scale. {kernel}.",
        "labels": "Left: cosine of the kernel with that of the one-hot labels, as it is and "
        "centred over samples. Right: how far the alignment, the norm and the training loss have "
        "come from their first to their last value; dashed: half. Silent alignment (Atanasov et "
        f"al. 2021) is alignment first, norm and loss later. {kernel}.",
        "rank": "How many eigenvalues of the kernel matter, and the largest ones. Entropy: exp of "
        "the entropy of λ/Σλ; participation: (Σλ)²/Σλ²; stable: Σλ/λ₁. " + f"{kernel}.",
        "kernel": f"The size of the kernel, which the cosine distance does not see. {kernel}.",
    }
