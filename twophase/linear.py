"""The linear switch: train to t, then train a first-order model of the network on to the end."""

from __future__ import annotations

import math

from torch import nn

import entk
from twophase import regression, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.errors import DivergedError
from twophase.metrics import logits
from twophase.rundir import RunDir
from twophase.train import State
from twophase.underway import Underway, clear

COLUMNS = (
    *("arm", "variant", "switch_step", "step", "start_error", "diverged", "test_samples"),
    *("train_loss", "train_error", "test_loss", "test_error"),
)
TABLES = {"linear": COLUMNS, "regression": regression.COLUMNS}


def jobs(config: Config) -> list[tuple[str, int]]:
    options = config.linear
    names = [*options.variants, *(["regression"] if options.regression else [])]
    return [(name, t) for name in names for t in options.switch]


def start(config: Config, data: Dataset, state: State, variant: str) -> tuple[nn.Module, State]:
    """What a variant trains from a state of the main run, and the momentum that it starts with.

    All of it in eval mode: batch norm has fixed statistics and dropout is off.
    """
    network = train.network if "running" in variant else train.evaluated
    model = network(config, data, state)
    if not variant.startswith("nonlinear"):
        model = entk.linearize(model, offset=variant.startswith("taylor"))
    momentum = {k: v for k, v in state.items() if k.startswith("momentum.")}
    return model, momentum if "keep" in variant else {}


def start_error(config: Config, data: Dataset, state: State, variant: str) -> float | None:
    """max |f_lin - f| / max |f| over the test set at w_t, f 0 for the tangent; rounding.

    None for the network itself, and where its outputs are not finite.
    """
    if variant.startswith("nonlinear"):
        return None
    twin = variant.replace("taylor", "nonlinear").replace("tangent", "nonlinear")
    models = [start(config, data, state, name)[0] for name in (variant, twin)]
    found, f = (logits(model, data.x_test) for model in models)
    expected = f if variant.startswith("taylor") else 0 * f
    error = (found - expected).abs().max().item() / (f.abs().max().item() or 1.0)
    return error if math.isfinite(error) else None


def follow(run: RunDir, data: Dataset, variant: str, switch: int) -> None:
    """One variant from one switch step to the end."""
    config = run.config
    options, last = config.linear, config.training.steps
    state = run.load_state(run.checkpoint(options.arm, switch))
    if variant == "regression":
        run.save_record(
            run.switched(variant, switch), regression.measure(config, data, state, switch)
        )
        return
    row = {"arm": options.arm, "variant": variant, "switch_step": switch, "step": last}
    row |= {"start_error": start_error(config, data, state, variant)}
    row |= {"diverged": False, "test_samples": len(data.x_test)}
    model, momentum = start(config, data, state, variant)
    if isinstance(model, entk.LinearizedModel):
        logits(model, data.x_test[:2])  # settles its mode, which its first samples choose
    underway = Underway(run, "linear", f"{variant}-{switch:06d}")

    def advance(states: list[State], start: int, stops: tuple[int, ...]) -> list[dict[int, State]]:
        model.load_state_dict(train.weights(states[0]))
        found = {}
        steps = train.run_sgd(
            model, config, data, options.arm, states[0], start, max(stops), options.rate_factor
        )
        for step, optimizer in steps:
            if step in stops:
                found[step] = train.state_of(model, optimizer)
        return [found]

    try:
        begun = train.state_of(model, None) | momentum
        ended = underway.advance(advance, options.arm, [begun], switch, (last,))[0]
        model.load_state_dict(train.weights(ended[last]))
        found = train.scores(model, data)
        row |= found if all(map(math.isfinite, found.values())) else {"diverged": True}
    except DivergedError:  # a linear model may diverge where the network does not: that is a result
        row["diverged"] = True
    run.save_record(run.switched(variant, switch), row)
    underway.done()


def collect(run: RunDir) -> None:
    """linear.csv: every variant, and beside them the run that never switched; regression.csv."""
    config = run.config
    clear(run, "linear")
    arm, last = config.linear.arm, config.training.steps
    found = {job: run.load_record(run.switched(*job)) for job in jobs(config)}
    rows = [row for (name, _), row in found.items() if name != "regression"]
    for row in run.load_table("train"):
        if row["arm"] == arm and int(row["step"]) == last:
            keep = {k: row[k] for k in COLUMNS[7:]}
            full = {"arm": arm, "variant": "nonlinear", "switch_step": last, "step": last}
            rows.append({**full, "diverged": False, **keep})
    run.save_table("linear", COLUMNS, rows)
    regressed = [row for (name, _), part in found.items() if name == "regression" for row in part]
    run.save_table("regression", regression.COLUMNS, regressed)
