"""The report's sentences and captions, from the findings and the config."""

from __future__ import annotations

from twophase.config import Config
from twophase.formats import Answer, degrees, number, percent, share, step
from twophase.phases import MEASURES
from twophase.plotstyle import ARM_LABEL
from twophase.wording_chaos import SPOKEN, chaos, elsewhere, growth, twins

BATCH_NORM = ("thin-resnet", "resnet20", "vgg16", "vgg16-dropout")  # networks that have it


def answers(findings: dict) -> list[Answer]:
    """The opening, in words and numbers."""
    return [
        chaos(findings["chaos"]),
        *([growth(findings["growth"])] if findings["growth"] else []),
        _cone(findings["cone"]),
        twins(findings["chaos"]),
        _schedule(findings),
        _linear(findings["linear"]),
    ]


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
        + elsewhere(found)
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


def _schedule(findings: dict) -> Answer:
    question = "Explained by the rate’s drops"
    twinned, cone = findings["chaos"], findings["cone"]
    shares = (twinned or {}).get("schedule_share", {})
    shares = {k: shares[k] for k in SPOKEN if shares.get(k) is not None}
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


def _linear(found: dict | None) -> Answer:
    question = "Linear switch"
    if not found:
        return Answer(question, "not measured", "There is no linearised run yet.")
    known = {t: e for t, e in found["test_error"].items() if e is not None}
    parts = [f"{percent(e)} from step {step(t)}" for t, e in known.items()]
    half = found["half"]
    closed = f" Half of the lazy run’s gap is closed by t ≈ {step(half)}." if half else ""
    reason = (
        f"Test error when training goes on linearised: {', '.join(parts)}; never linearised: "
        f"{percent(found['nonlinear'])}.{closed}"
    )
    words = {"seen": "later is better", "not seen": "no gain seen"}
    words["seen in part"] = "better than lazy, but not steadily"
    return Answer(
        question, words.get(found["verdict"], found["verdict"]), reason + _unsteady(found)
    )


def _unsteady(found: dict) -> str:
    """Where a later switch did worse than an earlier one."""
    if not found["rises"]:
        return ""
    rises = ", ".join(
        f"by {number(100 * (found['test_error'][b] - found['test_error'][a]))} points from step "
        f"{step(a)} to {step(b)}"
        for a, b in found["rises"]
    )
    one = f" (one test sample is {percent(found['sample'])})" if found["sample"] else ""
    return f" The error rises again {rises}{one}."


def network(config: Config) -> str:
    """The name of the network, and of one that is no fixed one its sizes."""
    m = config.model
    sizes = f"{m.name} of width {'–'.join(map(str, m.widths))}"
    if m.name in ("gpt", "vit"):
        patch = f", patches of {m.patch} × {m.patch}" if m.name == "vit" else ""
        return f"{sizes}, {m.blocks} blocks, {m.heads} heads{patch}"
    return sizes if m.name in ("mlp", "thin-resnet") else m.name


def samples(config: Config) -> str:
    """The source, and of text the length of a sample."""
    data = config.data
    return f"text, {data.context} characters a sample" if data.source == "text" else data.source


def outputs(config: Config) -> str:
    """Which outputs a kernel has, and how they are summed."""
    positions = {"last": " at the last position", "all": " at all positions"}
    where = positions[config.kernels.positions] if config.model.name == "gpt" else ""
    return f"outputs = “{config.kernels.outputs}”{where}"


def captions(config: Config, dtype: str) -> dict[str, str]:
    """What stands under each figure: n, output mode, ε, dtype, arms, draws."""
    c, k, last = config.chaos, config.kernels, step(config.training.steps)
    drops = " and ".join(step(m) for m in config.training.milestones) or "no step"
    arms = " and ".join(ARM_LABEL[a] for a in config.arms)
    norm = {
        "reestimate": "re-estimated",
        "interpolate": "interpolated",
        "ends": "of the nearer end",
    }[c.batchnorm]
    normed = config.model.name in BATCH_NORM
    scored = config.data.scored
    some = f", training losses of {scored} samples" if scored else ""
    twins = f"ε = {number(c.eps)} ({c.scale}), {c.draws} draws per t₀, {arms}, {dtype}" + (
        f", batch-norm statistics {norm}" if normed else ""
    )
    kernel = (
        f"eNTK of n = {k.probe} training inputs, {outputs(config)}, {dtype}, sums in float64"
    ) + (", batch norm in eval mode with re-estimated statistics" if normed else "")
    frozen = "batch norm frozen with statistics re-estimated at t, " if normed else ""
    fresh = "; batch-norm statistics re-estimated before each evaluation" if normed else ""
    line = f"{c.alphas} points on the line, baseline {c.baseline}{some}"
    return {
        "overview": "Left: medians over draws divided by the level at the first t₀, and the "
        "kernel’s own turn per lag; dashed: half. Right: half-fall points with 95 % bootstrap "
        f"intervals over draws; broad and pale, those of the second method. {twins}.",
        "chaos": f"Twins perturbed at t₀, compared at t₁ = {last}: points are draws, lines "
        f"medians, diamonds half of the first level, dotted the ε = 0 twin. {twins}; {line}; "
        f"kernel distance with n = {k.probe}, {outputs(config)}. The stepped rate drops "
        f"at {drops}.",
        "predictions": "Twins compared on the test set: symmetrised KL divergence in nats, L2 "
        "distance of the softmax, 1 − cosine of the logits, each a mean over samples; and 1 − "
        f"linear CKA of the last hidden layer’s outputs on n = {k.probe} training inputs. {twins}.",
        "features": f"1 − linear CKA of each layer’s outputs on n = {k.probe} training inputs, "
        f"centred over samples, medians over draws, at t₁ = {last}. {twins}.",
        "exponents": f"Solid: distance of twins that see the same noise, over {c.growth} steps "
        "from t₀, medians over draws. Dotted: what the linearised map of the optimiser makes of "
        "the same difference. Right: finite-time Lyapunov exponents, ln(d(t)/d(t₀))/(t − t₀). "
        f"{twins}.",
        "matched": f"Loss barriers at t₁ = {last} after the twin’s hidden units were renamed to "
        f"match the main run’s (by {c.align}). {twins}; {line}.",
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
        "linear": f"Trained as the first-order Taylor model of step t on to step {last}, in the "
        f"{ARM_LABEL[config.linear.arm]} arm: {frozen}"
        f"momentum {config.linear.momentum}, rate times {config.linear.rate_factor:g}, {dtype}.",
        "training": f"The main run{fresh}, {dtype}{some}. Dashed verticals: drops of the rate.",
    }
