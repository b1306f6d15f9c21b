"""Fused functions that are followed step by step, from functions whose rules then serve them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from entk.rules import attention, recurrent

UNROLLED: dict[Callable, Callable] = recurrent.UNROLLED | attention.UNROLLED
CONDITIONS: dict[Callable, Callable] = attention.CONDITIONS


def tensors_of(arguments: Any) -> list[Tensor]:
    """All tensors among a function's arguments, those in its lists too."""
    return [t for t in tree_leaves(arguments) if isinstance(t, Tensor)]


def unrollable(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether the step-by-step form has all that this call asks for."""
    condition = CONDITIONS.get(func)
    return recurrent.is_plain(args) if condition is None else condition(*args, **kwargs)
