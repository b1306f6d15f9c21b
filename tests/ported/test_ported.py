"""`entk.ntk` and `entk.jacobian` on the hard cases of other projects, against the float64 loop."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import entk
from tests import oracle, tolerance
from tests.ported import count, tables
from tests.ported.curvlinops import Called

BY_NAME = {case.name: case for case in tables.CASES}
TREES = {case.name: case for case in tables.PYTREES}
REFUSED = {case.name: case for case in tables.REFUSED}
COMBINATIONS = [(case.name, *way) for case, *way in tables.COMBINATIONS]
SMALL = [case.name for case in tables.CASES if case.float32]


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def truth(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The full kernels between x and x, and between x and z."""
    case = BY_NAME[name]
    model, x, z = case.make()
    both = oracle.ntk(model, torch.cat([x, z]), params=case.params)
    return both[: case.n, :, : case.n], both[: case.n, :, case.n :]


@pytest.mark.parametrize(("name", "outputs", "strategy"), COMBINATIONS)
def test_float64(name, outputs, strategy):
    case = BY_NAME[name]
    model, x, z = case.make()
    options = {"outputs": outputs, "params": case.params}
    plan = entk.plan_ntk(model, x, z, **options, strategy=strategy, block=2)
    found = entk.ntk(model, x, z, **options, plan=plan)
    expected = oracle.mode(truth(name)[1], outputs)
    assert found.shape == expected.shape
    assert found.dtype == torch.float64
    assert tolerance.error(found, expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("name", BY_NAME)
def test_square(name):
    """Planned freely and layer by layer: exactly symmetric, and together the kernel."""
    case = BY_NAME[name]
    model, x, _ = case.make()
    outputs = "all" if "all" in case.modes else case.modes[0]
    layers = entk.ntk(model, x, outputs=outputs, params=case.params, by_layer=True)
    for found in layers.values():
        assert torch.equal(found, found.permute(2, 3, 0, 1) if outputs == "all" else found.mT)
    expected = oracle.mode(truth(name)[0], outputs)
    assert tolerance.error(sum(layers.values()), expected) <= tolerance.FLOAT64


def by_products(jacobians) -> torch.Tensor:
    rows = [j.flatten(2) if j.dim() > 2 else j[..., None] for j in jacobians]
    return sum(torch.einsum("nop,mqp->nomq", j, j) for j in rows)


def one_by_one(jacobians) -> torch.Tensor:
    """Each sum as one chain of additions; the inner loop of a matrix product is such a chain.

    Where terms are alike (of a constant padding, say) all roundings of a chain go the same way.
    """
    found = 0
    for j in jacobians:
        j = j.flatten(2) if j.dim() > 2 else j[..., None]
        total = j.new_zeros(*j.shape[:2], *j.shape[:2])
        for column in j.unbind(2):
            total.addcmul_(column[:, :, None, None], column)
        found = found + total
    return found


@pytest.mark.parametrize("name", SMALL)
def test_float32(name):
    """At most twice the error of the plain loop on the same numbers, in the worse of two orders."""
    case = BY_NAME[name]
    model, x, _ = case.make(torch.float32)
    model, x = model.float(), (x.float() if x.is_floating_point() else x)[:2]
    exact = oracle.ntk(model, x, params=case.params)
    rows = oracle.jacobian(model, x, case.params, torch.float32).values()
    limit = max(tolerance.limit(f(rows), exact) for f in (by_products, one_by_one))
    found = entk.ntk(model, x, params=case.params)
    assert found.dtype == torch.float32
    assert tolerance.error(found, exact) <= limit


@pytest.mark.parametrize("name", SMALL)
def test_jacobian(name):
    case = BY_NAME[name]
    model, x, _ = case.make()
    expected = oracle.jacobian(model, x[:2], case.params)
    found = entk.jacobian(model, x[:2], params=case.params)
    assert list(found) == list(expected)
    whole = torch.cat([j.flatten() for j in expected.values()]).norm()
    for parameter, j in expected.items():
        assert found[parameter].shape == j.shape
        # against all of J: the exact gradient of a bias before a normalisation is zero
        assert (found[parameter] - j).norm() <= tolerance.FLOAT64 * whole


@pytest.mark.parametrize("name", TREES)
def test_trees(name):
    """As they are, one argument each: what the packed model of the same numbers says."""
    model, x, z = TREES[name].natural()
    x, z = (t if isinstance(t, torch.Tensor) else (t,) for t in (x, z))
    options = {"params": dict(model.dict)} if isinstance(model, Called) else {}
    found = entk.ntk(model.function if options else model, x, z, **options)
    assert tolerance.error(found, truth(f"{name}_packed")[1]) <= tolerance.FLOAT64


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    case = REFUSED[name]
    x = torch.randn(4, *case.sample)
    for call in (entk.ntk, entk.jacobian):
        with pytest.raises(case.error, match=case.text):
            call(case.build(), x)


def test_number_of_combinations():
    assert len(tables.COMBINATIONS) >= 300
    assert count.lines()[-1].endswith(f"{len(tables.COMBINATIONS)} combinations")


def test_names_are_unique():
    found = [case.name for case in (*tables.CASES, *tables.PYTREES, *tables.REFUSED)]
    assert len(found) == len(set(found))
