"""A case taken over from another project's tests: the model, its samples, what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from entk.factors import OUTPUTS
from tests.cases import Case

STRATEGIES = ("rows", "pairs", "fused")


@dataclass(frozen=True)
class Leaf:
    """One tensor of a sample that is a tree: its shape, and a bound if it holds integers."""

    shape: tuple[int, ...]
    tokens: int = 0


def size(*shape: int, tokens: int = 0) -> Leaf:
    return Leaf(shape, tokens)


@dataclass(frozen=True)
class Ported(Case):
    """`sample` is a shape, or with pytree=True a dict, list or tuple of `size(...)`."""

    sample: Any
    n: int = 3
    m: int = 2
    modes: tuple[str, ...] = OUTPUTS
    strategies: tuple[str, ...] = STRATEGIES
    params: tuple[str, ...] | None = None
    pytree: bool = False
    float32: bool = True  # too large to run the loop twice more, if not

    def packed(self) -> Ported:
        """The same numbers through a model of one tensor that returns one tensor."""
        build, sample = self.build, self.sample
        width = sum(prod(leaf.shape) for leaf in leaves(sample))
        names = self.params and tuple(f"model.{name}" for name in self.params)
        return replace(
            self,
            name=f"{self.name}_packed",
            build=lambda: Packed(build(), sample),
            sample=(width,),
            params=names,
            pytree=False,
        )

    def natural(self) -> tuple[nn.Module, Any, Any]:
        """(model, x, z) as `make`, the samples as trees."""
        model, x, z = self.packed().make()
        return model.model, unpack(self.sample, x), unpack(self.sample, z)


def tree_map(f: Callable, tree: Any) -> Any:
    if isinstance(tree, MutableMapping):
        return type(tree)({key: tree_map(f, value) for key, value in tree.items()})
    if type(tree) in (list, tuple):
        return type(tree)(tree_map(f, value) for value in tree)
    return f(tree)


def leaves(tree: Any) -> list:
    found: list = []
    tree_map(found.append, vars(tree) if hasattr(tree, "logits") else tree)
    return found


def unpack(sample: Any, x: Tensor) -> Any:
    """The tree of tensors [N, *shape] whose elements stand in the columns of x [N, D]."""
    parts = iter(x.split([prod(leaf.shape) for leaf in leaves(sample)], 1))

    def take(leaf: Leaf) -> Tensor:
        part = next(parts).reshape(len(x), *leaf.shape)
        return part.abs().long() % leaf.tokens if leaf.tokens else part

    return tree_map(take, sample)


class Packed(nn.Module):
    """Of one tensor [N, D] of all inputs, returns one tensor [N, O] of all floating outputs."""

    def __init__(self, model: nn.Module, sample: Any):
        super().__init__()
        self.model, self.sample = model, sample

    def forward(self, x: Tensor) -> Tensor:
        found = leaves(self.model(unpack(self.sample, x)))
        return torch.cat([y.reshape(len(x), -1) for y in found if isinstance(y, Tensor)], 1)


@dataclass(frozen=True)
class Refused:
    """A model without a per-sample Jacobian, left in training mode if it is; the error it gets."""

    name: str
    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    error: type[Exception]
    text: str
