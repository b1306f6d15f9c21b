"""The report's sentences and captions, from the findings and the config."""

from __future__ import annotations

from twophase import wording_cone, wording_linear
from twophase.config import Config
from twophase.formats import Answer, number, share, step
from twophase.phases import MEASURES
from twophase.plotstyle import ARM_LABEL
from twophase.wording_chaos import SPOKEN, chaos, growth, twins
from twophase.wording_cone import cone

BATCH_NORM = ("thin-resnet", "resnet20", "vgg16", "vgg16-dropout")  # networks that have it


def answers(findings: dict) -> list[Answer]:
    """The opening, in words and numbers."""
    return [
        chaos(findings["chaos"]),
        *([growth(findings["growth"])] if findings["growth"] else []),
        cone(findings["cone"]),
        twins(findings["chaos"]),
        _schedule(findings),
        wording_linear.answer(findings["linear"]),
    ]


def _schedule(findings: dict) -> Answer:
    question = "Explained by the rate’s drops"
    twinned, turned = findings["chaos"], findings["cone"]
    shares = (twinned or {}).get("schedule_share", {})
    shares = {k: shares[k] for k in SPOKEN if shares.get(k) is not None}
    parts = [f"{MEASURES[m]} {share(v)}" for m, v in shares.items()]
    if turned and turned["schedule_share"] is not None:
        parts.append(f"turn of the kernel {share(turned['schedule_share'])}")
        shares["cone"] = turned["schedule_share"]
    if not parts:
        return Answer(question, "not known", "It needs both arms, and a fall in the stepped one.")
    low, high = min(shares.values()), max(shares.values())
    word = share(high) if share(low) == share(high) else f"{100 * low:.0f}–{share(high)}"
    reason = f"Share of each fall that is missing at constant rate: {', '.join(parts)}."
    return Answer(question, word, reason)


def network(config: Config) -> str:
    """The name of the network, and of one that is no fixed one its sizes."""
    m = config.model
    if m.name == "own":
        return "the user’s own"
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
    together = ", trained and compared in lockstep with the main run" if config.in_lockstep else ""
    twins = (
        f"ε = {number(c.eps)} ({c.scale}), {c.draws} draws per t₀, {arms}, {dtype}"
        + (f", batch-norm statistics {norm}" if normed else "")
        + together
    )
    kernel = (
        f"eNTK of n = {k.probe} training inputs, {outputs(config)}, {dtype}, sums in float64"
    ) + (", batch norm in eval mode with re-estimated statistics" if normed else "")
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
        **wording_cone.captions(kernel, drops),
        "linear": wording_linear.caption(config, dtype, normed),
        "training": f"The main run{fresh}, {dtype}{some}. Dashed verticals: drops of the rate.",
    }
