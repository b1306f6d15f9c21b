"""J v of any model at given parameters, by forward mode where that is right, else by two reverses.

Forward mode is faster, but goes through no_grad and padding_idx, and some functions lack it, so it
is held against reverse mode on a few samples before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from entk.capture import check_finite, flat_outputs
from entk.errors import UnsupportedModelError
from entk.models import copied
from entk.precision import computing
from entk.samples import Samples, call_arguments

Tensors = dict[str, Tensor]
Outputs = Callable[[Tensors], Tensor]


def shell_of(
    model: nn.Module, state: Tensors | None = None, names: tuple[str, ...] = ()
) -> nn.Module:
    """A copy to be evaluated with other tensors in place of its own, tied ones still tied.

    Its own are those of `state`, of which `names` require grad: a checkpoint computes again with
    them when the call is over. Without a state they are empty.
    """
    memo = {}
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        own = torch.empty_like(t, device="meta") if state is None else state[name]
        if isinstance(t, nn.Parameter):
            own = nn.Parameter(own, requires_grad=name in names)
        memo[id(t)] = own
    return copied(model, memo)


def evaluate(shell: nn.Module, state: Tensors, args: tuple, kwargs: dict) -> Any:
    """What the model returns with `state` as its parameters and buffers.

    It works on copies of the buffers, for a forward pass may write into them.
    """
    buffers = {name: state[name].clone() for name, _ in shell.named_buffers()}
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones lack second derivatives
        return functional_call(shell, {**state, **buffers}, args, kwargs)


def _forward_mode(outputs: Outputs, at: Tensors, move: Tensors) -> tuple[Tensor, Tensor]:
    return jvp(outputs, (at,), (move,))


def _reverse_mode(outputs: Outputs, at: Tensors, move: Tensors) -> tuple[Tensor, Tensor]:
    """J v = d/du <J'u, v>: two reverse passes, and what autograd means by J."""
    with torch.enable_grad():
        leaves = {name: t.detach().requires_grad_() for name, t in at.items()}
        y = outputs(leaves)
        value = y.detach()
        if not y.requires_grad:
            return value, torch.zeros_like(value)
        u = torch.zeros_like(y, requires_grad=True)
        back = torch.autograd.grad(
            y, list(leaves.values()), u, create_graph=True, allow_unused=True
        )
        pairs = [(g, v) for g, v in zip(back, move.values(), strict=True) if g is not None]
        if not pairs:
            return value, torch.zeros_like(value)
        gradients, directions = zip(*pairs, strict=True)
        (change,) = torch.autograd.grad(gradients, u, directions, create_graph=True)
    return value, change


# name -> from (outputs, w0, v) to (f(w0), J v)
MODES = {"forward": _forward_mode, "reverse": _reverse_mode}


def choose_mode(outputs: Outputs, at: Tensors) -> str:
    """Forward mode if it gives the same J v as reverse mode in a random direction."""
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(t.shape, generator=generator, dtype=torch.float64, device="cpu").to(t)
        for name, t in at.items()
    }
    with torch.no_grad():
        outputs(at)  # what goes wrong here is no matter of derivatives
    try:
        exact = _reverse_mode(outputs, at, direction)[1].detach()
    except RuntimeError as error:
        raise UnsupportedModelError(
            "the model's backward pass cannot be differentiated, which J v needs "
            f"({str(error).partition(chr(10))[0]}); leave that part out, or form the kernel with "
            "entk.ntk"
        ) from error
    try:
        with torch.no_grad():
            found = _forward_mode(outputs, at, direction)[1]
    except RuntimeError:  # no forward derivative of some function
        return "reverse"
    close = (found - exact).norm() <= torch.finfo(exact.dtype).eps ** 0.5 * exact.norm()
    return "forward" if close else "reverse"


@dataclass(frozen=True, eq=False)
class Linearization:
    """A model at fixed parameters: its derivative J applied to columns from either side."""

    shell: nn.Module
    state: Tensors
    names: tuple[str, ...]
    o: int = 0  # outputs of a sample
    mode: str = "reverse"
    batch: int = 1

    @property
    def at(self) -> Tensors:
        return {name: self.state[name] for name in self.names}

    def outputs(self, parameters: Tensors, x: Tensor | Samples) -> Tensor:
        """[N, O] with `parameters` in place of the named ones."""
        state = {**self.state, **parameters}
        return flat_outputs(evaluate(self.shell, state, *call_arguments(x)), x)

    def leaves(self) -> Tensors:
        return {name: t.detach().requires_grad_() for name, t in self.at.items()}

    def transposed(self, x: Tensor | Samples, w: Tensor) -> Tensors:
        """Jᵀ w: {name: [k, *shape]} for w [N*O, k]."""
        columns = w.shape[1]
        w = w.view(len(x), self.o, columns)
        with computing():
            total = {name: t.new_zeros(columns, *t.shape) for name, t in self.at.items()}
        for part in self._batches(x):
            with computing():
                leaves = self.leaves()
                y = self.outputs(leaves, x[part])
                check_finite(y)
                for c in range(columns if y.requires_grad else 0):
                    more = c + 1 < columns
                    found = torch.autograd.grad(
                        y, list(leaves.values()), w[part, :, c], more, allow_unused=True
                    )
                    for name, g in zip(self.names, found, strict=True):
                        if g is not None:
                            total[name][c] += g
        return total

    def product(self, x: Tensor | Samples, u: Tensors) -> Tensor:
        """J u: [N*O, k] for u {name: [k, *shape]}."""
        columns = len(u[self.names[0]])
        out = self.state[self.names[0]].new_empty(len(x), self.o, columns)
        for part in self._batches(x):
            for c in range(columns):
                move = {name: t[c] for name, t in u.items()}
                with computing(), torch.no_grad():
                    _, change = MODES[self.mode](
                        lambda p, part=part: self.outputs(p, x[part]), self.at, move
                    )
                out[part, :, c] = change.detach()
        return out.flatten(0, 1)

    def _batches(self, x: Tensor | Samples) -> Iterator[slice]:
        for start in range(0, len(x), self.batch):
            yield slice(start, start + self.batch)
