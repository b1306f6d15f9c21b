"""How far apart two networks are: in weights, on the line between them, in what they say."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twophase.config import Config
from twophase.data import Dataset

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and error rate in [0, 1]."""

    loss: float
    error: float


def parameter_vector(state: dict[str, Tensor], names: Iterable[str]) -> Tensor:
    """All parameters as one float64 vector."""
    return torch.cat([state[name].double().flatten() for name in names])


def norm(parts: Iterable[Tensor]) -> float:
    """|w| of a vector that is kept in parts."""
    return math.sqrt(sum(part.square().sum().item() for part in parts))


def dissimilarity(u: Tensor, v: Tensor) -> float:
    """C = 1 - <u, v> / (|u| |v|), as |u/|u| - v/|v||^2 / 2, so that 1e-14 is not lost.

    Source: eq. 1 of arXiv 2505.13900.
    """
    return 0.5 * (u / u.norm() - v / v.norm()).square().sum().item()


def cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Mean over samples of out [N, O] and y [N], or over all positions of [N, T, V] and [N, T]."""
    return F.cross_entropy(out.flatten(0, -2), y.flatten())


@torch.no_grad()
def logits(
    model: nn.Module, x: Tensor, select: Callable[[Tensor], Tensor] = lambda out: out
) -> Tensor:
    """[N, O]; of a sequence model [N T, V], each position a row, or those that are selected."""
    model.eval()
    parts = x.split(EVALUATION_BATCH)
    return torch.cat([select(model(part)).flatten(0, -2) for part in parts])


def score(out: Tensor, y: Tensor) -> Score:
    """Of rows from `logits` and the labels y, [N] or [N, T]."""
    loss = cross_entropy(out.double(), y).item()
    return Score(loss, (out.argmax(1) != y.flatten()).double().mean().item())


@torch.no_grad()
def reestimate(model: nn.Module, x: Tensor) -> None:
    """Batch-norm statistics of these weights: the average over fixed batches of x, in place."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
    model.eval()  # of whatever kind its dropout is
    for layer in layers:
        layer.train()
    parts = [part for part in x.split(EVALUATION_BATCH) if len(part) > 1]
    for part in parts or [x]:  # one sample by itself has no deviation
        model(part)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
    model.eval()


@dataclass(frozen=True)
class Path:
    """Scores along the straight line between two networks, at `alphas`."""

    alphas: list[float]
    train: list[Score]
    test: list[Score]


def straight_line(
    model: nn.Module,
    one: dict[str, Tensor],
    two: dict[str, Tensor],
    data: Dataset,
    config: Config,
) -> Path:
    """Scores at (1 - alpha) one + alpha two; what batch norm does there is the config's choice."""
    model = copy.deepcopy(model)
    count = config.chaos.alphas
    alphas = [i / (count - 1) for i in range(count)]
    same = all(torch.equal(one[k], two[k]) for k in one)
    train, test = [], []
    for alpha in alphas[:1] if same else alphas:
        model.load_state_dict({k: _between(one[k], two[k], alpha) for k in one})
        if config.chaos.batchnorm == "ends":
            end = one if alpha <= 0.5 else two
            model.load_state_dict({k: end[k] for k, _ in model.named_buffers()}, strict=False)
        if config.chaos.batchnorm == "reestimate":
            reestimate(model, data.x_scored)
        train.append(score(logits(model, data.x_scored), data.y_scored))
        test.append(score(logits(model, data.x_test), data.y_test))
    repeat = len(alphas) if same else 1  # the line between equal networks is one point
    return Path(alphas, train * repeat, test * repeat)


def _between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Exactly a where a and b are equal; counters are taken from a."""
    return a + alpha * (b - a) if a.is_floating_point() else a


def barrier(alphas: list[float], values: list[float], baseline: str) -> float:
    """max_alpha L(alpha) minus a baseline: the line between the ends, their mean, or nothing.

    Not below 0 for "linear", whose ends are on the path. Sources: eq. 5 of arXiv 2505.13900 names
    no baseline; "linear" as in Entezari et al. (arXiv 2110.06296), "mean" as in Frankle et al.
    """
    first, last = values[0], values[-1]
    if baseline == "linear":
        return max(v - (first + a * (last - first)) for a, v in zip(alphas, values, strict=True))
    return max(values) - (first + (last - first) / 2 if baseline == "mean" else 0.0)


def angle(distance: float) -> float:
    """Degrees between two directions of cosine distance S: arccos(1 - S), exact for small S too."""
    return math.degrees(2 * math.asin(math.sqrt(min(max(distance, 0.0), 2.0) / 2)))
