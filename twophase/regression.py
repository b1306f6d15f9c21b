"""Kernel regression with the kernel at a step: what that kernel learns of a few labels at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import entk
from twophase import kernels, seeds, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.metrics import EVALUATION_BATCH, logits, score

COLUMNS = (
    *("arm", "switch_step", "mean", "samples", "ridge", "left_out_error"),
    *("test_error", "test_samples"),
)


def measure(config: Config, data: Dataset, state: train.State, step: int) -> list[dict]:
    """Test error of f = f0 + K_z (K + ridge I)⁻¹ (y - f0), for f0 = 0 and f0 the network at `step`.

    y: labels as they are trained on, one-hot less 1/O; f0 of the network: its softmax less 1/O,
    of the same scale. The row has ridge / tr K; `fit` chooses it.
    """
    model = train.evaluated(config, data, state)
    order = torch.randperm(len(data.x_train), generator=seeds.generator(config.seed, "regression"))
    rows = order[: config.linear.regression]
    x, labels = data.x_train[rows], kernels.labels(config, data.y_train[rows])
    labels_test = kernels.labels(config, data.y_test)
    options = kernels.options(config)
    select = {k: v for k, v in options.items() if k == "select"}
    y = F.one_hot(labels, data.classes).to(x) - 1 / data.classes
    own, own_test = (
        logits(model, z, **select).softmax(1) - 1 / data.classes for z in (x, data.x_test)
    )
    means = {"zero": (0 * own, 0 * own_test), "network": (own, own_test)}
    k = entk.ntk(model, x, **options)
    fits = {mean: fit(k, y - f0) for mean, (f0, _) in means.items()}
    outputs: dict[str, list[Tensor]] = {mean: [] for mean in means}
    for part in torch.arange(len(data.x_test)).split(EVALUATION_BATCH):
        crossed = entk.ntk(model, data.x_test[part], x, **options)
        for mean, (f0, f0_test) in means.items():
            found = entk.kernel_regression(k, y - f0, crossed, ridge=fits[mean][0])
            outputs[mean].append(f0_test[part] + found.test)
    return [
        {
            "arm": config.linear.arm,
            "switch_step": step,
            "mean": mean,
            "samples": len(x),
            "ridge": fits[mean][0] / trace(k),
            "left_out_error": score(f0 + fits[mean][1], labels).error,
            "test_error": score(torch.cat(outputs[mean]), labels_test).error,
            "test_samples": len(data.x_test),
        }
        for mean, (f0, _) in means.items()
    ]


def fit(k: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """(ridge, left-out predictions) of least squared leave-one-out error.

    Candidates go up by tens from eps tr K, eps that of the kernel's dtype: entries are off by
    about eps sqrt(K_ii K_jj), so eigenvalues by at most eps tr K, and below it there is nothing
    to fit with. The last is tr K or more, which leaves next to nothing of y.
    """
    eps = torch.finfo(k.dtype).eps
    found = []
    for power in range(math.ceil(-math.log10(eps)) + 1):
        ridge = eps * trace(k) * 10**power
        left_out = entk.kernel_regression(k, y, ridge=ridge, leave_one_out=True).left_out
        found.append(((left_out - y).double().square().sum().item(), ridge, left_out))
    _, ridge, left_out = min(found, key=lambda each: each[0])
    return ridge, left_out


def trace(k: Tensor) -> float:
    """Of [N, O, N, O], [O, N, N] or [N, N] as one matrix."""
    k = k.flatten(2).flatten(0, 1) if k.dim() == 4 else k
    return k.double().diagonal(dim1=-2, dim2=-1).sum().item()
