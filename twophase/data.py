"""Samples as tensors in memory, and augmentation that draws one random number per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twophase import seeds, sources
from twophase.config import Config, Data
from twophase.digests import digest
from twophase.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """x [N, C, H, W] (or [N, D]) float32, normalised by the training set; y [N] int64.

    Of sequences x [N, T] and y [N, T] are int64, with a label for each position.
    """

    x_train: Tensor
    y_train: Tensor  # with the label noise that the run trains on
    x_test: Tensor
    y_test: Tensor
    classes: int  # for sequences the size of the vocabulary
    flipped: int  # training labels that the noise has changed
    scored: Tensor | None = None  # rows of the training set; None: all
    build: Callable[[], nn.Module] | None = None  # a network of the caller's; None: the config's
    sha256: dict[str, str] = field(default_factory=dict)  # of what was read, before all else

    @property
    def x_scored(self) -> Tensor:
        """Training samples that losses, errors and batch-norm statistics are measured on."""
        return self.x_train if self.scored is None else self.x_train[self.scored]

    @property
    def y_scored(self) -> Tensor:
        return self.y_train if self.scored is None else self.y_train[self.scored]


def load(config: Config) -> Dataset:
    """The run's samples on its device, the same for the same config."""
    data = config.data
    x_train, y_train, x_test, y_test = found = sources.read(data)
    sha256 = digests(*found)
    x_train, y_train = _some(x_train, y_train, data.train)
    x_test, y_test = _some(x_test, y_test, data.test)
    _check(config, x_train, x_test)
    tokens = () if x_train.is_floating_point() else (x_train, x_test)
    classes = 1 + max(int(v.max()) for v in (y_train, y_test, *tokens))
    noisy = _with_noise(y_train, classes, data.label_noise, config.seed)
    flipped = int((noisy != y_train).sum())
    if not tokens:
        x_train, x_test = _normalised(x_train, x_test)
    tensors = [v.to(config.device) for v in (x_train, noisy, x_test, y_test)]
    rows = scored(data, len(x_train))
    return Dataset(*tensors, classes, flipped, scored=rows, sha256=sha256)


def digests(*tensors: Tensor) -> dict[str, str]:
    """SHA-256 of each of `sources.ARRAYS`, the same on every machine: nothing is computed yet."""
    return {k: digest({k: t}) for k, t in zip(sources.ARRAYS, tensors, strict=True)}


def scored(data: Data, n: int) -> Tensor | None:
    """Which of n training samples are measured on, a fixed random choice; None: all."""
    return None if data.scored is None else _order(n, "scored")[: data.scored]


def _normalised(x_train: Tensor, x_test: Tensor) -> list[Tensor]:
    """Each channel, or feature, less its training mean and over its training deviation."""
    axes = [0, *range(2, x_train.dim())]
    mean = x_train.mean(axes, keepdim=True)
    scale = x_train.std(axes, keepdim=True).clamp_min(1e-6)
    return [((x - mean) / scale).contiguous() for x in (x_train, x_test)]


def _some(x: Tensor, y: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """A fixed random choice: files are often sorted by class."""
    if count is None:
        return x, y
    rows = _order(len(x), "subset")[:count]
    return x[rows], y[rows]


def _order(n: int, use: str) -> Tensor:
    return torch.randperm(n, generator=seeds.generator(0, use))


def _check(config: Config, x_train: Tensor, x_test: Tensor) -> None:
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = f"{tuple(x_train.shape[1:])} and {tuple(x_test.shape[1:])}"
        raise UserError(f"data: training and test samples differ in shape, {shapes}")
    if config.data.augment != "none" and x_train.dim() != 4:
        raise UserError(
            f"data.augment={config.data.augment!r} needs images [N, C, H, W], the samples have "
            f"shape {tuple(x_train.shape[1:])}; use data.augment=none"
        )
    for key, size in {
        "kernels.probe": config.kernels.probe,
        "training.batch": config.training.batch,
        "linear.regression": config.linear.regression,
        "data.scored": config.data.scored or 0,
    }.items():
        if size > len(x_train):
            raise UserError(f"{key}={size}: there are only {len(x_train)} training samples")


def _with_noise(y: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Redraw a share of the labels uniformly over all classes."""
    generator = seeds.generator(seed, "label-noise")
    redrawn = torch.rand(y.shape, generator=generator) < share
    labels = torch.randint(classes, y.shape, generator=generator)
    return torch.where(redrawn, labels, y)


def augment(x: Tensor, data: Data, seed: int, step: int) -> Tensor:
    """Shift or crop (and flip) each image by its own draw; the draws belong to the step."""
    if data.augment == "none":
        return x
    generator = seeds.generator(seed, "augment", step)
    n, _, height, width = x.shape
    offsets = torch.randint(2 * data.pad + 1, (2, n), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    padded = F.pad(x, [data.pad] * 4)
    rows = (offsets[0, :, None] + torch.arange(height)).to(x.device)  # [N, H]
    columns = (offsets[1, :, None] + torch.arange(width)).to(x.device)
    if data.augment == "crop-flip":
        columns = torch.where(flips.to(x.device)[:, None], columns.flip(1), columns)
    index = torch.arange(n, device=x.device)[:, None, None]
    return padded.movedim(1, 3)[index, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def batch_indices(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Rows of the batch of a step: a fresh order every epoch, the last batch may be short."""
    per_epoch = -(-n // batch)
    epoch, place = divmod(step, per_epoch)
    return _epoch_order(n, seed, epoch)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=2)
def _epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=seeds.generator(seed, "order", epoch))
