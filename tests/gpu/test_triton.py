"""The Triton kernels on a GPU; run by `make gpu`. On the CPU see tests/entk/ops."""

from __future__ import annotations

import pytest
import torch

import entk
from entk.factors import OUTPUTS, kernel_shape
from entk.ops import PRECISIONS, products
from entk.ops.gram_dot import gram_dot, gram_dot_torch
from tests import emulation, oracle, tolerance
from tests.cases import CASES
from tests.gpu.test_cuda import LAYOUTS as MATRICES
from tests.gpu.test_cuda import cnn
from tests.twins import (
    LAYOUTS,
    MODES,
    SIZES,
    Size,
    check_fused_gram_dot,
    check_gram,
    check_pairs_gram,
    factors,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
BY_NAME = {case.name: case for case in CASES}
KINDS = [(torch.float32, p) for p in PRECISIONS["triton"]] + [(torch.float64, "ieee")]
kinds = pytest.mark.parametrize(("dtype", "precision"), KINDS, ids=str)
lowers = pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
LARGE = {
    "a layer of VGG": Size(4, 3, 10, 1, 64, 288, 64, 64),
    "a patch embedding": Size(3, 3, 10, 1, 192, 48, 196, 196),
    "many outputs": Size(2, 2, 100, 1, 16, 64, 49, 49),
}
# of six factors in a row, as in `pairs_gram` for all outputs: what each precision leaves of 1
UNIT = {"tf32": 2**-10, "bf16x3": 2**-16, "tf32x3": 2**-20, "bf16x6": 2**-23, "ieee": 0}


def test_it_is_there():
    assert entk.backends()["triton"] == "ok"


@kinds
@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1), (5, 3, 2, 7), (130, 70, 3, 1100), (700, 600, 1, 5000)]
)
@lowers
@pytest.mark.parametrize("outputs", MODES)
def test_gram(outputs, lower, size, dtype, precision):
    check_gram(size, outputs, lower, dtype, precision=precision, device="cuda")


@pytest.mark.parametrize("layout", LAYOUTS)
@lowers
@pytest.mark.parametrize("outputs", MODES)
def test_gram_layouts(outputs, lower, layout):
    check_gram((37, 35, 3, 200), outputs, lower, layout=layout, device="cuda")


@pytest.mark.parametrize("precision", PRECISIONS["triton"])
def test_long_sums_do_not_drift(precision):
    """A million positive terms: sums that are cut off instead of rounded fall short."""
    j = torch.rand(8, 1, 1 << 20, device="cuda")
    found, plain = torch.zeros(2, 8, 8, device="cuda")
    products("triton", precision)[0](j, j, found, "trace")
    products("torch", "ieee")[0](j, j, plain, "trace")
    emulated = emulation.gram(j, j, "trace", precision)
    truth = emulation.gram(j, j, "trace", "ieee")
    chain = 2 * 1024 * torch.finfo(torch.float32).eps / 2  # sums of 1024, of which there are 1024
    bound = chain + emulation.limit(emulated, plain, truth, precision)
    assert tolerance.error(found, truth) <= bound


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < 24e9, reason="needs 24 GB"
)
def test_a_jacobian_of_more_than_2_31_entries():
    j = torch.ones(3, 1, 900_000_001, device="cuda")
    j[2, 0, -1] = 3
    out = torch.zeros(3, 3, device="cuda")
    products("triton", "ieee")[0](j, j, out, "trace")
    expected = torch.full((3, 3), 9e8, device="cuda")
    assert tolerance.error(out, expected.double()) <= 1e-6
    products("triton", "ieee")[0](j.mT.contiguous().mT, j, out, "trace")
    assert tolerance.error(out, 2 * expected.double()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES)
@lowers
@pytest.mark.parametrize("outputs", MODES)
def test_pairs_gram(outputs, lower, size, dtype):
    check_pairs_gram(SIZES[size], outputs, lower, dtype, device="cuda")


@kinds
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("outputs", MODES)
def test_pairs_gram_of_layers(outputs, size, dtype, precision):
    check_pairs_gram(LARGE[size], outputs, False, dtype, precision=precision, device="cuda")


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("size", ["plain", "two lengths", "one position", "one output"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("outputs", MODES)
def test_pairs_gram_layouts(outputs, layout, size, tokens):
    layout = "dense" if tokens and layout == "negated" else layout
    check_pairs_gram(SIZES[size], outputs, tokens=tokens, layout=layout, device="cuda")


@pytest.mark.parametrize("outputs", MODES)
def test_nothing_but_out_is_in_memory(outputs):
    x = factors(3, 10, 1, 64, 288, 1024, device="cuda")
    out = torch.zeros(kernel_shape(3, 3, 10, outputs), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    products("triton", "ieee")[1](x, x, out, outputs)
    assert torch.cuda.max_memory_allocated() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 7), (257, 259), (3000, 1001)], ids=str)
@pytest.mark.parametrize("right", MATRICES)
@pytest.mark.parametrize("left", MATRICES)
def test_inner_products(left, right, shape, dtype):
    a, b = MATRICES[left](*shape, dtype), MATRICES[right](*shape, dtype)
    found = gram_dot(a, b, backend="triton")
    exact = gram_dot_torch(a.cpu(), b.cpu())
    size = (a.double() * b).abs().sum(), a.double().square().sum(), b.double().square().sum()
    bound = 2 * (a.numel() + 1) * torch.finfo(torch.float64).eps * torch.stack(size)
    assert ((found.cpu() - exact).abs() <= bound.cpu()).all()
    assert torch.equal(found, gram_dot(a, b, backend="triton"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, (1,)), (130, 70, 3, (1100, 7)), (600, 500, 2, (5000,))])
@lowers
@pytest.mark.parametrize("outputs", MODES)
def test_fused_gram_dot(outputs, lower, size, dtype):
    check_fused_gram_dot(size, outputs, lower, dtype, device="cuda")


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_distance_of_models(outputs):
    one, two, x = cnn(), cnn(), torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        for p in two.parameters():
            p.mul_(1 + 0.1 * torch.randn_like(p))
    kernels = [oracle.ntk(m, x, None, outputs) for m in (one, two)]
    found = entk.kernel_distance(
        one.cuda(), two.cuda(), x.cuda(), outputs=outputs, backend="triton"
    )
    assert found == pytest.approx(entk.kernel_distance(*kernels), rel=1e-4)


@pytest.mark.parametrize("strategy", ["rows", "pairs"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_ntk_float64(name, outputs, strategy):
    model, x, z = BY_NAME[name].make()
    expected = oracle.ntk(model, x, z, outputs)
    model, x, z = model.cuda(), x.cuda(), z.cuda()
    options = {"outputs": outputs, "strategy": strategy, "block": 2, "backend": "triton"}
    plan = entk.plan_ntk(model, x, z, **options)
    found = entk.ntk(model, x, z, outputs=outputs, plan=plan)
    assert tolerance.error(found.cpu(), expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("strategy", ["rows", "pairs"])
@pytest.mark.parametrize("precision", PRECISIONS["triton"])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_ntk_float32(outputs, precision, strategy):
    model, x = cnn(), torch.randn(6, 3, 32, 32)
    exact = oracle.ntk(model, x, None, outputs)
    plain = oracle.ntk(model, x, None, outputs, dtype=torch.float32)
    model, x = model.cuda(), x.cuda()
    options = {"strategy": strategy, "backend": "triton", "precision": precision}
    plan = entk.plan_ntk(model, x, outputs=outputs, **options)
    found = entk.ntk(model, x, outputs=outputs, plan=plan)
    bound = tolerance.limit(plain, exact) + 6 * UNIT[precision]
    assert tolerance.error(found.cpu(), exact) <= bound
    assert torch.equal(found, entk.ntk(model, x, outputs=outputs, plan=plan))
