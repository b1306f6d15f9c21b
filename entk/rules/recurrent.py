"""Recurrent layers, unrolled: the same function from F.linear, whose rule then serves them.

A weight used at T steps is T uses of it, which concatenate along the positions: exact cross terms.
`UNROLLED` maps torch's fused functions to these; gates lie as torch has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor], State]  # (input gates, state, hidden gates) -> new state


def _lstm(given: Tensor, state: State, hidden: Tensor) -> State:
    i, f, g, o = (given + hidden).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(given: Tensor, state: State, hidden: Tensor) -> State:
    (r, z, n), (u, v, w) = given.chunk(3, -1), hidden.chunk(3, -1)
    z = torch.sigmoid(z + v)
    return ((1 - z) * torch.tanh(n + torch.sigmoid(r + u) * w) + z * state[0],)


def _plain(activation: Callable) -> Step:
    return lambda given, state, hidden: (activation(given + hidden),)


def _direction(step: Step, x: Tensor, state: State, weights: Sequence[Tensor], bias: bool):
    """Outputs [T, N, H] and the last state, over x [T, N, D]."""
    own, own_hidden, *rest = weights
    biases = (rest[0], rest[1]) if bias else (None, None)
    projection = rest[-1] if len(rest) == (3 if bias else 1) else None
    given = F.linear(x, own, biases[0])
    outputs = []
    for t in range(len(x)):
        state = step(given[t], state, F.linear(state[0], own_hidden, biases[1]))
        if projection is not None:
            state = (F.linear(state[0], projection), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs), state


def _layers(step: Step, states: int) -> Callable:
    def unrolled(
        x, hx, weights, bias, layers, dropout, train, bidirectional, batch_first
    ) -> tuple[Tensor, ...]:
        x = x.transpose(0, 1) if batch_first else x
        starts = hx if isinstance(hx, tuple | list) else (hx,)
        directions = 2 if bidirectional else 1
        each = len(weights) // (layers * directions)
        last: list[State] = []
        for layer in range(layers):
            if layer and dropout and train:
                x = F.dropout(x, dropout, training=True)
            found = []
            for d in range(directions):
                k = layer * directions + d
                own = weights[k * each : (k + 1) * each]
                state = tuple(s[k] for s in starts)
                y, state = _direction(step, x.flip(0) if d else x, state, own, bias)
                found.append(y.flip(0) if d else y)
                last.append(state)
            x = torch.cat(found, -1) if bidirectional else found[0]
        ends = tuple(torch.stack([state[i] for state in last]) for i in range(states))
        return (x.transpose(0, 1) if batch_first else x, *ends)

    return unrolled


def _cell(step: Step, states: int) -> Callable:
    def cell(x, hx, own, own_hidden, bias=None, bias_hidden=None):
        state = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        hidden = F.linear(state[0], own_hidden, bias_hidden)
        found = step(F.linear(x, own, bias), state, hidden)
        return found if states > 1 else found[0]

    return cell


_STEPS = {
    "lstm": (_lstm, 2),
    "gru": (_gru, 1),
    "rnn_tanh": (_plain(torch.tanh), 1),
    "rnn_relu": (_plain(torch.relu), 1),
}
UNROLLED: dict[Callable, Callable] = {
    **{getattr(torch, name): _layers(*how) for name, how in _STEPS.items()},
    **{getattr(torch, f"{name}_cell"): _cell(*how) for name, how in _STEPS.items()},
}


def is_plain(args: tuple) -> bool:
    """Packed sequences pass their batch sizes in second place, for which there is nothing here."""
    second = args[1] if len(args) > 1 else None
    return not (isinstance(second, Tensor) and not second.is_floating_point())
