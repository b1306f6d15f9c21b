"""What goes into a model and what comes out of it: one tensor, or several in tuples and dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from entk.errors import InputError

Input = Shaped[Tensor, "N ..."] | Sequence[Any] | Mapping[str, Any]  # what a user passes as samples
Select = Callable[[Any], Any] | str | slice | Sequence[int]


@dataclass(frozen=True)
class Samples:
    """Several tensors with the samples along axis 0 of each, and whatever lies among them.

    Indexed, measured and moved as one tensor [N, ...] would be. A pytree node, whose leaves are the
    tensors: torch.func batches all of them.
    """

    tensors: list[Tensor]
    others: tuple[tuple[int, Any], ...]  # (place among the leaves, a leaf that is no tensor)
    tree: pytree.TreeSpec

    def map(self, function: Callable[[Tensor], Tensor]) -> Samples:
        return Samples([function(t) for t in self.tensors], self.others, self.tree)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index) -> Samples:
        return self.map(lambda t: t[index])

    def arguments(self) -> tuple[tuple, dict]:
        """(positional, keyword) of the model's call."""
        leaves = list(self.tensors)
        for place, leaf in self.others:
            leaves.insert(place, leaf)
        found = pytree.tree_unflatten(leaves, self.tree)
        return ((), found) if isinstance(found, dict) else (tuple(found), {})

    def paths(self) -> list[str]:
        """The place of each tensor, as one would write it behind the name of the whole."""
        args, kwargs = self.arguments()
        found = pytree.tree_flatten_with_path(kwargs or args)[0]
        return [pytree.keystr(path) for path, leaf in found if isinstance(leaf, Tensor)]


pytree.register_pytree_node(
    Samples,
    lambda s: (s.tensors, (s.others, s.tree)),
    lambda tensors, rest: Samples(list(tensors), *rest),
)


def as_samples(x: Any, label: str) -> Tensor | Samples:
    """A tensor as it is; a tuple or list as positional, a mapping as keyword arguments."""
    if isinstance(x, Tensor | Samples):
        return x
    x = _plain(x)
    if not isinstance(x, tuple | list | dict):
        raise InputError(
            f"{label} is {type(x).__name__}, expected a tensor [N, ...], or a tuple or dict of "
            "tensors, which the model gets as positional or keyword arguments"
        )
    odd = [key for key in x if not isinstance(key, str)] if isinstance(x, dict) else []
    if odd:
        raise InputError(f"{label} has the key {odd[0]!r}, expected names of the model's arguments")
    leaves, tree = pytree.tree_flatten(x)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        raise InputError(f"{label} holds no tensor, expected at least one with the samples")
    others = tuple((i, leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor))
    return Samples(tensors, others, tree)


def _plain(x: Any) -> Any:
    """Mappings of other kinds as dicts, however deep."""
    if isinstance(x, Mapping):
        return {key: _plain(value) for key, value in x.items()}
    if type(x) in (tuple, list):
        return type(x)(map(_plain, x))
    return x


def named_tensors(x: Tensor | Samples, label: str) -> dict[str, Tensor]:
    """{what an error calls it: tensor}."""
    if isinstance(x, Tensor):
        return {label: x}
    return {label + path: t for path, t in zip(x.paths(), x.tensors, strict=True)}


def map_tensors(x: Tensor | Samples, function: Callable[[Tensor], Tensor]) -> Tensor | Samples:
    return function(x) if isinstance(x, Tensor) else x.map(function)


def call_arguments(x: Tensor | Samples, traced: bool = False) -> tuple[tuple, dict]:
    """(positional, keyword) arguments, copied: a model may write into them.

    `traced`: what is computed from them shows in the graph.
    """

    def copied(t: Tensor) -> Tensor:
        t = t.clone() if t.is_inference() else t  # outside inference mode that can be traced
        trace = traced and t.is_floating_point()
        return t.detach().requires_grad_().clone() if trace else t.clone()

    return ((copied(x),), {}) if isinstance(x, Tensor) else x.map(copied).arguments()


def check_select(select: Select | None) -> None:
    sequence = isinstance(select, Sequence) and all(
        isinstance(i, int) and not isinstance(i, bool) for i in select
    )
    if select is None or callable(select) or isinstance(select, str | slice) or sequence:
        if sequence and len(select) == 0:
            raise InputError("select= is empty, expected at least one output")
        return
    raise InputError(
        f"select={select!r}, expected a function of the model's output, a name in it, or a slice "
        "or list of positions among the flattened outputs"
    )


def chosen_outputs(y: Any, select: Select | None) -> Any:
    """What `select` takes of the model's output: a tensor [N, ...], or what holds several."""
    if isinstance(select, str):
        try:
            return y[select] if isinstance(y, Mapping) else getattr(y, select)
        except (KeyError, AttributeError):
            raise InputError(
                f"select={select!r}: the model returned {type(y).__name__} without it"
            ) from None
    if callable(select):
        return select(y)
    if select is None:
        return y
    flat = output_tensor(y)
    index = select if isinstance(select, slice) else list(select)
    try:
        return flat.flatten(1)[:, index]
    except (IndexError, ValueError):  # out of range, or a negative step
        raise InputError(
            f"select={select!r}: the model has {flat[0].numel()} outputs per sample"
        ) from None


def output_tensor(y: Any) -> Tensor:
    """One tensor of outputs: itself, `.logits`, or all in a tuple or dict side by side, flat."""
    if isinstance(y, Tensor):
        return y
    logits = getattr(y, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    plain = type(y) in (tuple, list, dict) or (isinstance(y, tuple) and hasattr(y, "_fields"))
    leaves = pytree.tree_leaves(y) if plain else []
    tensors = [leaf for leaf in leaves if leaf is not None]
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise InputError(
            f"the model returned {type(y).__name__}, expected a tensor [N, ...], a tuple or dict "
            "of those, or an object with .logits; say which outputs with select="
        )
    ragged = {t.shape[0] if t.dim() else 0 for t in tensors}
    if len(ragged) > 1 or ragged == {0} or any(not t.is_floating_point() for t in tensors):
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in tensors)
        raise InputError(
            f"the model returned {type(y).__name__} with {shapes}, expected floating-point "
            "tensors with the samples along axis 0 of each; say which outputs with select="
        )
    return torch.cat([t.flatten(1) if t.dim() > 1 else t[:, None] for t in tensors], 1)
