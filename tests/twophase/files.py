"""Small .npz files, and what is read from them."""

import numpy as np

from twophase import config, data


def load(source, *sets, **values):
    small = {"training": {"batch": 2, **values.pop("training", {})}, "kernels": {"probe": 2}}
    return data.load(config.build({"data": {"source": str(source), **values}, **small}, sets))


def arrays(n=6, shape=(4, 4), dtype=np.uint8):
    x = (np.arange(n * np.prod(shape)).reshape(n, *shape) % 251).astype(dtype)
    return {"x_train": x, "y_train": np.arange(n) % 3, "x_test": x[:3], "y_test": np.arange(3)}


def write(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return path
