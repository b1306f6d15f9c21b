"""J v of any model at given parameters, by forward mode where that is right, else by two reverses.

Forward mode is faster, but goes through no_grad and padding_idx, and some functions lack it, so it
is held against reverse mode on a few samples before it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = dict[str, Tensor]
Outputs = Callable[[Tensors], Tensor]


def without_data(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are empty, tied ones still tied."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in model.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


def evaluate(shell: nn.Module, state: Tensors, x: Tensor) -> Tensor:
    """What the model returns with `state` as its parameters and buffers.

    It works on copies of x and of the buffers, for a forward pass may write into both.
    """
    buffers = {name: state[name].clone() for name, _ in shell.named_buffers()}
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones lack second derivatives
        return functional_call(shell, {**state, **buffers}, (x.clone(),))


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
        name: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t)
        for name, t in at.items()
    }
    exact = _reverse_mode(outputs, at, direction)[1].detach()
    try:
        with torch.no_grad():
            found = _forward_mode(outputs, at, direction)[1]
    except RuntimeError:  # no forward derivative of some function
        return "reverse"
    close = (found - exact).norm() <= torch.finfo(exact.dtype).eps ** 0.5 * exact.norm()
    return "forward" if close else "reverse"
