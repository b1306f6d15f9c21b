"""Samples as tensors in memory, and augmentation that draws one random number per sample."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twophase import seeds
from twophase.config import Config, Data
from twophase.errors import UserError

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST"}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
DIGITS_TEST = 450


@dataclass(frozen=True)
class Dataset:
    """x [N, C, H, W] (or [N, D]) float32, normalised by the training set; y [N] int64."""

    x_train: Tensor
    y_train: Tensor  # with the label noise that the run trains on
    x_test: Tensor
    y_test: Tensor
    classes: int
    flipped: int  # training labels that the noise has changed


def load(config: Config) -> Dataset:
    """The run's samples on its device, the same for the same config."""
    data = config.data
    x_train, y_train, x_test, y_test = _raw(data)
    x_train, y_train = _some(x_train, y_train, data.train)
    x_test, y_test = _some(x_test, y_test, data.test)
    _check(config, x_train, x_test)
    classes = int(max(y_train.max(), y_test.max())) + 1
    axes = [0, *range(2, x_train.dim())]
    mean = x_train.mean(axes, keepdim=True)
    scale = x_train.std(axes, keepdim=True).clamp_min(1e-6)
    noisy = _with_noise(y_train, classes, data.label_noise, config.seed)
    return Dataset(
        x_train=((x_train - mean) / scale).contiguous().to(config.device),
        y_train=noisy.to(config.device),
        x_test=((x_test - mean) / scale).contiguous().to(config.device),
        y_test=y_test.to(config.device),
        classes=classes,
        flipped=int((noisy != y_train).sum()),
    )


def _some(x: Tensor, y: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """A fixed random choice: files are often sorted by class."""
    if count is None:
        return x, y
    rows = torch.randperm(len(x), generator=seeds.generator(0, "subset"))[:count]
    return x[rows], y[rows]


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
    }.items():
        if size > len(x_train):
            raise UserError(f"{key}={size}: there are only {len(x_train)} training samples")


def _with_noise(y: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Redraw a share of the labels uniformly over all classes."""
    generator = seeds.generator(seed, "label-noise")
    redrawn = torch.rand(len(y), generator=generator) < share
    labels = torch.randint(classes, (len(y),), generator=generator)
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
    return _order(n, seed, epoch)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=seeds.generator(seed, "order", epoch))


def _raw(data: Data) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if data.source == "digits":
        return _digits()
    if data.source in TORCHVISION:
        return _torchvision(data)
    path = Path(data.source)
    if path.suffix == ".npz":
        return _npz(path)
    if path.is_dir():
        return _folder(path)
    raise UserError(
        f"data.source={data.source!r}: expected digits, {', '.join(TORCHVISION)}, an existing .npz "
        f"file with {', '.join(ARRAYS)}, or a folder with train/<class>/ and test/<class>/"
    )


def _digits():
    """1,347 digits for training and 450 for the test, classes in proportion, always the same."""
    from sklearn.datasets import load_digits  # a second, and only this source needs it
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] / 16
    y = torch.from_numpy(bunch.target).long()
    rows = range(len(x))
    train, test = train_test_split(rows, test_size=DIGITS_TEST, stratify=y, random_state=0)
    return x[train], y[train], x[test], y[test]


def import_torchvision():
    """torchvision.datasets, also where its compiled operators do not match this torch.

    A CUDA build of torchvision beside a CPU build of torch cannot load its operators, and then
    fails at import over two schemas that data sets never use; defining them is enough.
    """
    try:
        import torchvision.datasets as datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision.datasets as datasets
    return datasets


_KEPT: list = []  # a library's definitions live as long as it does


def _torchvision(data: Data):
    kind = getattr(import_torchvision(), TORCHVISION[data.source])
    try:
        parts = [kind(data.root, train=train, download=True) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"data.source={data.source!r} could not be read from or downloaded to {data.root!r} "
            f"({error}); fetch it on a machine with a network and set data.root, or use a .npz"
        ) from None
    arrays = []
    for part in parts:
        arrays += [np.asarray(part.data), np.asarray(part.targets)]
    return _tensors(*arrays)


def _npz(path: Path):
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise UserError(f"data.source={str(path)!r}: it has no array {missing[0]!r}")
            arrays = [file[name] for name in ARRAYS]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"data.source={str(path)!r}: not readable as .npz ({error})") from None
    return _tensors(*arrays)


def _folder(path: Path):
    datasets = import_torchvision()
    arrays, classes = [], []
    for part in ("train", "test"):
        try:
            folder = datasets.ImageFolder(str(path / part))
        except (FileNotFoundError, OSError) as error:
            raise UserError(f"data.source={str(path)!r}: {error}") from None
        images = [np.asarray(image) for image, _ in folder]
        if len({image.shape for image in images}) != 1:
            raise UserError(f"data.source={str(path)!r}: the images of {part}/ differ in size")
        arrays += [np.stack(images), np.asarray(folder.targets)]
        classes.append(folder.classes)
    if classes[0] != classes[1]:
        raise UserError(
            f"data.source={str(path)!r}: train/ has classes {classes[0]}, test/ has {classes[1]}"
        )
    return _tensors(*arrays)


def _tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    """Samples and labels of x_train, y_train, x_test, y_test."""
    x_train, y_train, x_test, y_test = (
        (_labels if name.startswith("y") else _samples)(name, array)
        for name, array in zip(ARRAYS, arrays, strict=True)
    )
    for name, x, y in (("y_train", x_train, y_train), ("y_test", x_test, y_test)):
        if len(x) != len(y) or len(y) == 0:
            raise UserError(
                f"data: {name} has {len(y)} labels for {len(x)} samples, expected one each"
            )
    return x_train, y_train, x_test, y_test


def _samples(name: str, array: np.ndarray) -> Tensor:
    """uint8 images [N, H, W(, C)] as [N, C, H, W] in [0, 1]; floats [N, ...] as they are."""
    image = array.dtype == np.uint8 and array.ndim in (3, 4)
    if not image and not (np.issubdtype(array.dtype, np.floating) and array.ndim >= 2):
        raise UserError(
            f"data: {name} is {array.dtype} {array.shape}, expected uint8 [N,H,W] or [N,H,W,C], or "
            "float [N,...]"
        )
    x = torch.from_numpy(np.ascontiguousarray(array))
    if image:
        x = x.float() / 255
        x = x[:, None] if x.dim() == 3 else x.movedim(3, 1)
    if not torch.isfinite(x).all():
        raise UserError(f"data: {name} has NaN or infinity in it")
    return x.float()


def _labels(name: str, array: np.ndarray) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        raise UserError(f"data: {name} is {array.dtype} {array.shape}, expected integers [N]")
    if array.size and array.min() < 0:
        raise UserError(f"data: {name} has label {array.min()}, expected classes from 0 up")
    return torch.from_numpy(array.astype(np.int64))
