"""The linear switch: train to t, then train the first-order Taylor model on to the end."""

from __future__ import annotations

import math

import entk
from twophase import train
from twophase.config import Config
from twophase.data import Dataset
from twophase.errors import DivergedError
from twophase.rundir import RunDir

COLUMNS = (
    *("arm", "switch_step", "step", "kind", "diverged", "test_samples"),
    *("train_loss", "train_error", "test_loss", "test_error"),
)


def jobs(config: Config) -> list[int]:
    return [t for t in config.linear.switch if t < config.training.steps]


def follow(run: RunDir, data: Dataset, switch: int) -> None:
    """The linearised run from one switch step.

    Batch norm is in eval mode from then on, its statistics re-estimated for the weights at t.
    """
    config = run.config
    options, last = config.linear, config.training.steps
    state = run.load_state(run.checkpoint(options.arm, switch))
    model = entk.linearize(train.evaluated(config, data, state))
    momentum = {k: v for k, v in state.items() if k.startswith("momentum.")}
    kept = momentum if options.momentum == "keep" else {}
    row = {"arm": options.arm, "switch_step": switch, "step": last, "diverged": False}
    row |= {"kind": "linearised" if switch else "lazy", "test_samples": len(data.x_test)}
    factor = options.rate_factor
    try:
        for _ in train.run_sgd(model, config, data, options.arm, kept, switch, last, factor):
            pass
        found = train.scores(model, data)
        row |= found if all(map(math.isfinite, found.values())) else {"diverged": True}
    except DivergedError:  # a linear model may diverge where the network does not: that is a result
        row["diverged"] = True
    run.save_json(run.switched(switch), row)


def collect(run: RunDir) -> None:
    """linear.csv: the switched runs, and beside them the run that never switched."""
    config = run.config
    arm, last = config.linear.arm, config.training.steps
    rows = [run.load_json(run.switched(switch)) for switch in jobs(config)]
    for row in run.load_table("train"):
        if row["arm"] == arm and int(row["step"]) == last:
            keep = {k: row[k] for k in COLUMNS[6:]}
            full = {"arm": arm, "switch_step": last, "step": last, "kind": "nonlinear"}
            rows.append({**full, "diverged": False, **keep})
    run.save_table("linear", COLUMNS, rows)
