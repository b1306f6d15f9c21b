"""Kernel distances against 60-digit arithmetic, from every kind of source."""

from __future__ import annotations

import math

import h5py
import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import entk
from entk.factors import OUTPUTS
from entk.store import block_indices
from tests.cases import CASES

BY_NAME = {case.name: case for case in CASES}
EPS = torch.finfo(torch.float64).eps


def exact(a: Tensor, b: Tensor) -> float:
    """1 - <a,b> / (|a| |b|) of the very numbers given, rounded once at the end."""
    with mpmath.workdps(60):
        p, q = ([mpmath.mpf(v) for v in t.double().flatten().tolist()] for t in (a, b))
        norms = mpmath.sqrt(mpmath.fdot(p, p)) * mpmath.sqrt(mpmath.fdot(q, q))
        return float(1 - mpmath.fdot(p, q) / norms)


def limit(distance: float) -> float:
    """What rounding may cost: 1 - cos a few eps; the chord of unit vectors, sqrt(2 S) long, that
    times eps, and eps^2 where they are equal but for rounding."""
    return 8 * EPS if distance >= 1e-4 else 16 * EPS * math.sqrt(2 * distance) + EPS**2


def kernel(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("angle", [0, -1, -2, -3, -4, -6, -8, -10, -12, -14])
@pytest.mark.parametrize("shape", [(6, 6), (3, 5, 4), (4, 2, 3, 2)])
def test_against_exact_arithmetic(shape, angle):
    """From unrelated kernels to ones that differ in the fourteenth digit."""
    a = kernel(*shape)
    b = 3 * a + 10.0**angle * kernel(*shape, seed=1)
    found, expected = entk.kernel_distance(a, b), exact(a, b)
    assert abs(found - expected) <= 1e-12
    assert abs(found - expected) <= limit(expected)


def test_the_whole_range():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert entk.kernel_distance(a, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 1
    assert entk.kernel_distance(a, -a) == 2
    assert entk.kernel_distance(a, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(
        1 - 1 / math.sqrt(2), abs=4 * EPS
    )


@pytest.mark.parametrize("factor", [1, 2, 1 / 3, 1e-30, 1e30, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_for_itself_and_positive_multiples(dtype, factor):
    a = kernel(7, 7, dtype=dtype)
    b = factor * a.double()  # in float32 the multiple is another direction, by its rounding
    assert entk.kernel_distance(a, b) == 0.0
    assert entk.kernel_distance(b, a) == 0.0


def test_symmetric_to_the_bit():
    a, b = kernel(9, 9), kernel(9, 9, seed=1)
    assert entk.kernel_distance(a, b) == entk.kernel_distance(b, a)


@pytest.mark.parametrize("entries", [1, 4, 15, 30])
def test_more_entries_than_are_worked_on_at_once(monkeypatch, entries):
    """Blocks of rows or of parts of rows, and pieces of blocks, add up; the last are shorter."""
    a, b = kernel(2, 7, 5), kernel(2, 7, 5, seed=1)
    near = a + 1e-7 * b
    expected = [entk.kernel_distance(a, other) for other in (b, near)]
    monkeypatch.setattr(entk.distance, "BAND", entries)
    monkeypatch.setattr(entk.distance, "PIECE", max(1, entries // 2))
    for other, distance in zip((b, near), expected, strict=True):
        assert abs(entk.kernel_distance(a, other) - distance) <= limit(distance)
        assert abs(entk.kernel_distance_matrix([a, other])[0, 1] - distance) <= limit(distance)


@pytest.mark.parametrize("chunks", [(3, 4), (7, 9), (1, 2)])
@pytest.mark.parametrize("shape", [(7, 9), (2, 7, 9)])
@pytest.mark.parametrize("entries", [1, 12, 30, 1000])
def test_blocks_of_a_file_are_whole_chunks_and_cover_it_once(shape, chunks, entries):
    seen = torch.zeros(shape, dtype=torch.int)
    chunk = (1,) * (len(shape) - 2) + chunks
    for index in block_indices(shape, chunk, entries):
        seen[index] += 1
        part = seen[index]
        assert part.numel() <= max(entries, math.prod(chunks))
        for axis, size in zip(index[-2:], chunks, strict=True):
            assert axis.start % size == 0
    assert (seen == 1).all()


@pytest.fixture
def written(tmp_path):
    """Two kernels on disk and the same two in memory."""
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
        x = kernel(5, 4, dtype=torch.float32)
        path = tmp_path / f"{seed}.h5"
        entk.write_ntk(path, model, x).close()
        with entk.open_kernel(path) as file:
            made.append((path, file[:].view(5, 2, 5, 2)))
    return made


def test_every_kind_of_source(written):
    (path, a), (other, b) = written
    expected = exact(a, b)
    with entk.open_kernel(path) as file:
        sources = [a, a.double(), a.numpy(), a.flatten(2).flatten(0, 1), path, str(path), file]
        for source in sources:
            assert abs(entk.kernel_distance(source, b) - expected) <= limit(expected)
            assert abs(entk.kernel_distance(other, source) - expected) <= limit(expected)
            assert entk.kernel_distance(source, path) == 0.0


def test_a_file_that_was_passed_open_stays_open(written):
    (path, a), _ = written
    with entk.open_kernel(path) as file:
        entk.kernel_distance(file, a)
        assert file[0, 0] == a[0, 0, 0, 0]


def test_a_file_that_was_passed_by_path_is_closed(written):
    (path, a), _ = written
    entk.kernel_distance(path, a)
    with h5py.File(path, "r+"):  # HDF5 refuses to write to a file that is open for reading
        pass


def test_float32_numbers_are_summed_in_float64():
    a = kernel(200, 200, dtype=torch.float32)
    b = a + 1e-4 * kernel(200, 200, seed=1, dtype=torch.float32)
    expected = exact(a, b)
    assert abs(entk.kernel_distance(a, b) - expected) <= limit(expected)
    assert abs(entk.kernel_distance(a.double(), b) - expected) <= limit(expected)


def test_transposed_and_strided_kernels():
    a, b = kernel(8, 12), kernel(12, 8, seed=1)
    expected = exact(a[::2, 1::3], b.mT[::2, 1::3])
    found = entk.kernel_distance(a[::2, 1::3], b.mT[::2, 1::3])
    assert abs(found - expected) <= limit(expected)
    assert entk.kernel_distance(a.numpy()[::2].astype(np.float32), a[::2].float()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_equals_pairs(dtype):
    kernels = [kernel(6, 6, seed=s, dtype=dtype) for s in range(3)]
    kernels += [kernels[0] + 1e-6 * kernels[1], 2 * kernels[0]]
    found = entk.kernel_distance_matrix(kernels)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.mT)
    assert not found.diagonal().any()
    assert found[0, 4] == 0
    for i, a in enumerate(kernels):
        for j, b in enumerate(kernels):
            assert abs(found[i, j].item() - entk.kernel_distance(a, b)) <= limit(found[i, j].item())
            assert abs(found[i, j].item() - exact(a, b)) <= limit(exact(a, b))


def test_matrix_of_mixed_sources(written):
    (path, a), (other, b) = written
    with entk.open_kernel(other) as file:
        found = entk.kernel_distance_matrix([path, b.numpy(), file, a.double()])
    expected = exact(a, b)
    ones = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
    want = expected * ones.double()
    assert (found - want).abs().max() <= limit(expected)
    assert torch.equal(found == 0, want == 0)


def test_matrix_of_one():
    assert torch.equal(entk.kernel_distance_matrix([kernel(3, 3)]), torch.zeros(1, 1).double())


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("name", ["resnet_a", "gpt_tied", "raw_scale"])
def test_two_models(name, square, outputs):
    """As from whole kernels: tiles below the diagonal stand for those above it too."""
    a, x, z = BY_NAME[name].make()
    b, _, _ = BY_NAME[name].make()
    with torch.no_grad():
        for p in b.parameters():
            p += 0.1 * torch.randn_like(p)
    other = None if square else z
    kernels = [entk.ntk(model, x, other, outputs=outputs) for model in (a, b)]
    expected = exact(*kernels)
    for block in (None, 2):
        found = entk.kernel_distance(a, b, x, other, outputs=outputs, block=block)
        assert found == pytest.approx(expected, rel=1e-9)
    assert entk.kernel_distance(a, a, x, other, outputs=outputs, block=2) == 0.0


def test_models_of_different_architecture():
    torch.manual_seed(0)
    x = kernel(6, 4)
    a = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double().eval()
    b = nn.Linear(4, 2).double().eval()
    expected = exact(entk.ntk(a, x), entk.ntk(b, x))
    assert entk.kernel_distance(a, b, x) == pytest.approx(expected, rel=1e-9)


def test_nearly_equal_models():
    torch.manual_seed(0)
    x = kernel(4, 4)
    a = nn.Linear(4, 2).double().eval()
    b = nn.Linear(4, 2).double().eval()  # a linear model's kernel does not know the weights
    assert entk.kernel_distance(a, b, x) == 0.0


A = torch.eye(3)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((A, torch.eye(4)), entk.InputError, r"shape \(3, 3\) but the second has \(4, 4\)"),
        (
            (A.view(3, 1, 3, 1), A.view(1, 3, 1, 3)),
            entk.InputError,
            r"\(3, 1, 3, 1\) but the second",
        ),
        ((A, torch.zeros(3, 3)), entk.UndefinedDistanceError, "the second kernel is zero"),
        ((torch.zeros(3, 3), A), entk.UndefinedDistanceError, "the first kernel is zero"),
        ((A, A * torch.nan), entk.UndefinedDistanceError, "the second kernel contains NaN or inf"),
        ((A / 0, A), entk.UndefinedDistanceError, "the first kernel contains NaN or infinity"),
        ((A, [[1.0]]), entk.InputError, "the second kernel is list, expected a tensor"),
        ((A, torch.ones(3)), entk.InputError, r"has shape \(3,\), expected \[N, M\]"),
        ((A, torch.ones(0, 3)), entk.InputError, r"has shape \(0, 3\), expected .* without empty"),
        ((A, A.long()), entk.InputError, "the second kernel is torch.int64, expected floating"),
        ((A, A, A), entk.InputError, "x, z and options are for two models"),
        ((nn.Linear(3, 2), A, A), entk.InputError, "takes two kernels, or two torch"),
        ((nn.Linear(3, 2), nn.Linear(3, 2)), entk.InputError, "and the samples x"),
        ((nn.Linear(3, 2), nn.Linear(3, 1), A), entk.InputError, "2 outputs but model_b 1"),
        ((A, "/nonexistent/kernel.h5"), entk.KernelFileError, "no kernel at /nonexistent"),
    ],
)
def test_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        entk.kernel_distance(*arguments)


@pytest.mark.parametrize("name", ["plan", "progress", "by_layer", "streamed", "copies", "blok"])
def test_an_unknown_option_is_named(name):
    model = nn.Linear(3, 2).eval()
    said = f"has no option '{name}'; for two models it takes outputs, params, .*precision"
    with pytest.raises(entk.InputError, match=said):
        entk.kernel_distance(model, model, A, **{name: True})


def test_precision_is_an_option():
    model = nn.Linear(3, 2).eval()
    assert entk.kernel_distance(model, model, A, precision="ieee") == 0.0
    with pytest.raises(entk.InputError, match="precision='tf32'"):
        entk.kernel_distance(model, model, A, precision="tf32")


@pytest.mark.parametrize(
    ("kernels", "error", "text"),
    [
        ([], entk.InputError, "kernels is empty"),
        ([A, A, torch.eye(4)], entk.InputError, "number 2's has"),
        ([A, 0 * A], entk.UndefinedDistanceError, "number 1's kernel is zero"),
        ([A, A * torch.inf], entk.UndefinedDistanceError, "number 1's kernel contains NaN"),
    ],
)
def test_refused_in_a_matrix(kernels, error, text):
    with pytest.raises(error, match=text):
        entk.kernel_distance_matrix(kernels)


def test_a_file_that_is_not_a_kernel(tmp_path):
    path = tmp_path / "kernel.h5"
    path.write_text("not HDF5")
    with pytest.raises(entk.KernelFileError, match=r"kernel\.h5 is not readable HDF5"):
        entk.kernel_distance(A, path)
