"""The report's sentences about the linear switch."""

from __future__ import annotations

from twophase.config import Config
from twophase.formats import Answer, number, percent, step
from twophase.plotstyle import ARM_LABEL

KIND = {
    "taylor": "Taylor model",
    "tangent": "Tangent alone",
    "nonlinear": "Network, batch norm frozen",
}
MEAN = {"zero": "around zero", "network": "around the network’s own outputs"}
WORD = {
    "seen": "later is better",
    "seen in part": "better than lazy, but not steadily",
    "not seen": "no gain seen",
}


def variant_label(variant: str) -> str:
    """A variant of the config in words.

    >>> variant_label("taylor-keep")
    'Taylor model, momentum kept'
    """
    options = {"keep": ", momentum kept", "running": ", running statistics"}
    return KIND[variant.split("-")[0]] + "".join(v for k, v in options.items() if k in variant)


def answer(found: dict | None) -> Answer:
    """The last question of the opening."""
    question = "Linear switch"
    if not found or not found["variant"]:
        return Answer(question, "not measured", "There is no linearised run yet.")
    chief = found["variants"][found["variant"]]
    reason = (
        f"Test error when training goes on as the {_lower(variant_label(found['variant']))}: "
        f"{_errors(chief['test_error'])}; never switched: {percent(found['nonlinear'])}."
        f"{_half(chief)}{_unsteady(chief, found['sample'])}"
    )
    others = [name for name in found["variants"] if name != found["variant"]]
    lines = [_other(name, found["variants"][name]) for name in others]
    lines += [_agreement(found["agreement"]), _costs(found["costs"]), _regression(found)]
    word = WORD.get(found["verdict"], found["verdict"])
    return Answer(question, word, reason, tuple(line for line in lines if line))


def _lower(label: str) -> str:
    return label if label.startswith("Taylor") else label[0].lower() + label[1:]


def _errors(errors: dict[int, float | None]) -> str:
    return ", ".join(
        f"{percent(e)} from step {step(t)}" for t, e in errors.items() if e is not None
    )


def _half(found: dict) -> str:
    half = found["half"]
    return f" Half of the lazy run’s gap is closed by t ≈ {step(half)}." if half else ""


def _unsteady(found: dict, sample: float) -> str:
    """Where a later switch did worse than an earlier one."""
    if not found["rises"]:
        return ""
    errors = found["test_error"]
    rises = ", ".join(
        f"by {points(errors[b] - errors[a])} points from step {step(a)} to {step(b)}"
        for a, b in found["rises"]
    )
    one = f" (one test sample is {percent(sample)})" if sample else ""
    return f" The error rises again {rises}{one}."


def points(difference: float) -> str:
    """Percentage points; rounding of the difference of two shares is not shown."""
    return number(round(100 * difference, 6) + 0.0).replace("-", "−")


def _other(name: str, found: dict) -> str:
    label = variant_label(name)
    text = f"{label}: {_errors(found['test_error']) or 'diverged'}"
    if name.startswith("nonlinear"):
        return text
    half = f"; half of its gap by t\u00a0≈\u00a0{step(found['half'])}" if found["half"] else ""
    return f"{text} ({WORD.get(found['verdict'], found['verdict'])}{half})"


def _agreement(found: dict | None) -> str:
    if not found:
        return ""
    count, word = len(found["variants"]), "agree" if found["agree"] else "do not agree"
    parts = (
        []
        if found["agree"]
        else [f"in words {', '.join(f'“{WORD.get(w, w)}”' for w in found['words'])}"]
    )
    if found["factor"] is not None:
        parts.append(f"half-closed steps within a factor of {number(found['factor'])}")
    if found["spread"]:
        t = max(found["spread"], key=found["spread"].get)
        parts.append(
            f"test errors apart by at most {points(found['spread'][t])} points (at t = {step(t)})"
        )
    return f"The {count} first-order variants {word}" + (f": {', '.join(parts)}" if parts else "")


def _costs(found: dict[int, dict]) -> str:
    if not found:
        return ""
    parts = [
        f"{points(c['freezing'])} and {points(c['linearising'])} (t = {step(t)})"
        for t, c in found.items()
    ]
    return (
        "Points of test error lost to freezing batch norm, and on top of it to linearising: "
        f"{', '.join(parts)}"
    )


def _regression(found: dict) -> str:
    if not found["regression"]:
        return ""
    own = found["at_switch"]
    parts = [
        f"{MEAN[mean]} {', '.join(f'{percent(e)} ({step(t)})' for t, e in errors.items())}"
        for mean, errors in found["regression"]["test_error"].items()
    ]
    return (
        f"Regression on {step(found['regression']['samples'])} labels with the kernel of step t: "
        f"{'; '.join(parts)}; the network at t itself: "
        f"{', '.join(f'{percent(e)} ({step(t)})' for t, e in own.items())}"
    )


def caption(config: Config, dtype: str, normed: bool) -> str:
    """What stands under the figure; normed: the network has batch norm."""
    options, variants = config.linear, " ".join(config.linear.variants)
    kinds = {
        "taylor": "the first-order Taylor model of step t",
        "tangent": "its tangent alone, without the network’s outputs at t",
        "nonlinear": "the network itself, dropout off",
    }
    used = "; or ".join(text for kind, text in kinds.items() if kind in variants)
    regression = (
        f" Regression: {step(options.regression)} training inputs, ridge by leave-one-out, outputs "
        f"= “{config.kernels.outputs}”."
    )
    running = " or the running ones" if "running" in variants else ""
    frozen = f"batch norm frozen with statistics re-estimated at t{running}, "
    return (
        f"Trained from step t on to step {step(config.training.steps)} as {used}; "
        f"{ARM_LABEL[options.arm]} arm, {frozen if normed else ''}momentum reset"
        f"{' or kept' if 'keep' in variants else ''}, rate times {options.rate_factor:g}, {dtype}."
        f"{regression if options.regression else ''}"
    )
