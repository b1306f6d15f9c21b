"""The first-order Taylor model around the current parameters, trainable like any module."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from entk.capture import check_state
from entk.inputs import parameter_names
from entk.models import Params, as_module, nest
from entk.samples import Select, output_tensor
from entk.tangent import MODES, choose_mode, evaluate, shell_of


def linearize(
    model: nn.Module | Callable,
    *,
    params: Params = None,
    select: Select | None = None,
    offset: bool = True,
) -> LinearizedModel:
    """f_lin(x; w) = f(x; w0) + J(x; w0) (w - w0), where w0 are the model's parameters now.

    `params` names the parameters that may move (None: those with requires_grad; for a function, the
    dict of its tensors); the others and all buffers are frozen. `select` as for `ntk`. The model
    must be in eval mode and is copied, not touched. Its tangent kernel is the model's own at w0 and
    stays so in training. Without `offset` it is J(x; w0) (w - w0) alone, which starts from 0.

    Raises InputError and ModelStateError as `ntk`; the first call UnsupportedModelError, where the
    model's backward pass has no derivative (`nn.EmbeddingBag`, checkpoints).

    Source: Lee et al. 2019 (arXiv 1902.06720); without offset: Ortiz-Jimenez et al. 2021
    (arXiv 2106.06770).

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
    return LinearizedModel(model, names, offset)


class LinearizedModel(nn.Module):
    """f(x; w0) + J(x; w0) (w - w0), the first term if it has an offset. `parameters()` are w, under
    the names they have in the model.

    w0 and the model's buffers are buffers here, so they move and are saved with it. `train()` has
    no effect on the model inside, which stays in eval mode. J v comes from forward mode where
    that agrees with reverse mode on the first samples seen, else from two reverse passes.
    `linearize` makes it.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], offset: bool = True):
        super().__init__()
        state = {n: p.detach().clone() for n, p in model.named_parameters()}
        state |= {n: b.detach().clone() for n, b in model.named_buffers()}
        self.mode: str | None = None  # "forward" or "reverse", found out at the first call
        self._names = names
        self._offset = offset
        self._origin = nn.Module()
        for name, tensor in state.items():
            nest(self._origin, name, tensor)
        for name in names:
            nest(self, name, nn.Parameter(state[name].clone()))
        # in a tuple: not a submodule, whose parameters would be counted again
        self._model = (shell_of(model),)

    def forward(self, *args, **kwargs) -> Float[Tensor, " N *outputs"]:
        """f_lin at what the model takes: one tensor of outputs, as `ntk` sees them."""
        origin = dict(self._origin.named_buffers())
        now = dict(self.named_parameters())
        at = {name: origin[name] for name in self._names}
        move = {name: now[name] - origin[name] for name in self._names}

        def outputs(parameters: dict[str, Tensor], args: tuple, kwargs: dict) -> Tensor:
            args, kwargs = tree_map_only(Tensor, Tensor.clone, (args, kwargs))
            state = {**origin, **parameters}
            return output_tensor(evaluate(self._model[0], state, args, kwargs))

        if self.mode is None:
            few = tree_map_only(Tensor, lambda t: t[:2].detach() if t.dim() else t, (args, kwargs))
            self.mode = choose_mode(lambda p: outputs(p, *few), at)
        value, change = MODES[self.mode](lambda p: outputs(p, args, kwargs), at, move)
        return value + change if self._offset else change

    def extra_repr(self) -> str:
        return f"{len(self._names)} parameters, mode={self.mode}, offset={self._offset}"
