"""Identities between output modes, parts of the outputs and states, after other projects' tests."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

import entk
from tests import oracle, tolerance
from tests.cases import Fn, of
from tests.ported import neural_tangents, torchjd

IMAGE = (2, 2, 2)  # axes of the outputs of one sample: C, H, W
LETTERS = "abc"


def image_model() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    case = next(c for c in neural_tangents.CASES if c.name == "image_of_logits")
    return case.make()


def part(model: nn.Module, fixed: dict[int, int]) -> nn.Module:
    """The outputs at these indices of the fixed axes."""
    index = (slice(None), *(fixed.get(axis, slice(None)) for axis in range(3)))
    return Fn(lambda s, x: s.model(x)[index], model=model).eval()


@pytest.mark.parametrize("roles", list(product(("keep", "diagonal", "trace"), repeat=3)), ids=str)
def test_diagonal_and_trace_axes(roles):
    """Any axes kept, any on the diagonal, any traced, as `diagonal_axes` and `trace_axes` of
    Neural Tangents (tests/empirical_test.py, Apache-2.0), from kernels of parts of the outputs."""
    model, x, z = image_model()
    full = oracle.ntk(model, x, z).view(len(x), *IMAGE, len(z), *IMAGE)
    left = LETTERS
    right = "".join(
        c.upper() if role == "keep" else c for c, role in zip(LETTERS, roles, strict=True)
    )
    axes = {
        wanted: [axis for axis, role in enumerate(roles) if role == wanted]
        for wanted in ("keep", "diagonal", "trace")
    }
    kept, fixed = ([LETTERS[a] for a in axes[role]] for role in ("keep", "diagonal"))
    out = "".join([*fixed, "n", *kept, "m", *map(str.upper, kept)])
    expected = torch.einsum(f"n{left}m{right}->{out}", full)

    found = []
    for indices in product(*(range(IMAGE[a]) for a in axes["diagonal"])):
        some = part(model, dict(zip(axes["diagonal"], indices, strict=True)))
        if not kept:
            found.append(entk.ntk(some, x, z, outputs="trace"))
            continue
        sizes = [IMAGE[a] for a in range(3) if a not in axes["diagonal"]]
        kernel = entk.ntk(some, x, z).view(len(x), *sizes, len(z), *sizes)
        names = [(c, C) for c, C in zip(left, right, strict=True) if c not in fixed]
        before, after = ("".join(column) for column in zip(*names, strict=True))
        free = "".join(["n", *kept, "m", *map(str.upper, kept)])
        found.append(torch.einsum(f"n{before}m{after}->{free}", kernel))
    sizes = [IMAGE[a] for a in axes["diagonal"]]
    stacked = torch.stack(found).view(*sizes, *found[0].shape)
    assert stacked.shape == expected.shape
    assert tolerance.error(stacked, expected) <= tolerance.FLOAT64


def test_parts_add_up():
    """Of the whole: the diagonal is that of its parts, the trace and the sum over parts agree."""
    model, x, z = image_model()
    pixels = [part(model, {1: h, 2: w}) for h, w in product(range(2), repeat=2)]
    trace = sum(entk.ntk(p, x, z, outputs="trace") for p in pixels)
    assert tolerance.error(trace, entk.ntk(model, x, z, outputs="trace")) <= tolerance.FLOAT64
    diagonal = torch.stack([entk.ntk(p, x, z, outputs="diagonal") for p in pixels], 1).flatten(0, 1)
    assert tolerance.error(diagonal, entk.ntk(model, x, z, outputs="diagonal")) <= tolerance.FLOAT64


@pytest.mark.parametrize("layer", list(torchjd.FORK))
def test_groups_of_parameters_sum_to_the_whole(layer):
    """After TorchJD's test of partial Gramians (tests/unit/autogram/test_engine.py, MIT)."""
    model = torchjd.fn(torchjd.fork, **torchjd.FORK)().double().eval()
    x = torch.randn(4, 9, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    inside = [name for name in names if name.startswith(layer)]
    rest = [name for name in names if name not in inside]
    both = entk.ntk(model, x, params=inside) + entk.ntk(model, x, params=rest)
    assert tolerance.error(both, entk.ntk(model, x)) <= tolerance.FLOAT64


def test_side_effects_do_not_reach_the_model():
    """TorchJD runs a model once more and doubles them (tests/unit/autogram/test_engine.py, MIT)."""
    model = torchjd.Counting(0.0).eval()
    entk.ntk(model, torch.randn(5, 4))
    entk.jacobian(model, torch.randn(5, 4))
    assert not model.passes.any()


@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 3, 1, 1), (2, 6), (3, 2, 2), (12,), (1, 12)], ids=str
)
def test_the_shape_of_outputs_does_not_matter(shape):
    """After TorchJD's test of reshaped outputs (tests/unit/autogram/test_engine.py, MIT)."""
    flat = of(nn.Linear, 5, 12)().double().eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    shaped = Fn(lambda s, x: s.f(x).view(-1, *shape), f=flat).eval()
    assert torch.equal(entk.ntk(shaped, x), entk.ntk(flat, x))
    last = Fn(lambda s, x: s.f(x).view(len(x), 3, 4).mT, f=flat).eval()
    order = torch.arange(12).view(3, 4).mT.flatten()
    permuted = entk.ntk(flat, x)[:, order][..., order]
    assert tolerance.error(entk.ntk(last, x), permuted) <= tolerance.FLOAT64
