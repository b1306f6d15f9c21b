"""The empirical tangent kernel of a fixed probe set along the main run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import entk
from twophase import belongs, seeds, spectra, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.digests import digest
from twophase.disk import remove_folder
from twophase.errors import UserError
from twophase.rundir import RunDir

KERNEL = (
    *("arm", "step", "frobenius_norm", "trace"),
    *("entropy_rank", "participation_rank", "stable_rank", "alignment", "centred_alignment"),
)
SPECTRUM = ("arm", "step", "rank", "eigenvalue")
OF_A_STEP = {"state_sha256", "outputs and gradients"}  # what kernels of one run differ in
CHECKS = ("arm", "step", "check", "samples", "distance", "relative_difference")
TABLES = {"kernel": KERNEL, "spectrum": SPECTRUM, "checks": CHECKS}
CHECKED = 16  # samples of the kernel that is computed again


def probe_rows(config: Config, data: Dataset) -> Tensor:
    """Rows of the training set, chosen once by the seed."""
    order = torch.randperm(len(data.x_train), generator=seeds.generator(config.seed, "probe"))
    return order[: config.kernels.probe]


def probe(config: Config, data: Dataset) -> Tensor:
    """Training inputs, not augmented."""
    return data.x_train[probe_rows(config, data)]


def options(config: Config) -> dict[str, Any]:
    """How a run's kernels are computed; nominal rates, so that the same run has the same bits."""
    chosen = config.kernels
    found = {"outputs": chosen.outputs, "memory": chosen.memory, "rates": "nominal"}
    if config.model.name == "gpt" and chosen.positions == "last":
        found["select"] = last_position
    return found


def last_position(out: Tensor) -> Tensor:
    """[N, V] of a sequence model's [N, T, V], [N] of labels [N, T]."""
    return out[:, -1]


def labels(config: Config, y: Tensor) -> Tensor | None:
    """Of the outputs that the kernel has; None for those of all positions of a sequence."""
    y = options(config).get("select", lambda out: out)(y)
    return y if y.dim() == 1 else None


def jobs(config: Config) -> list[tuple[str, int]]:
    return [(arm, step) for arm in config.arms for step in config.kernels.steps]


def files(run: RunDir, arm: str, step: int) -> list[Path]:
    """A kernel and its origin, of which a run without a record of its samples has none."""
    return [
        run.kernel(arm, step),
        *([run.kernel_origin(arm, step)] if run.belongs.exists() else []),
    ]


def measure(run: RunDir, data: Dataset, arm: str, step: int) -> None:
    """Write one kernel; batch norm in eval mode, its statistics re-estimated on training data."""
    config = run.config
    path = run.kernel(arm, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = run.load_state(run.checkpoint(arm, step))
    model = train.evaluated(config, data, state)
    by_layer = config.kernels.by_layer
    x = probe(config, data)
    with entk.write_ntk(path, model, x, by_layer=by_layer, **options(config)) as file:
        evaluated = file.provenance["request"]["state_sha256"]
    for origin in files(run, arm, step)[1:]:
        run.save_record(origin, {"checkpoint": digest(state), "evaluated": evaluated})


def collect(run: RunDir, data: Dataset | None = None) -> None:
    """What each kernel is like by itself, and one of them computed again in two other ways."""
    data = belongs.load(run) if data is None else data
    check(run)
    wanted = labels(run.config, data.y_train[probe_rows(run.config, data)])
    rows, spectrum = [], []
    for arm, step in jobs(run.config):
        path = run.kernel(arm, step)
        # a kill after the file has appeared and before its shards are gone leaves them behind
        remove_folder(path.with_name(f"{path.name}.parts"))
        with entk.open_kernel(path) as file:
            found, values = describe(file, wanted)
        key = {"arm": arm, "step": step}
        rows.append({**key, **found})
        spectrum += [{**key, "rank": k + 1, "eigenvalue": v} for k, v in enumerate(values)]
    run.save_table("kernel", KERNEL, rows)
    run.save_table("spectrum", SPECTRUM, spectrum)
    run.save_table("checks", CHECKS, checks(run, data))


def check(run: RunDir) -> None:
    """Raises UserError: a file is the kernel of another step, or of another run."""
    asked = {}
    for arm, step in jobs(run.config):
        path = run.kernel(arm, step)
        with entk.open_kernel(path) as file:
            asked[path] = file.provenance["request"]
        for origin in files(run, arm, step)[1:]:
            state = run.load_state(run.checkpoint(arm, step))
            found = {"checkpoint": digest(state), "evaluated": asked[path]["state_sha256"]}
            if run.load_record(origin) != found:
                raise UserError(
                    f"{path} is not the kernel of {run.checkpoint(arm, step)}, but of another step "
                    "or another training; delete the one that is wrong and run again"
                )
    check_alike(asked)


def check_alike(asked: dict[Path, dict]) -> None:
    """Raises UserError: a file was asked for with other samples, parameters or options."""
    first, *rest = asked
    for path in rest:
        differs = sorted(k for k in asked[first] if asked[path].get(k) != asked[first][k])
        if set(differs) - OF_A_STEP:
            raise UserError(
                f"{path} is not a kernel of the run that {first} is of ({', '.join(differs)} "
                "differ); delete the one that is not and run again"
            )


def describe(
    file: entk.KernelFile, labels: Tensor | None
) -> tuple[dict[str, float | None], list[float]]:
    """(the columns of kernel.csv, the largest eigenvalues); of a kernel with a direction."""
    size = spectra.size(file)
    row = {"frobenius_norm": size.norm, "trace": size.trace}
    if not (size.norm > 0 and math.isfinite(size.norm)):
        return row | dict.fromkeys(KERNEL[4:]), []
    values, entropy = spectra.largest(file)
    ranks = spectra.ranks(size, values[0].item(), entropy)
    return row | ranks | spectra.alignments(file, labels), values.tolist()


def checks(run: RunDir, data: Dataset) -> list[dict]:
    """The last kernel of the first arm again, of some samples: in float64, and in other tiles.

    Weights and batch-norm statistics are the float32 ones; only the kernel's arithmetic differs.
    """
    config = run.config
    arm, step = config.arms[0], config.kernels.steps[-1]
    model = train.evaluated(config, data, run.load_state(run.checkpoint(arm, step)))
    x = probe(config, data)[:CHECKED]
    with entk.open_kernel(run.kernel(arm, step)) as file:
        each = file.shape[-1] // config.kernels.probe
        stored = file[..., : len(x) * each, : len(x) * each]
    chosen = options(config)
    del chosen["memory"]
    tiles = entk.plan_ntk(model, x, block=max(1, len(x) // 3), **chosen)
    del chosen["rates"]  # the plan has them
    again = {"tiles": entk.ntk(model, x, plan=tiles, **chosen)}
    exact = x.double() if x.is_floating_point() else x
    again["float64"] = entk.ntk(model.double(), exact, **chosen, rates="nominal")
    return [
        {"arm": arm, "step": step, "check": name, "samples": len(x)} | _apart(stored, kernel)
        for name, kernel in again.items()
    ]


def _apart(stored: Tensor, kernel: Tensor) -> dict[str, float]:
    """S, and |A - B| / |B|."""
    stored, kernel = stored.double(), kernel.reshape(stored.shape).double()
    difference = ((stored - kernel).norm() / kernel.norm()).item()
    distance = entk.kernel_distance(stored, kernel)
    return {"distance": distance, "relative_difference": difference}
