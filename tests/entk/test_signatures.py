"""The shapes in the signatures: they resolve, and what comes out has them."""

from __future__ import annotations

import inspect
import types
import typing

import pytest
import torch
from torch import Tensor, nn

import entk

METHODS = ("__matmul__", "__getitem__")
TORCH, X, Z = nn.Linear(3, 2), torch.randn(5, 3), torch.randn(4, 3)
K = entk.ntk(TORCH, X)
TRACE, ACROSS = entk.ntk(TORCH, X, outputs="trace"), entk.ntk(TORCH, Z, X, outputs="trace")
OPERATOR = entk.ntk_operator(TORCH, X, Z)


def functions() -> dict[str, types.FunctionType]:
    found = {}
    for name in entk.__all__:
        value = getattr(entk, name)
        if inspect.isfunction(value):
            found[name] = value
        elif inspect.isclass(value) and not issubclass(value, Exception):
            for own, method in vars(value).items():
                if inspect.isfunction(method) and (own in METHODS or not own.startswith("_")):
                    found[f"{name}.{own}"] = method
    return found


FUNCTIONS = functions()


def leaves(hint) -> typing.Iterator:
    """The types that a hint is put together from, tensors with their shapes as one."""
    arguments = typing.get_args(hint)
    if not arguments:
        yield hint
    for part in arguments:
        for each in part if isinstance(part, list) else [part]:
            yield from leaves(each)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hints_resolve_and_tell_shapes(name):
    hints = typing.get_type_hints(FUNCTIONS[name])
    free = {"states", "f"}  # state dicts, and functions of the user's
    plain = [key for key, hint in hints.items() if key not in free and Tensor in leaves(hint)]
    assert not plain


RESULTS = {
    **{f"ntk {o}": ("ntk", entk.ntk(TORCH, X, Z, outputs=o)) for o in ("all", "diagonal", "sum")},
    "ntk by layer": ("ntk", entk.ntk(TORCH, X, by_layer=True)),
    "jacobian": ("jacobian", entk.jacobian(TORCH, X)),
    "jacobian sum": ("jacobian", entk.jacobian(TORCH, X, outputs="sum")),
    "distances": ("kernel_distance_matrix", entk.kernel_distance_matrix([K, 2 * K])),
    "trajectory": (
        "trajectory_distances",
        entk.trajectory_distances(TORCH, [TORCH.state_dict()] * 2, X),
    ),
    "spectrum": ("spectrum", entk.spectrum(K)),
    "spectra": ("spectrum", entk.spectrum(entk.ntk(TORCH, X, outputs="diagonal"))),
    "rank": ("effective_rank", entk.effective_rank(K)),
    "operator": ("NTKOperator.__matmul__", OPERATOR @ torch.ones(8)),
    "operator, columns": ("NTKOperator.__matmul__", OPERATOR @ torch.ones(8, 3)),
    "operator, array": ("NTKOperator.__matmul__", OPERATOR @ torch.ones(8).numpy()),
    "transposed": ("NTKOperator.jacobian_transpose", OPERATOR.jacobian_transpose(torch.ones(10))),
    "linearised": ("LinearizedModel.forward", entk.linearize(TORCH)(X)),
    "density": (
        "SpectralDensity.smoothed",
        entk.spectral_density(TRACE).smoothed(torch.linspace(0, 1, 4), 0.1),
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_have_the_shapes_that_signatures_tell(name):
    function, result = RESULTS[name]
    hint = typing.get_type_hints(FUNCTIONS[function])["return"]
    assert fits(result, hint)
    assert not fits(as_integers(result), hint)


@pytest.mark.parametrize(
    "result",
    [
        entk.kernel_regression(TRACE, X[:, 0], ACROSS, ridge=0.1),
        entk.kernel_regression(TRACE, X, ACROSS, ridge=0.1),
        entk.linearised_predictions(TRACE, X, [0.0, 1.0, 2.0], k_test=ACROSS),
        entk.spectral_density(TRACE, steps=3, probes=2),
    ],
    ids=lambda r: type(r).__name__,
)
def test_fields_have_the_shapes_that_classes_tell(result):
    for name, hint in typing.get_type_hints(type(result)).items():
        assert fits(getattr(result, name), hint)


def fits(value, hint) -> bool:
    if isinstance(value, dict):
        kinds = [typing.get_args(h)[1] for h in options(hint) if typing.get_origin(h) is dict]
        return any(all(fits(v, kind) for v in value.values()) for kind in kinds)
    if isinstance(value, tuple):
        return all(map(fits, value, typing.get_args(hint)))
    return any(isinstance(value, h) for h in options(hint) if typing.get_origin(h) is None)


def options(hint) -> tuple:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def as_integers(result):
    """Of a type that no signature here promises."""
    if isinstance(result, dict):
        return {name: t.long() for name, t in result.items()}
    if isinstance(result, tuple):
        return tuple(t.long() for t in result)
    return result.astype(int) if not isinstance(result, Tensor) else result.long()
