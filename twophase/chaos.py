"""The chaos effect: perturb at t0, train on, see how far twins end apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from twophase import comparison, growth, lockstep, metrics, seeds, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.perturb import parameters, perturb
from twophase.rundir import RunDir
from twophase.train import State
from twophase.underway import Underway, clear

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


def jobs(config: Config) -> list[tuple[int, tuple[int, ...]]]:
    """(t0, draws that are trained together); draw 0 is the control, eps = 0."""
    draws = tuple(range(config.chaos.draws + 1))
    groups = [draws] if config.in_lockstep else [(d,) for d in draws]
    starts = [t0 for t0 in config.chaos.t0 if t0 < config.training.steps]
    return [(t0, group) for t0 in starts for group in groups]


def files(run: RunDir, t0: int, draws: tuple[int, ...]) -> list[Path]:
    """What a job leaves behind."""
    return [run.twin(t0, draw) for draw in draws]


def follow(run: RunDir, data: Dataset, t0: int, draws: tuple[int, ...]) -> None:
    """Train twins in every arm and write what became of each.

    In lockstep all are trained again if one file is missing, so that a lane has the same company,
    and with it the same bits, after an interruption.
    """
    missing = [draw for draw in draws if not run.twin(t0, draw).exists()]
    found = {draw: {name: [] for name in TABLES} for draw in missing}
    known: dict[tuple, Any] = {}
    trunk: list[dict[int, State]] = []
    underway = Underway(run, "chaos", f"t0-{t0:06d}-draws-{'-'.join(map(str, draws))}")
    for arm in run.config.arms:
        start = run.load_state(run.checkpoint(arm, t0))
        moved = [perturb(run.config, data, start, t0, draw) for draw in draws]
        main, *lanes = _train(underway, data, arm, [start, *moved], t0, draws, trunk)
        for draw, twin, lane in zip(draws, moved, lanes, strict=True):
            if draw in found:
                pair = Pair(arm, t0, draw, start, twin, main, lane)
                measure(run.config, data, pair, known, found[draw])
    for draw in missing:
        run.save_record(run.twin(t0, draw), found[draw])
    underway.done()


class Pair(NamedTuple):
    """A twin and the run that it left, in one arm: their states at t0, and at each t1."""

    arm: str
    t0: int
    draw: int
    start: State
    twin: State
    main: dict[int, State]
    lane: dict[int, State]


def measure(
    config: Config, data: Dataset, pair: Pair, known: dict[tuple, Any], found: dict[str, list]
) -> None:
    """Rows for every table; `known` keeps what the arms share, before the first drop."""
    names = parameters(config, data)
    split, (arm, t0, draw) = train.split_step(config), pair[:3]
    key = {"arm": arm, "t0": t0, "draw": draw, "kind": "perturbed" if draw else "control"}
    size = {"eps": config.chaos.eps if draw else 0.0, **_size(pair.start, pair.twin, names)}
    for t1 in config.compared(t0):
        place = (draw, arm if t1 > split else "trunk", t1)
        if place not in known:
            states = pair.main[t1], pair.lane[t1]
            known[place] = comparison.compare(config, data, *states, names, t1)
        row, path, features = known[place]
        found["chaos"].append({**key, "t1": t1, **size, **row})
        if t1 == config.training.steps:
            found["barrier"] += [{**key, "t1": t1, **point} for point in path]
            layers = [{"layer": k, "distance": s} for k, s in features.items()]
            found["features"] += [{**key, "t1": t1, **layer} for layer in layers]
    if config.chaos.growth:
        place = (draw, arm if t0 + config.chaos.growth > split else "trunk")
        if place not in known:
            known[place] = growth.follow(config, data, arm, pair.start, pair.twin, t0)
        found["growth"] += [{**key, **row} for row in known[place]]


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


def _train(
    underway: Underway,
    data: Dataset,
    arm: str,
    states: list[State],
    t0: int,
    draws: tuple[int, ...],
    trunk: list[dict[int, State]],
) -> list[dict[int, State]]:
    """{t1: state} of the main run, the first of `states` at t0, and of each of its twins.

    In lockstep the main run is trained along; else it is read from its checkpoints. Arms share the
    trunk up to the first drop of the rate.
    """
    run = underway.run
    config, split, wanted = run.config, train.split_step(run.config), run.config.compared(t0)
    noise = config if config.in_lockstep else _noise(config, t0, *draws)
    main = (
        [] if config.in_lockstep else [{t: run.load_state(run.checkpoint(arm, t)) for t in wanted}]
    )
    starts = states[len(main) :]

    def advance(label: str, starts: list[State], start: int, stops: set[int]):
        def some(states: list[State], start: int, stops: tuple[int, ...]) -> list[dict[int, State]]:
            if config.in_lockstep:
                return lockstep.advance(noise, data, arm, states, start, stops)
            return [train.advance(noise, data, arm, state, start, stops) for state in states]

        return underway.advance(some, label, starts, start, tuple(stops))

    if t0 >= split:  # the arms have parted before, each with a start of its own
        return [*main, *advance(arm, starts, t0, set(wanted))]
    if not trunk:
        trunk += advance("trunk", starts, t0, {t for t in wanted if t <= split} | {split})
    late = {t for t in wanted if t > split}
    parted = advance(arm, [lane[split] for lane in trunk], split, late)
    return [*main, *(before | after for before, after in zip(trunk, parted, strict=True))]


def collect(run: RunDir) -> None:
    """The tables from all twins."""
    clear(run, "chaos")
    found = [run.load_record(path) for job in jobs(run.config) for path in files(run, *job)]
    for name, columns in TABLES.items():
        run.save_table(name, columns, [row for twin in found for row in twin[name]])
