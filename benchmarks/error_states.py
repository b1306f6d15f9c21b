"""Networks of the error study: trained by twophase, checkpoints close in time, perturbed twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from twophase import config as configs
from twophase import data as datasets
from twophase import seeds, train
from twophase.config import Config
from twophase.errors import UserError
from twophase.perturb import perturb
from twophase.presets import PRESETS
from twophase.rundir import RunDir

LAGS = (1, 10, 50)  # steps before the last one at which a neighbour is kept


@dataclass(frozen=True)
class State:
    """A network in eval mode and how it lies to the last checkpoint."""

    name: str  # "last", "lag 10", "twin 1e-05"
    model: nn.Module
    moved: float  # |w - w_last| / |w_last| over the parameters, as they are stored


def configure(preset: str, file: Path, overrides: list[str], steps: int) -> Config:
    """The preset for `steps` steps at its first rate, with the samples of `file`.

    Raises UserError: there is no such preset, or no such file.
    """
    if preset not in PRESETS:
        raise UserError(f"model {preset!r} is no preset; expected one of {', '.join(PRESETS)}")
    if not file.is_file():
        raise UserError(
            f"data file {str(file)!r} does not exist; expected an .npz with x_train [N,H,W,C] "
            "uint8, y_train [N], x_test and y_test: name one with --data FILE"
        )
    if steps <= LAGS[-1]:
        raise UserError(f"steps={steps}, expected more than {LAGS[-1]}, the longest lag")
    kept = [steps - lag for lag in reversed(LAGS)] + [steps]
    fixed = [
        *(f"data.source='{file}'", f"training.steps={steps}", "training.milestones=[]"),
        *("arms=['constant']", "linear.arm='constant'", f"kernels.steps={kept}"),
        *("chaos.t0=[]", "chaos.t1=[]", "chaos.scale='relative'"),
        *("cone.tau=[]", "cone.lags=[1]", "linear.switch=[]"),
    ]
    return configs.build(PRESETS[preset], [*fixed, *overrides])


def trained(folder: Path, config: Config) -> tuple[RunDir, datasets.Dataset]:
    """The run, trained unless the folder holds its checkpoints; tables/train.csv has its scores."""
    run = RunDir.create(folder, config)
    data = datasets.load(config)
    arm, steps = config.arms[0], config.kernels.steps
    if not all(run.checkpoint(arm, step).exists() for step in steps):
        kept = train.advance(config, data, arm, train.initial(config, data), 0, steps, _show)
        for step, state in kept.items():
            run.save_state(run.checkpoint(arm, step), state, arm=arm, step=step)
    if not run.table("train").exists():
        last = train.evaluated(config, data, run.load_state(run.checkpoint(arm, steps[-1])))
        scores = train.scores(last, data)
        run.save_table("train", (*scores,), [scores])
    return run, data


def _show(step: int) -> None:
    print(f"\rstep {step}", end="", flush=True)


def samples(config: Config, data: datasets.Dataset, count: int) -> Tensor:
    """Training inputs [count, C, H, W], chosen by the seed and not augmented."""
    chosen = torch.randperm(len(data.x_train), generator=seeds.generator(config.seed, "probe"))
    return data.x_train[chosen[:count]]


def states(
    run: RunDir, data: datasets.Dataset, sizes: Sequence[float], lags: Sequence[int] = LAGS
) -> list[State]:
    """The last checkpoint; its neighbours; and twins of it, moved by `sizes` |w| in one direction.

    Neighbours have statistics of batch norm of their own, re-estimated on the training set; twins
    have those of the last checkpoint.
    """
    config = run.config
    end = config.training.steps
    if not {*lags} <= {*LAGS}:
        raise UserError(f"lags {list(lags)}, expected some of {list(LAGS)}, which are kept")
    last, *models = (
        train.evaluated(config, data, run.load_state(run.checkpoint(config.arms[0], end - lag)))
        for lag in (0, *lags)
    )
    found = [State("last", last, 0.0)]
    found += [State(f"lag {k}", m, moved(last, m)) for k, m in zip(lags, models, strict=True)]
    for size in sizes:
        scaled = configs.build(config.model_dump(mode="json"), [f"chaos.eps={size}"])
        state = perturb(scaled, data, train.state_of(last, None), end, 1)
        twin = train.network(config, data, state)
        found.append(State(f"twin {size:.0e}", twin, moved(last, twin)))
    return found


def moved(one: nn.Module, other: nn.Module) -> float:
    """|w' - w| / |w|, in float64."""
    w, v = (
        torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (one, other)
    )
    return ((v - w).norm() / w.norm()).item()
