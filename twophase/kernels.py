"""The empirical tangent kernel of a fixed probe set along the main run."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor

import entk
from twophase import seeds, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.rundir import RunDir

COLUMNS = ("arm", "step", "frobenius_norm", "trace")


def probe(config: Config, data: Dataset) -> Tensor:
    """Training inputs, chosen once by the seed and not augmented."""
    order = torch.randperm(len(data.x_train), generator=seeds.generator(config.seed, "probe"))
    return data.x_train[order[: config.kernels.probe]]


def options(config: Config) -> dict[str, Any]:
    """How a run's kernels are computed; nominal rates, so that the same run has the same bits."""
    chosen = config.kernels
    found = {"outputs": chosen.outputs, "memory": chosen.memory, "rates": "nominal"}
    if config.model.name == "gpt" and chosen.positions == "last":
        found["select"] = last_position
    return found


def last_position(out: Tensor) -> Tensor:
    """[N, V] of a sequence model's [N, T, V]."""
    return out[:, -1]


def jobs(config: Config) -> list[tuple[str, int]]:
    return [(arm, step) for arm in config.arms for step in config.kernels.steps]


def measure(run: RunDir, data: Dataset, arm: str, step: int) -> None:
    """Write one kernel; batch norm in eval mode, its statistics re-estimated on training data."""
    config = run.config
    path = run.kernel(arm, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = train.evaluated(config, data, run.load_state(run.checkpoint(arm, step)))
    entk.write_ntk(path, model, probe(config, data), **options(config)).close()


def collect(run: RunDir) -> None:
    """Norm and trace of each kernel: the scale that the cosine distance does not see."""
    rows = []
    for arm, step in jobs(run.config):
        file = run.kernel(arm, step)
        # a kill after the file has appeared and before its shards are gone leaves them behind
        shutil.rmtree(file.with_name(f"{file.name}.parts"), ignore_errors=True)
        with entk.open_kernel(run.kernel(arm, step)) as file:
            square, trace = 0.0, 0.0
            for index, part in file.blocks():
                square += part.double().square().sum().item()
                offset = index[-2].start - index[-1].start
                trace += part.reshape(-1, part.shape[-1]).double().diagonal(offset).sum().item()
        rows.append({"arm": arm, "step": step, "frobenius_norm": square**0.5, "trace": trace})
    run.save_table("kernel", COLUMNS, rows)
