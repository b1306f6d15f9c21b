"""Several networks trained at once over one stream of batches: twins, and the run they left.

Every parameter, buffer and momentum has a leading axis of lanes [L]; torch.func.vmap makes one pass
of all lanes, with the masks of dropout shared. On CUDA a step is recorded as a graph and replayed.
Kernels that batch lanes do not round as those of one network do, so twins are to be compared with
a lane of the same batch. When it pays: docs/science.md, "Twins"; benchmarks/lockstep.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from twophase import train
from twophase.config import Config
from twophase.data import Dataset
from twophase.train import State


def advance(
    config: Config, data: Dataset, arm: str, states: list[State], start: int, stops: tuple[int, ...]
) -> list[dict[int, State]]:
    """`train.advance` of all `states` at once: {stop: state} of each, in their order.

    Raises DivergedError: a lane's loss or weights are not finite.
    """
    found = [{start: state} if start in stops else {} for state in states]
    stops = tuple(stop for stop in sorted(stops) if stop > start)
    lanes = Lanes(config, data, states)
    for step in range(start, max(stops, default=start)):
        rate = config.rate(arm, step)
        for loss in lanes.step(rate, *train.step_batch(config, data, step)).tolist():
            train.check_loss(loss, step, rate)
        if step + 1 in stops:
            for lane, states_of_lane in zip(lanes.states(), found, strict=True):
                states_of_lane[step + 1] = lane
    train.check_weights(lanes.parameters.values(), max(stops, default=start))
    return found


class Lanes:
    """L networks and their optimiser, moved together; all with momentum or all without."""

    def __init__(self, config: Config, data: Dataset, states: list[State]):
        self.model = train.network(config, data, states[0]).train()
        self.parameters = self._stack(states, [n for n, _ in self.model.named_parameters()])
        self.buffers = self._stack(states, [n for n, _ in self.model.named_buffers()])
        for p in self.parameters.values():
            p.requires_grad_()
        t = config.training
        self.optimizer = torch.optim.SGD(
            self.parameters.values(), lr=t.rate, momentum=t.momentum, weight_decay=t.weight_decay
        )
        names = [n for n in self.parameters if f"momentum.{n}" in states[0]]
        for name, momentum in self._stack(states, names, "momentum").items():
            self.optimizer.state[self.parameters[name]]["momentum_buffer"] = momentum
        self._forward = vmap(
            lambda p, b, x: functional_call(self.model, (p, b), (x,)),
            in_dims=(0, 0, None),
            randomness="same",
        )
        self._step = _Graphs(self._update) if data.x_train.is_cuda else self._update

    def _stack(
        self, states: list[State], names: list[str], kind: str = "model"
    ) -> dict[str, Tensor]:
        """{name: [L, ...]} on the device of the model."""
        device = next(self.model.parameters()).device
        return {n: torch.stack([s[f"{kind}.{n}"] for s in states]).to(device) for n in names}

    def step(self, rate: float, x: Tensor, y: Tensor) -> Tensor:
        """One update of every lane on the same x [N, ...] and y; the losses before it [L].

        Images are laid out plane by plane: with channels last, batch norm goes along the channels
        of all lanes in vectors, and what is left over rounds otherwise. `contiguous` would leave
        images of one channel as they are.
        """
        return self._step(rate, x.clone(memory_format=torch.contiguous_format), y)

    def _update(self, rate: float, x: Tensor, y: Tensor) -> Tensor:
        out = self._forward(self.parameters, self.buffers, x)  # [L, N, O] or [L, N, T, V]
        labels = y.flatten().repeat(len(out))
        losses = F.cross_entropy(out.flatten(0, -2), labels, reduction="none")
        losses = losses.view(len(out), -1).mean(1)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        return losses.detach()

    def states(self) -> list[State]:
        """The state of each lane, with what `train.state_of` gives."""
        stacked = self.parameters | self.buffers
        kept = {f"model.{n}": stacked[n] for n in self.model.state_dict()}
        for name, p in self.parameters.items():
            momentum = self.optimizer.state[p].get("momentum_buffer")
            if momentum is not None:
                kept[f"momentum.{name}"] = momentum
        lanes = zip(*(v.detach().unbind() for v in kept.values()), strict=True)
        return [
            {name: v.to("cpu", copy=True) for name, v in zip(kept, lane, strict=True)}
            for lane in lanes
        ]


class _Graphs:
    """A step on CUDA, recorded once for each (rate, size of the batch) and then replayed.

    The first step of its kind is done as usual, which creates all that a recording must not: the
    momentum, workspaces, the choice of kernels. Recording the second does nothing but record.
    Torch's generator is seeded by the caller before each step, and a replay reads its seed.
    """

    def __init__(self, update):
        self.update = update
        self.stream = torch.cuda.Stream()
        self.recorded: dict[tuple, tuple | None] = {}

    def __call__(self, rate: float, x: Tensor, y: Tensor) -> Tensor:
        key = (rate, len(y))
        if key not in self.recorded:
            self.recorded[key] = None
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                losses = self.update(rate, x, y)
            torch.cuda.current_stream().wait_stream(self.stream)
            return losses
        if self.recorded[key] is None:
            self.recorded[key] = self._record(rate, x.clone(), y.clone())
        graph, inputs, losses = self.recorded[key]
        for fixed, new in zip(inputs, (x, y), strict=True):
            fixed.copy_(new)
        graph.replay()
        return losses

    def _record(self, rate: float, x: Tensor, y: Tensor) -> tuple:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            losses = self.update(rate, x, y)
        return graph, (x, y), losses
