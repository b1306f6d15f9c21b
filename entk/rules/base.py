"""What a rule is, and the table from torch functions to rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from entk.factors import Factors

Arguments = dict[str, Any]
Rows = Callable[[Tensor], Tensor]
Empty = Callable[[tuple[int, ...], Tensor], Tensor]  # a shape, and a tensor that it is like
RULES: dict[Callable, Rule] = {}


@dataclass(frozen=True)
class Rule:
    """How one family of torch functions contributes to the kernel.

    In every function below, `x` is the call's input and `g` its output gradients with the samples
    first: [N, ...] and [N, O, ...]; `arguments` are the call's arguments by name; `empty` allocates
    what `factors` copy. `rows` are linear
    maps: of `arguments` and `x` they make the function from g to J [N, O, P].
    """

    name: str
    arguments: tuple[str, ...]  # names in positional order
    factors: dict[str, Callable[[Arguments, Tensor, Tensor, Empty], Factors]] = field(
        default_factory=dict
    )
    rows: dict[str, Callable[[Arguments, Tensor], Rows]] = field(default_factory=dict)
    serves: Callable[[Arguments], bool] = lambda arguments: True
    needs_input: tuple[str, ...] = ("weight",)  # roles whose rows depend on the call's input
    commutes: bool = False  # "input" and "other" can change places
    transposed: bool = False  # the parameter lies as [K, C] where factors give [C, K]
    batch_first: bool = False  # only axis 0 of the input can hold the samples
    function: Callable | None = None  # called by name in place of one that takes no names

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.factors, *self.rows)

    def bind(self, args: tuple, kwargs: dict) -> Arguments:
        return {**dict(zip(self.arguments, args, strict=False)), **kwargs}


def plain_empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_empty(shape)


def register(rule: Rule, *functions: Callable) -> None:
    for function in functions:
        RULES[function] = rule


def over_positions(g: Tensor) -> Tensor:
    """Sum g [N, O, C, ...] over its positions: the rows of a bias, [N, O, C]."""
    return g.flatten(3).sum(3) if g.dim() > 3 else g
