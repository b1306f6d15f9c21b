"""The one training loop. Twins and the linearised run are other start states, not other loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from twophase import models, seeds
from twophase.config import Config
from twophase.data import Dataset, augment, batch_indices
from twophase.disk import write_atomic
from twophase.errors import DivergedError, UserError
from twophase.metrics import cross_entropy, logits, reestimate, score
from twophase.rundir import RunDir

State = dict[str, Tensor]  # "model.<name>": parameters and buffers; "momentum.<name>"

COLUMNS = (
    *("arm", "step", "epoch", "rate"),
    *("train_loss", "train_error", "test_loss", "test_error"),
)


def initial(config: Config, data: Dataset) -> State:
    return state_of(blank(config, data), None)


def blank(config: Config, data: Dataset) -> nn.Module:
    """The network before any training; the caller's own where the samples come with one."""
    if data.build is not None:
        return data.build()
    return models.build(config, data.x_train[0], data.classes)


def network(config: Config, data: Dataset, state: State) -> nn.Module:
    """The model with the parameters and buffers of a state, in eval mode, where the samples are."""
    model = blank(config, data)
    model.load_state_dict(weights(state))
    return model.to(data.x_train.device).eval()


def weights(state: State) -> dict[str, Tensor]:
    """The model's part of a state, under the model's own names."""
    return {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> State:
    """Everything that the next step depends on, on the CPU; the caller keeps the step itself."""
    state = {f"model.{k}": v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
    for name, p in model.named_parameters() if optimizer else ():
        buffer = optimizer.state[p].get("momentum_buffer")
        if buffer is not None:
            state[f"momentum.{name}"] = buffer.to("cpu", copy=True)
    return state


def advance(
    config: Config,
    data: Dataset,
    arm: str,
    state: State,
    start: int,
    stops: tuple[int, ...],
    tick: Callable[[int], None] = lambda step: None,
) -> dict[int, State]:
    """Train from `state` at step `start`; {stop: state} for each of `stops`.

    The batch, its augmentation, dropout masks and the rate of a step depend on the step alone, so
    twins that start here see the same noise. `tick` is called with each step done.
    """
    model = network(config, data, state).train()
    found = {start: state} if start in stops else {}
    stops = tuple(stop for stop in sorted(stops) if stop > start)
    steps = run_sgd(model, config, data, arm, state, start, max(stops, default=start))
    for step, optimizer in steps:
        tick(step)
        if step in stops:
            found[step] = state_of(model, optimizer)
    return found


def run_sgd(
    model: nn.Module,
    config: Config,
    data: Dataset,
    arm: str,
    state: State,
    start: int,
    stop: int,
    rate_factor: float = 1.0,
):
    """Yield (step, optimizer) after each update of the model in place."""
    t = config.training
    optimizer = torch.optim.SGD(
        model.parameters(), lr=t.rate, momentum=t.momentum, weight_decay=t.weight_decay
    )
    for name, p in model.named_parameters():
        if f"momentum.{name}" in state:
            momentum = state[f"momentum.{name}"].to(p.device, copy=True)
            optimizer.state[p]["momentum_buffer"] = momentum
    for step in range(start, stop):
        loss = step_loss(model, config, data, step)
        rate = config.rate(arm, step) * rate_factor
        check_loss(loss.item(), step, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        yield step + 1, optimizer
    check_weights(model.parameters(), stop)


def check_loss(loss: float, step: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"training diverged: the loss is {loss} at step {step} with rate {rate:g}; lower "
            "training.rate"
        )


def check_weights(parameters: Iterable[Tensor], stop: int) -> None:
    if not all(p.isfinite().all() for p in parameters):
        raise DivergedError(f"training diverged: weights overflowed by step {stop}")


def step_loss(model: nn.Module, config: Config, data: Dataset, step: int) -> Tensor:
    """The loss that leads from `step` to the next: its batch, augmented, and its masks."""
    x, y = step_batch(config, data, step)
    try:
        return cross_entropy(model(x), y)
    except ValueError as error:
        if len(x) > 1:
            raise
        raise UserError(  # batch norm has nothing to average over
            f"step {step} has a batch of 1 of {len(data.x_train)} samples: {error!s:.100}; "
            "choose another training.batch"
        ) from None


def step_batch(config: Config, data: Dataset, step: int) -> tuple[Tensor, Tensor]:
    """Samples, augmented, and labels of a step; seeds torch, whose next masks are the step's."""
    rows = batch_indices(len(data.x_train), config.training.batch, config.seed, step)
    rows = rows.to(data.x_train.device)
    x = augment(data.x_train[rows], config.data, config.seed, step)
    torch.manual_seed(seeds.number(config.seed, "dropout", step))
    return x, data.y_train[rows]


def scores(model: nn.Module, data: Dataset) -> dict[str, float]:
    """Losses and errors of a model as it is, in eval mode."""
    train = score(logits(model, data.x_scored), data.y_scored)
    test = score(logits(model, data.x_test), data.y_test)
    return {
        **{f"train_{k}": v for k, v in asdict(train).items()},
        **{f"test_{k}": v for k, v in asdict(test).items()},
    }


def evaluated(config: Config, data: Dataset, state: State) -> nn.Module:
    """The network with batch-norm statistics re-estimated on the training set."""
    model = network(config, data, state)
    reestimate(model, data.x_scored)
    return model


def split_step(config: Config) -> int:
    """The step up to which all arms are one: the first drop of the rate."""
    return min(config.training.milestones, default=config.training.steps)


def stage(run: RunDir, data: Dataset, tick: Callable[[int], None]) -> None:
    """Checkpoints of the main run in every arm, from the last one that exists; then train.csv."""
    config = run.config
    for arm in config.arms:
        for step in config.checkpoints:
            if step <= split_step(config) and arm != config.arms[0]:
                _share(run, config.arms[0], arm, step)
        _train(run, data, arm, tick)
    evaluate(run, data)


def evaluate(run: RunDir, data: Dataset) -> None:
    """train.csv: scores at every checkpoint; no rate where the run was trained elsewhere."""
    config = run.config
    rows = []
    for arm in config.arms:
        for step in config.checkpoints:
            model = evaluated(config, data, run.load_state(run.checkpoint(arm, step)))
            epoch = step * config.training.batch / len(data.x_train)
            row = {"arm": arm, "step": step, "epoch": epoch, "rate": config.rate(arm, step)}
            row |= {"epoch": None, "rate": None} if arm == "own" else {}
            rows.append({**row, **scores(model, data)})
    run.save_table("train", COLUMNS, rows)


def _share(run: RunDir, first: str, arm: str, step: int) -> None:
    target = run.checkpoint(arm, step)
    if not target.exists():
        write_atomic(target, run.checkpoint(first, step).read_bytes())


def _train(run: RunDir, data: Dataset, arm: str, tick: Callable[[int], None]) -> None:
    config, t = run.config, run.config.training
    if not run.checkpoint(arm, 0).exists():
        run.save_state(run.checkpoint(arm, 0), initial(config, data), arm=arm, step=0)
    last, file = latest(run, arm)
    state = run.load_state(file)
    between = set(range(t.save_every, t.steps, t.save_every)) - set(config.checkpoints)
    for step in sorted(s for s in {*config.checkpoints, *between} if s > last):
        state = advance(config, data, arm, state, last, (step,), tick)[step]
        file = run.halfway(arm, step) if step in between else run.checkpoint(arm, step)
        run.save_state(file, state, arm=arm, step=step)
        run.log("checkpoint", arm=arm, step=step)
        _drop_halfway(run, arm, file)
        last = step
    _drop_halfway(run, arm)  # what a kill just after the last checkpoint left


def _drop_halfway(run: RunDir, arm: str, kept: Path | None = None) -> None:
    for old in set(run.checkpoint(arm, 0).parent.glob("halfway-*")) - {kept}:
        old.unlink()


def progress(run: RunDir) -> tuple[int, int]:
    """(done, all) steps of the main run; the arms share those up to the first drop."""
    config = run.config
    split, stop = split_step(config), config.training.steps
    reached = [latest(run, a)[0] if run.checkpoint(a, 0).exists() else 0 for a in config.arms]
    done = reached[0] + sum(max(step - split, 0) for step in reached[1:])
    return done, stop + (len(reached) - 1) * (stop - split)


def latest(run: RunDir, arm: str) -> tuple[int, Path]:
    """The last state before the first checkpoint that is missing; the one of step 0 exists."""
    t = run.config.training
    grid = {s: run.checkpoint(arm, s) for s in run.config.checkpoints}
    missing = min((s for s, file in grid.items() if not file.exists()), default=t.steps + 1)
    files = {s: run.halfway(arm, s) for s in range(t.save_every, t.steps, t.save_every)} | grid
    return max((s, file) for s, file in files.items() if s < missing and file.exists())
