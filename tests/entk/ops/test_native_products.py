"""The products of the extension against their PyTorch definitions in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from entk.factors import OUTPUTS, Factors, kernel_shape
from entk.ops import native
from entk.ops.gram import fused_gram, gram
from entk.ops.pairs_gram import pairs_gram
from tests import tolerance

pytestmark = pytest.mark.skipif(
    native.why_not_products(torch.device("cpu"), torch.float32) is not None,
    reason="the extension is missing, or this processor has no AVX2",
)
DTYPES = [torch.float32, torch.float64]
# samples of x, of z, outputs, groups, channels, patch, positions of x, of z
SHAPES = {
    "one of each": (1, 1, 1, 1, 1, 1, 1, 1),
    "no positions": (9, 5, 3, 1, 7, 11, 1, 1),
    "no positions, many": (90, 70, 10, 1, 33, 65, 1, 1),
    "few positions": (17, 19, 10, 1, 5, 27, 4, 4),
    "two lengths": (3, 4, 2, 1, 5, 7, 6, 9),
    "groups": (5, 4, 3, 3, 2, 5, 7, 7),
    "groups without positions": (5, 4, 3, 3, 2, 5, 1, 1),
    "many positions": (2, 3, 2, 1, 3, 9, 400, 400),
    "wide": (4, 3, 10, 1, 64, 300, 16, 16),
    "many outputs": (2, 2, 37, 1, 40, 10, 9, 9),
}


def factors(n, o, groups, channels, patch, positions, dtype, layout="dense") -> Factors:
    if layout == "positions first":  # as the rule of F.linear makes them
        a = torch.randn(n, positions, patch, dtype=dtype).mT[:, None]
        return Factors(a, torch.randn(n, o, positions, channels, dtype=dtype).mT[:, :, None])
    if layout == "every second":  # of neither last axis the entries lie side by side
        a = torch.randn(n, groups, patch, 2 * positions, dtype=dtype)[..., ::2]
        return Factors(a, torch.randn(n, o, groups, channels, 2 * positions, dtype=dtype)[..., ::2])
    a = torch.randn(n, groups, patch, positions, dtype=dtype)
    return Factors(a, torch.randn(n, o, groups, channels, positions, dtype=dtype))


def double(f: Factors) -> Factors:
    return Factors(f.a if f.is_tokens else f.a.double(), f.g.double())


def triangle(out: torch.Tensor, outputs: str) -> torch.Tensor:
    """The part that `lower` promises."""
    n = out.shape[0] * out.shape[1] if outputs == "all" else out.shape[-2]
    return out.reshape(-1, n, n).tril() if outputs == "all" else out.tril()


def compare(fast, plain, x, z, outputs, lower, dtype):
    """Both are added to the same start; the fast one may be twice as far from the truth."""
    shape = kernel_shape(len(x.g), len(z.g), x.g.shape[1], outputs)
    start = torch.randn(shape, dtype=dtype)
    truth, reference, found = start.double(), start.clone(), start.clone()
    plain(double(x), double(z), truth, outputs, lower=lower)
    plain(x, z, reference, outputs, lower=lower)
    fast(x, z, found, outputs, lower=lower)
    if lower:
        truth, reference, found = (triangle(t, outputs) for t in (truth, reference, found))
    assert tolerance.error(found, truth) <= limit(reference, truth)


def limit(reference: torch.Tensor, truth: torch.Tensor) -> float:
    """In float64 the truth is rounded as well, and both are sums of up to 1e5 terms."""
    if reference.dtype == torch.float64:
        return 1e2 * torch.finfo(torch.float64).eps
    return tolerance.limit(reference, truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("fast", "plain"),
    [(native.pairs_gram_native, pairs_gram), (native.fused_gram_native, fused_gram)],
    ids=["pairs", "fused"],
)
def test_products_of_factors(fast, plain, name, outputs, lower, dtype):
    torch.manual_seed(0)
    n, m, o, groups, channels, patch, t, s = SHAPES[name]
    o = 1 if outputs == "sum" else o
    x = factors(n, o, groups, channels, patch, t, dtype)
    z = x if lower else factors(m, o, groups, channels, patch, s, dtype)
    compare(fast, plain, x, z, outputs, lower, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_pairs_gram_of_tokens(outputs, lower, dtype):
    torch.manual_seed(0)

    def tokens(n, t):
        return Factors(torch.randint(-1, 4, (n, t)), torch.randn(n, 3, 1, 5, t, dtype=dtype))

    x = tokens(6, 8)
    z = x if lower else tokens(4, 11)
    compare(native.pairs_gram_native, pairs_gram, x, z, outputs, lower, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("layout", ["positions first", "every second"])
def test_products_of_other_layouts(layout, outputs, dtype):
    torch.manual_seed(0)
    x = factors(5, 3, 1, 6, 7, 8, dtype, layout)
    z = factors(4, 3, 1, 6, 7, 8, dtype, layout)
    compare(native.pairs_gram_native, pairs_gram, x, z, outputs, False, dtype)
    compare(native.fused_gram_native, fused_gram, x, z, outputs, False, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 7, 40), (61, 45, 10, 777), (150, 9, 4, 16)])
def test_gram(shape, outputs, lower, dtype):
    torch.manual_seed(0)
    n, m, o, p = shape
    j = torch.randn(n, o, p, dtype=dtype)
    k = j if lower else torch.randn(m, o, p, dtype=dtype)

    def fast(x, z, out, outputs, lower):
        native.gram_native(x.g, z.g, out, outputs, lower=lower)

    def plain(x, z, out, outputs, lower):
        gram(x.g, z.g, out, outputs, lower=lower)

    compare(fast, plain, Factors(j, j), Factors(k, k), outputs, lower, dtype)


@pytest.mark.parametrize("step", [1, 2])
def test_gram_leaves_what_lies_beside_its_output_alone(step):
    j = torch.randn(20, 3, 50)[:, :, ::step]
    big = torch.full((3, 22, 25), torch.nan)
    out = big[:, 1:21, 2:22].zero_()
    native.gram_native(j, j, out, "diagonal")
    expected = torch.zeros(3, 20, 20)
    gram(j, j, expected, "diagonal")
    torch.testing.assert_close(out, expected)
    assert big.isnan().sum() == big.numel() - out.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["dense", "positions first", "every second"])
@pytest.mark.parametrize("name", SHAPES)
def test_rows(name, layout, dtype):
    torch.manual_seed(0)
    n, _, o, groups, channels, patch, t, _ = SHAPES[name]
    if layout == "positions first" and groups > 1:
        pytest.skip("no rule makes these")
    f = factors(n, o, groups, channels, patch, t, dtype, layout)
    truth, reference, found = double(f).rows(), f.rows(), native.rows_native(f)
    assert tolerance.error(found, truth) <= limit(reference, truth)


def test_threads_change_no_bit():
    x = factors(12, 10, 1, 32, 90, 16, torch.float32)
    j = x.rows()
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            pairs, rows = torch.zeros(12, 10, 12, 10), torch.zeros(12, 10, 12, 10)
            native.pairs_gram_native(x, x, pairs, "all")
            native.gram_native(j, j, rows, "all")
            fused = torch.zeros(12, 10, 12, 10)
            native.fused_gram_native(x, x, fused, "all")
            found.append((pairs, rows, fused, native.rows_native(x)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(300, 40), (2, 70, 40), (1, 200, 7, 40), (70, 5, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight, b = torch.randn(50, 40, dtype=dtype), torch.randn(50, dtype=dtype) if bias else None
    g = torch.randn(*shape[:-1], 50, dtype=dtype)

    def both(function, *inputs):
        y = function(*inputs)
        return y.detach(), torch.autograd.grad(y, inputs[0], g.to(y))[0]

    wide = [None if t is None else t.detach().double() for t in (x, weight, b)]
    truth = both(torch.nn.functional.linear, wide[0].requires_grad_(), *wide[1:])
    plain = both(torch.nn.functional.linear, x, weight, b)
    found = both(native.NativeLinear.apply, x, weight, b)
    for one, two, exact in zip(found, plain, truth, strict=True):
        assert tolerance.error(one, exact) <= limit(two, exact)


def test_linear_leaves_the_odd_to_pytorch():
    x, weight = torch.randn(300, 40), torch.randn(50, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert native.linear_native(x, weight).dtype == torch.bfloat16
    assert native.linear_native(x.half(), weight.half()).dtype == torch.float16
    with pytest.raises(RuntimeError, match="dtype"):
        native.linear_native(x.double(), weight)
    strided = native.linear_native(x.T.contiguous().T, weight.T.contiguous().T)
    torch.testing.assert_close(strided, torch.nn.functional.linear(x, weight))


def test_without_openmp_the_bits_are_the_same():
    """The library's own threads serve where torch's runtime cannot be borrowed."""
    program = """
import sys, torch
from entk.ops import native
if sys.argv[1] == "own":
    native._native.borrow_openmp("")
torch.set_num_threads(3)
torch.manual_seed(0)
from entk.factors import Factors
x = Factors(torch.randn(9, 1, 90, 16), torch.randn(9, 5, 1, 32, 16))
out = torch.zeros(3, 9, 5, 9, 5)
native.pairs_gram_native(x, x, out[0], "all")
native.fused_gram_native(x, x, out[1], "all")
j = native.rows_native(x)
native.gram_native(j, j, out[2], "all")
print(out.double().sum().item().hex(), native._native.borrowed())
"""
    found = {}
    for how in ("own", "borrowed"):
        command = [sys.executable, "-c", program, how]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[how] = done.stdout.split()
    assert found["own"][0] == found["borrowed"][0]
    assert found["own"][1] == "False"
    if sys.platform == "linux":
        assert found["borrowed"][1] == "True"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 3), (6, 11), (16, 31), (64, 64), (65, 3)])
def test_few_rows_of_great_depth(n, m, outputs, lower, dtype):
    """Threads share the depth of a product of at most 64 rows and columns."""
    torch.manual_seed(0)
    o = 1 if outputs in ("all", "sum") else 3
    j = torch.randn(n, o, 8195, dtype=dtype)
    k = j if lower else torch.randn(m, o, 8195, dtype=dtype)
    start = torch.randn(kernel_shape(n, len(k), o, outputs), dtype=dtype)
    truth, reference, found = start.double(), start.clone(), start.clone()
    gram(j.double(), k.double(), truth, outputs, lower=lower)
    gram(j, k, reference, outputs, lower=lower)
    native.gram_native(j, k, found, outputs, lower=lower)
    if lower:
        truth, reference, found = (triangle(t, outputs) for t in (truth, reference, found))
    assert tolerance.error(found, truth) <= limit(reference, truth)


@pytest.mark.parametrize("n", [4, 66])
def test_long_sums_do_not_drift(n):
    """Added up in one chain of blocks, sums of positive numbers are off by 2e-6 here."""
    torch.manual_seed(0)
    j = torch.rand(n, 1, 40_000_000 // n)
    truth = torch.zeros(n, n, dtype=torch.float64)
    for part in j.split(1 << 16, 2):
        gram(part.double(), part.double(), truth, "trace")
    found = torch.zeros(n, n)
    native.gram_native(j, j, found, "trace")
    assert ((found - truth).abs().max() / truth.max()).item() < 5e-7


@pytest.mark.parametrize(("n", "o", "channels"), [(4, 10, 256), (66, 2, 128)])
@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace"])
def test_long_sums_of_fused_rows_do_not_drift(n, o, channels, outputs):
    torch.manual_seed(0)
    x = Factors(torch.rand(n, 1, 9 * channels, 2), torch.rand(n, o, 1, channels, 2))
    truth = torch.zeros(kernel_shape(n, n, o, outputs), dtype=torch.float64)
    pairs_gram(double(x), double(x), truth, outputs)
    found = torch.zeros(truth.shape)
    native.fused_gram_native(x, x, found, outputs)
    assert ((found - truth).abs().max() / truth.max()).item() < 5e-7
