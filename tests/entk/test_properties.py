"""Properties of kernels by definition, on random models, requests and plans.

Bounds are derived: two computed kernels are each within a known distance of the exact one, so they
are within its double of one another; and eigenvalues move by no more than the error does (Weyl).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import entk
import entk.shards
from entk.assemble import WHOLE, Engine
from entk.factors import OUTPUTS
from entk.request import prepare
from tests import oracle, tolerance
from tests.drawn import FIRST, models, options

DTYPES = st.sampled_from([torch.float64, torch.float32])


def examples(count: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        derandomize=True,
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=slow,
    )


@pytest.fixture(autouse=True, scope="module")
def _one_thread_and_a_shard_for_every_tile():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entk.shards, "SHARD_SECONDS", -1)
        yield
    torch.set_num_threads(threads)


def kernel(model: nn.Module, x: Tensor, z: Tensor | None, asked: dict, **others) -> Tensor:
    chosen = {"outputs": asked["outputs"], **others}
    return entk.ntk(model, x, z, plan=entk.plan_ntk(model, x, z, **asked, **others), **chosen)


def transposed(k: Tensor, outputs: str) -> Tensor:
    return k.permute(2, 3, 0, 1) if outputs == "all" else k.mT


def taken(k: Tensor, rows: list[int], columns: list[int], outputs: str) -> Tensor:
    if outputs == "all":
        return k[rows][:, :, columns]
    return k[..., rows, :][..., columns]


def agree(one: Tensor, two: Tensor) -> bool:
    """Both within FLOAT64 of the exact kernel."""
    assert one.dtype == two.dtype == torch.float64
    return tolerance.error(one, two) <= 2 * tolerance.FLOAT64


@pytest.mark.parametrize("first", FIRST, ids=lambda f: "-".join(filter(None, f)))
@examples(5)
@given(st.data(), options(), st.booleans())
def test_the_definition(first, data, asked, square):
    model, x, z = data.draw(models(first)).make()
    z = None if square else z
    expected = oracle.ntk(model, x, z, asked["outputs"])
    found = kernel(model, x, z, asked)
    assert found.shape == expected.shape
    assert tolerance.error(found, expected) <= tolerance.FLOAT64


@examples(30)
@given(models(), options(), DTYPES)
def test_symmetric_to_the_bit_and_positive_semidefinite(drawn, asked, dtype):
    model, x, _ = drawn.make(dtype)
    found = kernel(model, x, None, asked)
    outputs = asked["outputs"]
    assert torch.equal(found, transposed(found, outputs))
    exact = oracle.ntk(model, x, None, outputs)
    plain = oracle.ntk(model, x, None, outputs, dtype=dtype)
    bound = tolerance.limit(plain, exact) if dtype == torch.float32 else tolerance.FLOAT64
    square = found.double().flatten(2).flatten(0, 1) if outputs == "all" else found.double()
    least = torch.linalg.eigvalsh(square).min().item()
    assert least >= -bound * exact.norm().item()


class Interrupted(Exception):
    """Raised where the process is to stop."""


@examples(15)
@given(models(), options(), DTYPES, st.booleans(), st.data())
def test_a_resumed_file_and_any_order_of_tiles_have_the_same_bits(
    drawn, asked, dtype, square, data
):
    model, x, z = drawn.make(dtype)
    z, outputs = None if square else z, asked["outputs"]
    plan = entk.plan_ntk(model, x, z, **asked)
    straight = entk.ntk(model, x, z, outputs=outputs, plan=plan)
    engine = Engine(prepare(model, x, z, outputs, None), plan)
    tiles = {(i, j): t[WHOLE] for i, j, t in engine.tiles(plan.tiles())}
    order = data.draw(st.permutations(list(tiles)))
    for i, j, tile in (found for place in order for found in engine.tiles([place])):
        assert torch.equal(tile[WHOLE], tiles[i, j])
    stop = data.draw(st.integers(1, len(tiles)))

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise Interrupted

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.h5"
        with pytest.raises(Interrupted):
            entk.write_ntk(path, model, x, z, outputs=outputs, plan=plan, progress=interrupt)
        assert not path.exists()
        with entk.write_ntk(path, model, x, z, outputs=outputs, plan=plan) as file:
            assert torch.equal(file[:], straight.reshape(file.shape))


@examples(20)
@given(models(), options(), st.integers(1, 4), st.booleans())
def test_other_blocks_agree(drawn, asked, block, square):
    model, x, z = drawn.make()
    z = None if square else z
    assert agree(kernel(model, x, z, asked), kernel(model, x, z, asked | {"block": block}))


@examples(15)
@given(models(), options(), st.booleans())
def test_layers_add_up(drawn, asked, square):
    model, x, z = drawn.make()
    z = None if square else z
    layers = kernel(model, x, z, asked, by_layer=True)
    assert agree(sum(layers.values()), kernel(model, x, z, asked))


@examples(20)
@given(models(), options(), st.data())
def test_a_choice_of_parameters_and_the_others_add_up(drawn, asked, data):
    model, x, z = drawn.make()
    names = [name for name, _ in model.named_parameters()]
    chosen = data.draw(
        st.lists(st.sampled_from(names), min_size=1, max_size=len(names) - 1, unique=True)
    )
    others = [name for name in names if name not in chosen]
    parts = [kernel(model, x, z, asked, params=each) for each in (chosen, others)]
    assert agree(sum(parts), kernel(model, x, z, asked))


@examples(15)
@given(models(), options(), st.booleans())
def test_output_modes_are_parts_and_sums_of_the_whole(drawn, asked, square):
    model, x, z = drawn.make()
    z = None if square else z
    modes = {o: kernel(model, x, z, asked | {"outputs": o}) for o in OUTPUTS}
    scale = modes["all"].norm()
    for outputs in OUTPUTS:  # cancellation of outputs may leave less than what was added up
        expected = oracle.mode(modes["all"], outputs)
        count = modes["all"].shape[1]
        assert (modes[outputs] - expected).norm() <= 2 * count * tolerance.FLOAT64 * scale
    assert agree(modes["trace"], modes["diagonal"].sum(0))


@examples(20)
@given(models(), options(), st.data())
def test_parts_and_transposes_of_the_square(drawn, asked, data):
    model, x, z = drawn.make()
    outputs, every = asked["outputs"], range(len(x))
    order = data.draw(st.permutations(every))
    rows = order[: data.draw(st.integers(1, len(x)))]
    whole = kernel(model, x, None, asked)
    assert agree(kernel(model, x[order], None, asked), taken(whole, order, order, outputs))
    # a part may be far smaller than the whole, by whose size its error is measured
    part = kernel(model, x[rows], x, asked) - taken(whole, rows, list(every), outputs)
    assert part.norm() <= 2 * tolerance.FLOAT64 * whole.norm()
    assert agree(kernel(model, x, z, asked), transposed(kernel(model, z, x, asked), outputs))


class Scaled(nn.Module):
    def __init__(self, model: nn.Module, scale: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.scale


@examples(20)
@given(models(), options(), DTYPES, st.lists(st.integers(-3, 3), min_size=4, max_size=4))
def test_a_scaled_output_scales_its_rows_and_columns(drawn, asked, dtype, powers):
    """To the bit: products with powers of two are exact."""
    model, x, z = drawn.make(dtype)
    asked = asked | {"outputs": "all"}
    found = kernel(model, x, z, asked)
    scale = 2.0 ** torch.tensor(powers[: found.shape[1]], dtype=dtype)
    scaled = kernel(Scaled(model, scale), x, z, asked)
    assert torch.equal(scaled, found * scale[:, None, None] * scale)
