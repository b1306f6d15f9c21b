"""The chaos effect: perturb at t0, train on, see how far twins end apart."""

from __future__ import annotations

from twophase import comparison, growth, metrics, seeds, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.perturb import parameters, perturb
from twophase.rundir import RunDir
from twophase.train import State

COLUMNS = (
    *("arm", "t0", "t1", "draw", "kind", "eps"),
    *("realised_l2", "realised_largest", "changed_fraction"),
    *comparison.COLUMNS,
)
PATH_COLUMNS = ("arm", "t0", "t1", "draw", "kind", *comparison.POINT)
FEATURE_COLUMNS = ("arm", "t0", "t1", "draw", "kind", "layer", "distance")
TABLES = {
    "chaos": COLUMNS,
    "barrier": PATH_COLUMNS,
    "features": FEATURE_COLUMNS,
    "growth": growth.COLUMNS,
}


def jobs(config: Config) -> list[tuple[int, int]]:
    """(t0, draw) of every twin; draw 0 is the control, eps = 0."""
    last = config.training.steps
    return [(t0, d) for t0 in config.chaos.t0 if t0 < last for d in range(config.chaos.draws + 1)]


def follow(run: RunDir, data: Dataset, t0: int, draw: int) -> None:
    """Train one twin in every arm and write what became of it."""
    config = run.config
    names = parameters(config, data)
    split = train.split_step(config)
    found: dict[str, list[dict]] = {name: [] for name in TABLES}
    trunk: dict[int, State] = {}
    compared: dict[tuple[str, int], tuple] = {}
    grown: dict[str, list[dict]] = {}
    for arm in config.arms:
        start = run.load_state(run.checkpoint(arm, t0))
        twin = perturb(config, data, start, t0, draw)
        key = {"arm": arm, "t0": t0, "draw": draw, "kind": "perturbed" if draw else "control"}
        size = {"eps": config.chaos.eps if draw else 0.0, **_size(start, twin, names)}
        states = _states(_noise(config, t0, draw), data, arm, twin, t0, trunk)
        for t1 in config.compared(t0):
            place = (arm if t1 > split else "trunk", t1)
            if place not in compared:
                main = run.load_state(run.checkpoint(arm, t1))
                compared[place] = comparison.compare(config, data, main, states[t1], names, t1)
            row, path, features = compared[place]
            found["chaos"].append({**key, "t1": t1, **size, **row})
            if t1 == config.training.steps:
                found["barrier"] += [{**key, "t1": t1, **point} for point in path]
                layers = [{"layer": k, "distance": s} for k, s in features.items()]
                found["features"] += [{**key, "t1": t1, **layer} for layer in layers]
        if config.chaos.growth:
            place = arm if t0 + config.chaos.growth > split else "trunk"
            if place not in grown:
                grown[place] = growth.follow(config, data, arm, start, twin, t0)
            found["growth"] += [{**key, **row} for row in grown[place]]
    run.save_json(run.twin(t0, draw), found)


def _size(start: State, twin: State, names: list[str]) -> dict[str, float]:
    """What float32 left of the perturbation: most of a total L2 of 1e-7 is rounded away."""
    before = metrics.parameter_vector(start, names)
    moved = metrics.parameter_vector(twin, names) - before
    return {
        "realised_l2": moved.norm().item(),
        "realised_largest": moved.abs().max().item(),
        "changed_fraction": (moved != 0).double().mean().item(),
    }


def _noise(config: Config, t0: int, draw: int) -> Config:
    """The config whose seed gives order, augmentation and masks after t0: the run's, or fresh.

    A control has the run's own: it has to end where the run does. Source of fresh noise: Frankle
    et al. 2020 (arXiv 1912.05671).
    """
    if config.chaos.noise == "same" or draw == 0:
        return config
    return config.model_copy(update={"seed": seeds.number(config.seed, "noise", t0, draw)})


def _states(
    config: Config, data: Dataset, arm: str, twin: State, t0: int, trunk: dict[int, State]
) -> dict[int, State]:
    """States at each t1; arms share the trunk up to the first drop of the rate."""
    split = train.split_step(config)
    wanted = config.compared(t0)
    if t0 >= split:  # the arms have parted before, each with a start of its own
        return train.advance(config, data, arm, twin, t0, wanted)
    if not trunk:
        stops = {t for t in wanted if t <= split} | {split}
        trunk.update(train.advance(config, data, arm, twin, t0, tuple(stops)))
    late = tuple(t for t in wanted if t > split)
    return trunk | train.advance(config, data, arm, trunk[split], split, late)


def collect(run: RunDir) -> None:
    """The tables from all twins."""
    found = [run.load_json(run.twin(*job)) for job in jobs(run.config)]
    for name, columns in TABLES.items():
        run.save_table(name, columns, [row for twin in found for row in twin[name]])
