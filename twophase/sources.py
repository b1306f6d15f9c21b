"""Where samples come from: scikit-learn, torchvision, Python's own help, files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from twophase import text
from twophase.config import Data
from twophase.errors import UserError

SKLEARN = ("digits", "breast_cancer", "wine")
TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST"}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TEST_SHARE = 0.25
SMALL, RATIO = 100 << 20, 100  # an array of an .npz may be so large, or unpack by so much
MOST_CLASSES = 1_000_000

Samples = tuple[Tensor, Tensor, Tensor, Tensor]  # in the order of ARRAYS


def read(data: Data) -> Samples:
    """Samples as they are: images in [0, 1], features in their units, text as tokens."""
    if data.source in SKLEARN:
        return _sklearn(data.source)
    if data.source == "text":
        return text.windows(data.context)
    if data.source in TORCHVISION:
        return _torchvision(data)
    if data.source == "own":
        raise UserError("data.source='own': this run was trained elsewhere; use twophase.Study")
    path = Path(data.source)
    if path.suffix == ".npz":
        return _npz(path)
    if path.is_dir():
        return _folder(path)
    raise UserError(
        f"data.source={data.source!r}: expected {', '.join((*SKLEARN, 'text', *TORCHVISION))}, an "
        f"existing .npz file with {', '.join(ARRAYS)}, or a folder with train/<class>/ and "
        f"test/<class>/; there is none at {path.absolute()}"
    )


def _sklearn(name: str) -> Samples:
    """A quarter for the test, classes in proportion, always the same; digits as images."""
    from sklearn import datasets  # a second, and only these sources need it
    from sklearn.model_selection import train_test_split

    bunch = getattr(datasets, f"load_{name}")()
    x = torch.from_numpy(bunch.data).float()
    if name == "digits":
        x = x.reshape(-1, 1, 8, 8) / 16
    y = torch.from_numpy(bunch.target).long()
    rows = range(len(x))
    train, test = train_test_split(rows, test_size=TEST_SHARE, stratify=y, random_state=0)
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


def _torchvision(data: Data) -> Samples:
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


def _npz(path: Path) -> Samples:
    try:
        _check_zip(path)
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise UserError(f"data.source={str(path)!r}: it has no array {missing[0]!r}")
            arrays = [file[name] for name in ARRAYS]
    except UserError:
        raise
    except Exception as error:  # a damaged file can make zipfile, zlib and NumPy raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.source={str(path)!r}: not readable as .npz ({reason:.200})"
        ) from None
    return _tensors(*arrays)


def _check_zip(path: Path) -> None:
    """Raises ValueError: no plain file, or one that unpacks to more than there is reason for."""
    if not path.is_file():  # a pipe would block
        raise ValueError(f"there is no such file, looked for at {path.absolute()}")
    with zipfile.ZipFile(path) as file:
        for part in file.infolist():
            if part.file_size > max(SMALL, RATIO * part.compress_size):
                raise ValueError(
                    f"{part.filename!r:.80} unpacks from {part.compress_size} to {part.file_size} "
                    "bytes"
                )
            with file.open(part) as array:
                shape, dtype = _header(array)
                if math.prod(shape) * dtype.itemsize > part.file_size:
                    raise ValueError(
                        f"{part.filename!r:.80} says shape {shape} {dtype}, which is more than "
                        f"{part.file_size} bytes"
                    )


def _header(array: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(array)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(array)
    return shape, dtype


def _folder(path: Path) -> Samples:
    datasets = import_torchvision()
    arrays, classes = [], []
    for part in ("train", "test"):
        try:
            folder = datasets.ImageFolder(str(path / part))
        except (FileNotFoundError, OSError) as error:
            raise UserError(f"data.source={str(path)!r}: {error}") from None
        try:
            images = [np.asarray(image) for image, _ in folder]
        except Exception as error:  # a damaged image can make Pillow raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data.source={str(path)!r}: an image of {part}/ is not readable ({reason:.200})"
            ) from None
        if len({image.shape for image in images}) != 1:
            raise UserError(f"data.source={str(path)!r}: the images of {part}/ differ in size")
        arrays += [np.stack(images), np.asarray(folder.targets)]
        classes.append(folder.classes)
    if classes[0] != classes[1]:
        raise UserError(
            f"data.source={str(path)!r}: train/ has classes {classes[0]}, test/ has {classes[1]}"
        )
    return _tensors(*arrays)


def _tensors(*arrays: np.ndarray) -> Samples:
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
    if array.size and array.max() >= MOST_CLASSES:
        raise UserError(
            f"data: {name} has label {array.max()}, expected classes below {MOST_CLASSES}; number "
            "them from 0"
        )
    return torch.from_numpy(array.astype(np.int64))
