"""Where a twin starts: the state at t0, its parameters moved once and by little."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from twophase import metrics, seeds, train
from twophase.config import Config
from twophase.data import Dataset
from twophase.errors import UserError
from twophase.train import State

Direction = dict[str, Tensor]  # float64, by the names of a state


def perturb(config: Config, data: Dataset, state: State, t0: int, draw: int) -> State:
    """The state with its parameters moved once, as `chaos.kind` and `chaos.scale` have it.

    With d the direction of the kind: "total-l2" adds eps d / |d|, "per-coordinate" eps d and
    "relative" eps |w| d / |d|; "ulp" has a size of its own. Sums are formed in float64 and rounded
    to what the state is kept in. Draw 0 is the control: nothing is added.
    """
    if draw == 0:
        return copy.deepcopy(state)
    names = parameters(config, data)
    if config.chaos.kind == "ulp":
        return _replaced(config, data, state, _neighbours(config, state, names, t0, draw))
    found = direction(config, data, state, t0, draw)
    norm = metrics.norm(found.values())
    own = metrics.norm(state[n].double() for n in names)
    scale = {"total-l2": 1 / norm, "per-coordinate": 1.0, "relative": own / norm}
    size = config.chaos.eps * scale[config.chaos.scale]
    moved = {n: (state[n].double() + size * found[n]).to(state[n]) for n in names}
    return _replaced(config, data, state, moved)


def _replaced(config: Config, data: Dataset, state: State, moved: dict[str, Tensor]) -> State:
    """The state with what was moved, under each name that it has: tied weights have several."""
    model = train.blank(config, data)
    first = {id(p): f"model.{name}" for name, p in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    names = {f"model.{name}": first[id(p)] for name, p in every}
    return {**state, **{n: moved[own] for n, own in names.items() if own in moved}}


def parameters(config: Config, data: Dataset) -> list[str]:
    """The names of what is trained, as a state has them."""
    model = train.blank(config, data)
    return [f"model.{name}" for name, p in model.named_parameters() if p.requires_grad]


def direction(config: Config, data: Dataset, state: State, t0: int, draw: int) -> Direction:
    """What `chaos.kind` moves the parameters by, before it is scaled.

    "gaussian": standard normal in every entry. "layerwise": the same times the deviation of its
    tensor at initialisation. "one-weight": 1 or -1 for one entry, each as likely as any other, 0
    for the rest. "gradient": of the loss on one batch, as in training, with a root mean square
    of 1.
    """
    generator = seeds.generator(config.seed, "perturb", t0, draw)
    names = parameters(config, data)
    if config.chaos.kind == "gradient":
        found = _gradient(config, data, state, generator)
        size = metrics.norm(found.values()) / math.sqrt(sum(v.numel() for v in found.values()))
        if not (size > 0 and math.isfinite(size)):
            raise UserError(
                f"chaos.kind='gradient': the gradient at t0={t0} is {size:g}, which has no "
                "direction; leave that t0 out, or take chaos.kind=gaussian"
            )
        return {n: v / size for n, v in found.items()}
    if config.chaos.kind == "one-weight":
        return _one_weight(state, names, generator)
    noise = {n: torch.randn(state[n].shape, generator=generator).double() for n in names}
    if config.chaos.kind == "layerwise":
        first = train.initial(config, data)
        scales = deviations({n: first[n] for n in names})
        return {n: scales[n] * v for n, v in noise.items()}
    return noise


def deviations(first: dict[str, Tensor]) -> dict[str, float]:
    """The deviation of each tensor; one that is constant has that of the next that is not.

    So have Kwok et al. (arXiv 2506.13234) the scale of biases and norm layers. The last ones, with
    nothing after them, have that of the one before.
    """
    own = {
        n: v.double().std(correction=0).item() if v.numel() > 1 else 0.0 for n, v in first.items()
    }
    found: dict[str, float] = {}
    after = next((s for s in reversed(own.values()) if s > 0), 1.0)
    for name in reversed(own):
        after = own[name] or after
        found[name] = after
    return found


def _one_weight(state: State, names: list[str], generator: torch.Generator) -> Direction:
    found = {n: torch.zeros(state[n].shape, dtype=torch.float64) for n in names}
    place = torch.randint(sum(v.numel() for v in found.values()), (1,), generator=generator).item()
    sign = 2.0 * torch.randint(2, (1,), generator=generator).item() - 1
    for v in found.values():
        if place < v.numel():
            v.view(-1)[place] = sign
            break
        place -= v.numel()
    return found


def _gradient(config: Config, data: Dataset, state: State, generator: torch.Generator) -> Direction:
    """Of the cross-entropy on a random batch, without augmentation; norm layers as in training."""
    rows = torch.randperm(len(data.x_train), generator=generator)[: config.training.batch]
    model = train.network(config, data, state).train()
    torch.manual_seed(torch.randint(2**62, (1,), generator=generator).item())  # of dropout
    metrics.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
    trained = {f"model.{n}": p for n, p in model.named_parameters() if p.requires_grad}
    slopes = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in trained.items()}
    return {n: slope.double().cpu() for n, slope in slopes.items()}


def _neighbours(
    config: Config, state: State, names: list[str], t0: int, draw: int
) -> dict[str, Tensor]:
    """Every parameter moved to the next number that its type has, up or down as a coin falls."""
    generator = seeds.generator(config.seed, "perturb", t0, draw)
    found = {}
    for n in names:
        up = torch.randint(2, state[n].shape, generator=generator).bool()
        end = torch.where(up, torch.inf, -torch.inf).to(state[n])
        found[n] = torch.nextafter(state[n], end)
    return found
