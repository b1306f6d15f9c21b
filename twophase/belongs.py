"""What a run directory belongs to, kept in belongs.json: other samples are not gone on with.

A study's has its network and checkpoints as well. Directories without that file, which earlier
versions made, are taken as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twophase import data as datasets
from twophase.data import Dataset
from twophase.errors import UserError
from twophase.rundir import RunDir

SHOWN = 4  # of the samples that the network's outputs are kept for, and of what differs
ROUNDING = 2.0**-12  # half of the digits of float32, relative
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function in a network's text: new each time

Belongs = dict[str, dict[str, Any]]


def begin(run: RunDir) -> Dataset:
    """The run's samples, recorded before its first checkpoint."""
    if any(run.path.glob("checkpoints/*/*.safetensors")):
        return load(run)
    samples = datasets.load(run.config)
    run.save_record(run.belongs, {"data": samples.sha256})
    return samples


def load(run: RunDir) -> Dataset:
    """The run's samples; raises UserError: they are not those that it began with."""
    samples = datasets.load(run.config)
    check(run, {"data": samples.sha256})
    return samples


def of_study(data: Dataset, files: dict[int, Path], model: nn.Module) -> Belongs:
    """`model` has the weights of the last of the checkpoints `files`."""
    checkpoints = {}
    for step, path in files.items():
        with path.open("rb") as file:
            checkpoints[str(step)] = hashlib.file_digest(file, "sha256").hexdigest()
    with torch.no_grad():
        y = model.eval()(data.x_train[:SHOWN].cpu()).nan_to_num()
    text = ADDRESS.sub("", repr(model))
    network = {"class": type(model).__qualname__, "repr": text, "outputs": y.tolist()}
    return {"checkpoints": checkpoints, "data": data.sha256, "network": network}


def check(run: RunDir, found: Belongs) -> None:
    """Raises UserError: the directory began with another of what is `found`."""
    if not run.belongs.exists():
        return
    begun = run.load_record(run.belongs)
    differs = []
    for part, values in found.items():
        old = begun.get(part, {})
        names = [k for k, v in values.items() if not SAME.get(k, _equal)(old.get(k), v)]
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            differs.append(f"{part} ({', '.join(names[:SHOWN])}{more})")
    if differs:
        raise UserError(
            f"{run.path} was begun with other {' and '.join(differs)}; put back what it was begun "
            "with, choose another folder, or delete this one"
        )


def _equal(old: Any, new: Any) -> bool:
    return old == new


def _close(old: Any, new: list) -> bool:
    """Outputs that differ by rounding, as those of another machine do, are the same."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (old or [], new))
    return a.shape == b.shape and bool((a - b).abs().max() <= ROUNDING * b.abs().max())


SAME: dict[str, Callable[[Any, Any], bool]] = {"outputs": _close}
