"""A twin beside the run that it left: everything that is measured of the two."""

from __future__ import annotations

from torch import Tensor, nn

import entk
from twophase import alignment, kernels, metrics, predictions, seeds, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.train import State

COLUMNS = (
    *("dissimilarity", "l2", "relative_l2", "largest_difference"),
    *("loss_barrier_train", "loss_barrier_test", "error_barrier_train", "error_barrier_test"),
    *("disagreement", "independent_disagreement", "divergence", "softmax_distance"),
    *("prediction_distance", "feature_distance", "kernel_distance"),
    *("aligned_barrier_train", "aligned_barrier_test", "renamed_fraction"),
)
POINT = ("alpha", "train_loss", "train_error", "test_loss", "test_error")


def compare(
    config: Config, data: Dataset, main: State, twin: State, names: list[str], t1: int
) -> tuple[dict, list[dict], dict[str, float]]:
    """(`COLUMNS`, the points of the straight line, {layer: distance of the features}) at t1.

    What costs most, the kernels and the line after renaming, is measured at the last step only and
    None before it.
    """
    u, v = (metrics.parameter_vector(s, names) for s in (main, twin))
    difference = (u - v).norm().item()
    one, two = (train.evaluated(config, data, s) for s in (main, twin))
    line = metrics.straight_line(one, train.weights(main), train.weights(twin), data, config)
    row = dict.fromkeys(COLUMNS) | {
        "dissimilarity": metrics.dissimilarity(u, v),
        "l2": difference,
        "relative_l2": difference / u.norm().item(),
        "largest_difference": max(_largest(main[k], twin[k]) for k in main),
    }
    for part in ("train", "test"):
        for what in ("loss", "error"):
            row[f"{what}_barrier_{part}"] = _height(config, line, part, what)
    a, b = (metrics.logits(model, data.x_test) for model in (one, two))
    row |= {
        "disagreement": predictions.disagreement(a, b),
        "independent_disagreement": predictions.independent_disagreement(a, b, data.y_test),
        "divergence": predictions.divergence(a, b),
        "softmax_distance": predictions.softmax_distance(a, b),
        "prediction_distance": predictions.prediction_distance(a, b),
    }
    x = kernels.probe(config, data)
    features = predictions.feature_distances(one, two, x)
    row["feature_distance"] = _before_last(features)
    if t1 == config.training.steps:
        row["kernel_distance"] = entk.kernel_distance(one, two, x, **kernels.options(config))
        row |= _aligned(config, data, (one, two), (main, twin), t1)
    return row, _points(line), features


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors; masks and counters have one as well."""
    a, b = (v if v.is_floating_point() else v.double() for v in (a, b))
    return float((a - b).abs().max()) if a.numel() else 0.0


def _height(config: Config, line: metrics.Path, part: str, what: str) -> float:
    values = [getattr(s, what) for s in getattr(line, part)]
    return metrics.barrier(line.alphas, values, config.chaos.baseline)


def _before_last(features: dict[str, float]) -> float | None:
    """Of the last hidden layer: after it come the logits, which have measures of their own."""
    hidden = list(features.values())[:-1]
    return hidden[-1] if hidden else None


def _aligned(
    config: Config, data: Dataset, models: tuple[nn.Module, nn.Module], states: tuple, t1: int
) -> dict[str, float]:
    """The loss barriers once the twin's units have the names that suit the main run's."""
    if config.chaos.align == "none":
        return {}
    one, two = (train.weights(s) for s in states)
    if config.chaos.align == "weights":
        generator = seeds.generator(config.seed, "align", t1)
        renamed, moved = alignment.match_weights(models[0], one, two, generator)
    else:
        x = kernels.probe(config, data)
        renamed, moved = alignment.match_activations(*models, two, x)
    line = metrics.straight_line(models[0], one, renamed, data, config)
    heights = {f"aligned_barrier_{p}": _height(config, line, p, "loss") for p in ("train", "test")}
    return heights | {"renamed_fraction": moved}


def _points(line: metrics.Path) -> list[dict]:
    return [
        dict(zip(POINT, (a, p.loss, p.error, q.loss, q.error), strict=True))
        for a, p, q in zip(line.alphas, line.train, line.test, strict=True)
    ]
