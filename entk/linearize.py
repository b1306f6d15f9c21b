"""The first-order Taylor model around the current parameters, trainable like any module."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from entk.capture import check_state
from entk.inputs import parameter_names
from entk.models import Params, as_module, nest
from entk.samples import Select, output_tensor


def linearize(
    model: nn.Module | Callable, *, params: Params = None, select: Select | None = None
) -> LinearizedModel:
    """f_lin(x; w) = f(x; w0) + J(x; w0) (w - w0), where w0 are the model's parameters now.

    `params` names the parameters that may move (None: those with requires_grad; for a function, the
    dict of its tensors); the others and all buffers are frozen. `select` as for `ntk`. The model
    must be in eval mode and is copied, not touched. Its tangent kernel is the model's own at w0 and
    stays so in training.

    Source: Lee et al. 2019 (arXiv 1902.06720).

    >>> import torch, entk
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> linear = entk.linearize(model)
    >>> x = torch.randn(5, 3)
    >>> bool((linear(x) == model(x)).all())
    True
    """
    model, params = as_module(model, params, select)
    names = parameter_names(model, params)
    check_state(model)
    return LinearizedModel(model, names)


class LinearizedModel(nn.Module):
    """f(x; w0) + J(x; w0) (w - w0). `parameters()` are w, under the names they have in the model.

    w0 and the model's buffers are buffers here, so they move and are saved with it. `train()` has
    no effect on the model inside, which stays in eval mode. J v comes from forward mode where
    that agrees with reverse mode on the first samples seen, else from two reverse passes:
    forward mode is faster, but goes through no_grad and padding_idx, and some functions lack it.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        super().__init__()
        state = {n: p.detach().clone() for n, p in model.named_parameters()}
        state |= {n: b.detach().clone() for n, b in model.named_buffers()}
        self.mode: str | None = None  # "forward" or "reverse", found out at the first call
        self._names = names
        self._origin = nn.Module()
        for name, tensor in state.items():
            nest(self._origin, name, tensor)
        for name in names:
            nest(self, name, nn.Parameter(state[name].clone()))
        # in a tuple: not a submodule, whose parameters would be counted again
        self._model = (_without_data(model),)

    def forward(self, *args, **kwargs) -> Tensor:
        origin = dict(self._origin.named_buffers())
        now = dict(self.named_parameters())
        at = {name: origin[name] for name in self._names}
        move = {name: now[name] - origin[name] for name in self._names}

        def outputs(parameters: dict[str, Tensor], args: tuple, kwargs: dict) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):  # the fused ones lack second derivatives
                state = {**origin, **parameters}
                return output_tensor(functional_call(self._model[0], state, args, kwargs))

        if self.mode is None:
            few = tree_map_only(Tensor, lambda t: t[:2].detach() if t.dim() else t, (args, kwargs))
            self.mode = _choose_mode(lambda p: outputs(p, *few), at)
        return sum(MODES[self.mode](lambda p: outputs(p, args, kwargs), at, move))

    def extra_repr(self) -> str:
        return f"{len(self._names)} parameters, mode={self.mode}"


def _without_data(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are empty, tied ones still tied."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in model.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


def _forward_mode(outputs, at: dict[str, Tensor], move: dict[str, Tensor]) -> tuple:
    return jvp(outputs, (at,), (move,))


def _reverse_mode(outputs, at: dict[str, Tensor], move: dict[str, Tensor]) -> tuple:
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


MODES = {"forward": _forward_mode, "reverse": _reverse_mode}


def _choose_mode(outputs: Callable, at: dict[str, Tensor]) -> str:
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
