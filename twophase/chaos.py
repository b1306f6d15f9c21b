"""The chaos effect: perturb at t0, train on with the same noise, see how far twins end apart."""

from __future__ import annotations

import entk
from twophase import kernels, metrics, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.rundir import RunDir

COLUMNS = (
    *("arm", "t0", "t1", "draw", "kind", "eps", "realised_l2", "changed_fraction"),
    *("dissimilarity", "l2", "relative_l2", "largest_difference"),
    *("loss_barrier_train", "loss_barrier_test", "error_barrier_train", "error_barrier_test"),
    *("disagreement", "kernel_distance"),
)
PATH_COLUMNS = (
    *("arm", "t0", "t1", "draw", "kind", "alpha"),
    *("train_loss", "train_error", "test_loss", "test_error"),
)


def jobs(config: Config) -> list[tuple[int, int]]:
    """(t0, draw) of every twin; draw 0 is the control, eps = 0."""
    last = config.training.steps
    return [(t0, d) for t0 in config.chaos.t0 if t0 < last for d in range(config.chaos.draws + 1)]


def follow(run: RunDir, data: Dataset, t0: int, draw: int) -> None:
    """Train one twin in every arm and write what became of it."""
    config = run.config
    rows, paths, trunk, compared = [], [], {}, {}
    split = train.split_step(config)
    for arm in config.arms:
        start = run.load_state(run.checkpoint(arm, t0))
        names = [f"model.{n}" for n, _ in train.network(config, data, start).named_parameters()]
        twin = train.perturb(config, start, names, t0, draw)
        common = {
            "t0": t0,
            "draw": draw,
            "kind": "perturbed" if draw else "control",
            "eps": config.chaos.eps if draw else 0.0,
            **_size(start, twin, names),
        }
        states = _states(config, data, arm, twin, t0, trunk)
        for t1 in (t for t in config.measured if t > t0):
            key = (arm if t1 > split else "trunk", t1)
            if key not in compared:
                main = run.load_state(run.checkpoint(arm, t1))
                compared[key] = _compare(config, data, main, states[t1], names, t1)
            row, path = compared[key]
            rows.append({"arm": arm, **common, "t1": t1, **row})
            if t1 == config.training.steps:
                key = {k: common[k] for k in ("t0", "draw", "kind")}
                paths += [{"arm": arm, **key, "t1": t1, **point} for point in path]
    run.save_json(run.twin(t0, draw), {"rows": rows, "paths": paths})


def _size(start: train.State, twin: train.State, names: list[str]) -> dict[str, float]:
    """What float32 left of the perturbation: most of a total L2 of 1e-7 is rounded away."""
    before = metrics.parameter_vector(start, names)
    moved = metrics.parameter_vector(twin, names) - before
    return {
        "realised_l2": moved.norm().item(),
        "changed_fraction": (moved != 0).double().mean().item(),
    }


def _states(config: Config, data: Dataset, arm: str, twin, t0: int, trunk: dict):
    """States at each t1; arms share the trunk up to the first drop of the rate."""
    split = train.split_step(config)
    wanted = {t for t in config.measured if t > t0}
    if t0 >= split:  # the arms have parted before, each with a start of its own
        return train.advance(config, data, arm, twin, t0, tuple(wanted))
    if not trunk:
        stops = {t for t in wanted if t <= split} | {split}
        trunk.update(train.advance(config, data, arm, twin, t0, tuple(stops)))
    late = tuple(t for t in wanted if t > split)
    return trunk | train.advance(config, data, arm, trunk[split], split, late)


def _compare(config: Config, data: Dataset, main, twin, names: list[str], t1: int):
    u, v = (metrics.parameter_vector(s, names) for s in (main, twin))
    difference = (u - v).norm().item()
    one, two = (train.evaluated(config, data, s) for s in (main, twin))
    line = metrics.straight_line(one, train.weights(main), train.weights(twin), data, config)
    row = {
        "dissimilarity": metrics.dissimilarity(u, v),
        "l2": difference,
        "relative_l2": difference / u.norm().item(),
        "largest_difference": max((main[k] - twin[k]).abs().max().item() for k in main),
        "disagreement": metrics.disagreement(
            metrics.logits(one, data.x_test), metrics.logits(two, data.x_test)
        ),
        "kernel_distance": None,
    }
    for part in ("train", "test"):
        for what in ("loss", "error"):
            values = [getattr(s, what) for s in getattr(line, part)]
            height = metrics.barrier(line.alphas, values, config.chaos.baseline)
            row[f"{what}_barrier_{part}"] = height
    if t1 == config.training.steps:
        x = kernels.probe(config, data)
        row["kernel_distance"] = entk.kernel_distance(one, two, x, **kernels.options(config))
    path = [
        {
            "alpha": a,
            "train_loss": p.loss,
            "train_error": p.error,
            "test_loss": q.loss,
            "test_error": q.error,
        }
        for a, p, q in zip(line.alphas, line.train, line.test, strict=True)
    ]
    return row, path


def collect(run: RunDir) -> None:
    """The tables from all twins."""
    found = [run.load_json(run.twin(*job)) for job in jobs(run.config)]
    run.save_table("chaos", COLUMNS, [row for part in found for row in part["rows"]])
    run.save_table("barrier", PATH_COLUMNS, [row for part in found for row in part["paths"]])
