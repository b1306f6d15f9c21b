import ctypes
import shutil
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entk.errors import BackendUnavailableError, InputError
from entk.ops import native
from entk.ops.gram_dot import gram_dot, gram_dot_torch

ROOT = Path(__file__).parents[3]
BACKENDS = ("torch", "native")
PAIRS = ((0, 1), (0, 0), (1, 1))

# 300 x 700 is more than one chunk of 2^16 entries, 257 x 259 more than one tile of 2^8 a side
SHAPES = [(0, 3), (3, 0), (1, 1), (1, 17), (17, 1), (5, 7), (31, 33), (257, 259), (300, 700)]
LAYOUTS = {
    "dense": lambda r, c, dtype: torch.randn(r, c, dtype=dtype),
    "transposed": lambda r, c, dtype: torch.randn(c, r, dtype=dtype).T,
    "every third column": lambda r, c, dtype: torch.randn(r, 3 * c, dtype=dtype)[:, ::3],
    "every second row": lambda r, c, dtype: torch.randn(2 * r, c, dtype=dtype)[::2],
    "inner block": lambda r, c, dtype: torch.randn(r + 2, c + 5, dtype=dtype)[1:-1, 3:-2],
    "one row repeated": lambda r, c, dtype: torch.randn(1, c, dtype=dtype).expand(r, c),
}


def check(found, a, b):
    """Against extended precision; n terms summed in any order are off by n u sum |a b| at most."""
    wide = [t.double().numpy().astype(np.longdouble) for t in (a, b)]
    assert found.shape == (3,)
    assert found.dtype == torch.float64
    for value, (i, j) in zip(found.tolist(), PAIRS, strict=True):
        terms = wide[i] * wide[j]
        bound = (terms.size + 1) * np.finfo(np.float64).eps / 2 * np.abs(terms).sum()
        assert abs(value - terms.sum()) <= bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype, backend):
    a, b = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    check(gram_dot(a, b, backend=backend), a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_layouts(left, right, dtype):
    a, b = LAYOUTS[left](270, 301, dtype), LAYOUTS[right](270, 301, dtype)
    check(gram_dot(a, b, backend="native"), a, b)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (2, 3, 0), (3, 2, 3, 2)], ids=str)
def test_any_number_of_axes(shape):
    a, b = torch.randn(shape), torch.randn(shape)
    check(gram_dot(a, b, backend="native"), a, b)


def test_mixed_dtypes():
    a, b = torch.randn(9, 11), torch.randn(9, 11, dtype=torch.float64)
    check(gram_dot(a, b, backend="native"), a, b)
    check(gram_dot(b, a, backend="native"), b, a)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.floats(-1e150, 1e150, allow_subnormal=False)] * 2), min_size=1),
    st.integers(1, 4),
)
def test_any_magnitude(rows, height):
    """Exact rational truth: 300 orders of magnitude side by side."""
    entries = torch.tensor(rows * height, dtype=torch.float64)
    a, b = entries.T.reshape(2, height, -1)
    found = gram_dot(a, b, backend="native")
    exact = [[Fraction(v) for v in t.flatten().tolist()] for t in (a, b)]
    for value, (i, j) in zip(found.tolist(), PAIRS, strict=True):
        terms = [p * q for p, q in zip(exact[i], exact[j], strict=True)]
        unit, tiny = Fraction(1, 2**53), Fraction(1, 2**1074)  # rounding, and underflow per product
        bound = len(terms) * (2 * unit * sum(map(abs, terms)) + tiny)
        assert abs(Fraction(value) - sum(terms)) <= bound


def test_float32_does_not_overflow():
    a = torch.full((3, 3), 3e38)
    check(gram_dot(a, -a, backend="native"), a, -a)


def test_bits_do_not_depend_on_threads():
    before = torch.get_num_threads()
    pairs = [
        (LAYOUTS["dense"](2000, 999, torch.float32), LAYOUTS[right](2000, 999, torch.float32))
        for right in ("dense", "transposed", "every second row")
    ]
    found = []
    try:
        for threads in (1, 2, 3, 8, 64):
            torch.set_num_threads(threads)
            found += [[gram_dot(a, b, backend="native").tolist() for a, b in pairs]] * 3
    finally:
        torch.set_num_threads(before)
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("place", [0, 15, 16, 299 * 700, 300 * 700 - 1])
def test_nan_and_infinity_are_kept(place):
    a, b = torch.ones(300, 700), torch.ones(300, 700)
    a.view(-1)[place] = torch.nan
    assert gram_dot(a, b, backend="native").isnan().tolist() == [True, True, False]
    a.view(-1)[place] = torch.inf
    assert gram_dot(a, b, backend="native").isinf().tolist() == [True, True, False]
    assert gram_dot(a.T, b.T, backend="native").isinf().tolist() == [True, True, False]


def test_negated_view():
    a = torch.randn(6, 7, dtype=torch.complex64).conj().imag
    assert a.is_neg()
    check(gram_dot(a, torch.ones(6, 7), backend="native"), a.resolve_neg(), torch.ones(6, 7))


def test_the_gil_is_released():
    a = torch.ones(1, 1 << 14).expand(1 << 14, -1)  # 268 million entries in 64 KiB
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    elapsed = []

    def work():
        start = time.perf_counter()
        gram_dot(a, a, backend="native")
        elapsed.append(time.perf_counter() - start)

    thread = threading.Thread(target=work)
    try:
        last, longest = time.perf_counter(), 0.0
        thread.start()
        while thread.is_alive():
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    finally:
        torch.set_num_threads(before)
    assert longest < elapsed[0] / 2  # a held GIL stops this loop for all of it


@pytest.mark.parametrize(
    "layout", ["dense", "transposed", "every third column", "one row repeated"]
)
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (0, 3)], ids=str)
def test_operator_is_well_formed(shape, layout):
    a, b = LAYOUTS[layout](*shape, torch.float32), LAYOUTS["dense"](*shape, torch.float32)
    torch.library.opcheck(native.gram_dot_op, (a, b))


def test_auto_is_native_and_stays_differentiable():
    a, b = torch.randn(40, 50), torch.randn(40, 50)
    assert torch.equal(gram_dot(a, b), gram_dot(a, b, backend="native"))
    a.requires_grad_()
    gram_dot(a, b)[1].backward()
    torch.testing.assert_close(a.grad, 2 * a.detach())


def test_other_dtypes_and_layouts_go_through_torch():
    a = torch.randn(4, 5)
    assert torch.equal(gram_dot(a.half(), a.half()), gram_dot_torch(a.half(), a.half()))
    sparse = gram_dot(a.to_sparse(), a.to_sparse())
    torch.testing.assert_close(sparse, gram_dot_torch(a, a))


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "text"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), {}, InputError, r"got \(2, 3\) on cpu and \(3, 2\)"),
        (torch.ones(2), torch.ones(2), {"backend": "cuda"}, InputError, "backend='cuda', expected"),
        (torch.ones(2) * 1j, torch.ones(2), {}, InputError, "complex64 .* expected real"),
        (torch.ones(2, device="meta"), torch.ones(2), {}, InputError, "on one device"),
        (
            torch.ones(2).half(),
            torch.ones(2),
            {"backend": "native"},
            BackendUnavailableError,
            "backend='native' cannot serve gram_dot: it takes .* got torch.float16",
        ),
        (
            torch.ones(2, requires_grad=True),
            torch.ones(2),
            {"backend": "native"},
            BackendUnavailableError,
            "it has no derivative",
        ),
    ],
)
def test_errors(a, b, options, error, text):
    with pytest.raises(error, match=text):
        gram_dot(a, b, **options)


def test_without_the_extension():
    program = """
import sys
sys.modules["entk._native"] = None
import torch, entk
from entk.ops.gram_dot import gram_dot
a = torch.ones(2, 3)
assert gram_dot(a, a).tolist() == [6, 6, 6]
assert "entk._native" in entk.backends()["native"], entk.backends()
assert entk.backends()["native-cuda"] == entk.backends()["native"]
try:
    gram_dot(a, a, backend="native")
except entk.BackendUnavailableError as error:
    assert "backend='native' cannot serve gram_dot" in str(error), error
else:
    sys.exit("no error")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_cuda_twin_compiles_and_links(tmp_path):
    target = tmp_path / "gram_dot.so"
    command = ["nvcc", "-shared", "-std=c++17", "-arch=sm_90", "-Werror", "all-warnings"]
    command += ["-Xcompiler", "-fPIC", "-o", str(target), str(ROOT / "csrc/gram_dot.cu")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(target))
    assert library._ZN4entk21gram_dot_cuda_scratchEv() == 3 * 1024
    names = subprocess.run(["nm", "-DC", target], capture_output=True, text=True, check=True).stdout
    assert "entk::gram_dot_cuda(entk::Pair, bool, double*, double*, void*)" in names


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: see tests/gpu")
def test_cuda_part_without_a_gpu():
    if native._native is None or not native._native.cuda:
        assert native.native_cuda_status() != "ok"
        return
    assert native.native_cuda_status() == "no CUDA device, or torch is built without CUDA"
    data = torch.ones(1)
    one = (data.data_ptr(), 1, 1)
    with pytest.raises(RuntimeError, match=r"^gram_dot on CUDA: \S+"):
        native._native.gram_dot_cuda(*one, *one, 1, 1, False, 0, 0, 0)


def test_the_extension_refuses_impossible_sizes():
    with pytest.raises(ValueError, match="gram_dot got -1 rows and 2 columns, expected sizes >= 0"):
        native._native.gram_dot(1, 1, 1, 1, 1, 1, -1, 2, False, 1)
    with pytest.raises(ValueError, match="and data unless one is 0"):
        native._native.gram_dot(0, 1, 1, 0, 1, 1, 2, 2, False, 1)
