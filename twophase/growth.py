"""How fast twins part: their distance at every step, beside the linearised map of the optimiser.

The twin's distance has two parts: what the perturbation grew to, and what float32 adds, whose
rounding is a perturbation of each step by itself. The tangent has the first only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from twophase import train
from twophase.config import Config
from twophase.data import Dataset
from twophase.metrics import norm
from twophase.train import State

COLUMNS = ("arm", "t0", "draw", "kind", "step", "l2", "tangent")


def follow(
    config: Config, data: Dataset, arm: str, start: State, twin: State, t0: int
) -> list[dict]:
    """Rows of step, |w' - w| and |v| for steps t0 to t0 + `chaos.growth`, both trained along.

    v is what the difference at t0 becomes under the derivative of the steps (see `tangent`).
    """
    stop = min(t0 + config.chaos.growth, config.training.steps)
    one, two = (train.network(config, data, s).train() for s in (start, twin))
    v = _difference(one, two)
    runs = [
        train.run_sgd(m, config, data, arm, s, t0, stop) for m, s in ((one, start), (two, twin))
    ]
    rows = [{"step": t0, "l2": norm(v), "tangent": norm(v)}]
    moved = tangent(config, data, arm, one, v, t0)
    for step in range(t0, stop):
        size = next(moved)  # before the steps: it needs the weights that they start from
        for run in runs:
            next(run)
        apart = norm(_difference(one, two))
        rows.append({"step": step + 1, "l2": apart, "tangent": size})
    return rows


def tangent(
    config: Config, data: Dataset, arm: str, model: nn.Module, v: list[Tensor], start: int
) -> Iterator[float]:
    """|v| after each step of the derivative of the optimiser's map along the model's own path.

    With H the Hessian of the step's loss, mu the momentum, l the weight decay and eta the rate,

        b <- mu b + H v + l v        v <- v - eta b        b = 0 at the start.

    v is kept at length 1 and its logarithm summed, so that neither overflows (Benettin et al.
    1980). The caller moves the model between two steps.
    """
    t = config.training
    length = norm(v)
    if length == 0:  # a control, or rounded away: it stays there
        while True:
            yield 0.0
    total = math.log(length)
    v = [part / length for part in v]
    buffer = [torch.zeros_like(part) for part in v]
    for step in range(start, t.steps):
        product = _hessian_product(model, config, data, step, v)
        rate = config.rate(arm, step)
        for b, part, hv in zip(buffer, v, product, strict=True):
            b.mul_(t.momentum).add_(hv).add_(part, alpha=t.weight_decay)
            part.sub_(b, alpha=rate)
        length = norm(v)
        total += math.log(length) if length > 0 else -math.inf
        for part in (*v, *buffer):
            part.div_(length or 1.0)
        yield math.exp(min(total, 700.0))


def _hessian_product(
    model: nn.Module, config: Config, data: Dataset, step: int, v: list[Tensor]
) -> list[Tensor]:
    """H v of the loss of a step; the model's buffers are left as they are."""
    kept = {name: b.clone() for name, b in model.named_buffers()}
    parameters = list(model.parameters())
    loss = train.step_loss(model, config, data, step)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    along = [part.to(g) for part, g in zip(v, gradients, strict=True)]
    found = torch.autograd.grad(gradients, parameters, along)
    for name, b in model.named_buffers():
        b.copy_(kept[name])
    return [part.double() for part in found]


def exponent(rows: list[dict], column: str) -> float | None:
    """The finite-time Lyapunov exponent, ln(d(t) / d(t0)) / (t - t0), in 1/step.

    None where the distance is 0 at either end, or there is one row only.
    """
    first, last = rows[0], rows[-1]
    if last["step"] == first["step"] or not (first[column] and last[column]):
        return None
    return math.log(last[column] / first[column]) / (last["step"] - first["step"])


def _difference(one: nn.Module, two: nn.Module) -> list[Tensor]:
    """The parameters of two less those of one, float64."""
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return [b.detach().double() - a.detach().double() for a, b in pairs]
