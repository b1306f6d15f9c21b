"""`entk.alignment` and `entk.cka` against their definitions, written with whole matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import entk
from entk import similarity
from tests import oracle
from tests.kernels import gram, model_and_samples

EPS = torch.finfo(torch.float64).eps
LIMIT = 1e-12  # a few thousand sums in float64


def centring(n: int, o: int = 1) -> Tensor:
    """H ⊗ I"""
    h = torch.eye(n) - torch.ones(n, n) / n
    return torch.kron(h.double(), torch.eye(o).double())


def cosine(a: Tensor, b: Tensor) -> float:
    return ((a * b).sum() / a.norm() / b.norm()).item()


def plain_alignment(k: Tensor, y: Tensor, centred: bool) -> float:
    """k [R, R] and y [N, O], by forming Y Y' or y y' and H K H."""
    n = len(y)
    if len(k) != n:
        h = centring(n, y.shape[1])
        y = y.reshape(-1, 1)
    else:
        h = centring(n)
    target = y @ y.mT
    return cosine(h @ k @ h, h @ target @ h) if centred else cosine(k, target)


def hsic_1(a: Tensor, b: Tensor) -> Tensor:
    """Song et al. 2012, as it stands."""
    n, one = len(a), torch.ones(len(a), dtype=a.dtype)
    a, b = (k - k.diag().diag() for k in (a, b))
    total = (a @ b).trace() + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))


@pytest.fixture(params=[1 << 22, 7], ids=["whole", "blocks"])
def band(request, monkeypatch):
    monkeypatch.setattr(similarity, "BAND", request.param)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.usefixtures("band")
def test_alignment(outputs, centred):
    y = torch.randn(8, outputs, dtype=torch.float64)
    k = gram(8)
    expected = plain_alignment(k, y, centred)
    assert entk.alignment(k, y, centred=centred) == pytest.approx(expected, abs=LIMIT)
    full = gram(8, outputs)
    expected = plain_alignment(full.flatten(2).flatten(0, 1), y, centred)
    for form in (full, full.flatten(2).flatten(0, 1), full.flatten(2).flatten(0, 1).numpy()):
        assert entk.alignment(form, y, centred=centred) == pytest.approx(expected, abs=LIMIT)


def test_alignment_of_the_ideal_kernel_is_one():
    y = torch.randn(6, 2, dtype=torch.float64)
    assert entk.alignment(y @ y.mT, y) == pytest.approx(1, abs=LIMIT)
    assert entk.alignment(3 * y @ y.mT + 5, y) == pytest.approx(1, abs=LIMIT)
    assert entk.alignment(y @ y.mT, y, centred=False) == pytest.approx(1, abs=LIMIT)
    assert entk.alignment(torch.einsum("no,mq->nomq", y, y), y) == pytest.approx(1, abs=LIMIT)


def test_alignment_with_classes():
    classes = torch.tensor([2, 0, 1, 1, 2, 0, 0])
    y = F.one_hot(classes).double()
    assert entk.alignment(gram(7), classes) == entk.alignment(gram(7), y)
    assert entk.alignment(gram(7, 3), classes) == entk.alignment(gram(7, 3), y)
    four = F.one_hot(classes, 4).double()  # a class without samples
    assert entk.alignment(gram(7, 4), classes) == entk.alignment(gram(7, 4), four)


@pytest.mark.usefixtures("band")
def test_cka_is_that_of_features():
    """Kornblith et al. 2019: |Y'X|² / (|X'X| |Y'Y|) of centred features."""
    x, y = (torch.randn(9, d, dtype=torch.float64) + 1 for d in (4, 6))
    p, q = x - x.mean(0), y - y.mean(0)
    expected = (q.mT @ p).norm() ** 2 / (p.mT @ p).norm() / (q.mT @ q).norm()
    found = entk.cka(x @ x.mT, y @ y.mT)
    assert found == pytest.approx(expected.item(), abs=LIMIT)
    assert entk.cka(x @ x.mT + 3, 2 * y @ y.mT) == pytest.approx(expected.item(), abs=LIMIT)
    assert entk.cka(x @ x.mT, x @ x.mT) == pytest.approx(1, abs=LIMIT)


@pytest.mark.usefixtures("band")
def test_cka_of_full_kernels_centres_each_output():
    a, b = gram(5, 3), gram(5, 3, seed=1)
    h = centring(5, 3)
    p, q = (h @ k.flatten(2).flatten(0, 1) @ h for k in (a, b))
    assert entk.cka(a, b) == pytest.approx(cosine(p, q), abs=LIMIT)


@pytest.mark.parametrize("n", [4, 5, 9])
@pytest.mark.usefixtures("band")
def test_unbiased_cka(n):
    a, b = gram(n), gram(n, seed=1)
    expected = hsic_1(a, b) / (hsic_1(a, a) * hsic_1(b, b)).sqrt()
    assert entk.cka(a, b, unbiased=True) == pytest.approx(expected.item(), abs=LIMIT)
    a = a + torch.diag(torch.arange(n).double())  # the diagonal does not count
    assert entk.cka(a, b, unbiased=True) == pytest.approx(expected.item(), abs=LIMIT)


def test_unbiased_cka_of_unrelated_features_is_about_zero():
    """The biased one grows with the number of features, which is why the other exists."""
    biased, unbiased = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(16, 40, generator=generator).double() for _ in range(2))
        biased.append(entk.cka(x @ x.mT, y @ y.mT))
        unbiased.append(entk.cka(x @ x.mT, y @ y.mT, unbiased=True))
    error = torch.tensor(unbiased).std() / 20**0.5
    assert abs(torch.tensor(unbiased).mean()) <= 4 * error
    assert min(biased) > 0.5


@pytest.mark.usefixtures("band")
def test_files(tmp_path):
    model, x = model_and_samples(7)
    y = torch.randn(7, 2, dtype=torch.float64)
    truth = oracle.ntk(model, x)
    for outputs in ("all", "trace"):
        path = tmp_path / f"{outputs}.h5"
        entk.write_ntk(path, model, x, outputs=outputs).close()
        kernel = oracle.mode(truth, outputs)
        other = kernel + gram(*kernel.shape[: kernel.dim() // 2], seed=3)
        for centred in (True, False):
            expected = entk.alignment(kernel, y, centred=centred)
            assert entk.alignment(path, y, centred=centred) == pytest.approx(expected, abs=1e-10)
        expected = entk.cka(kernel, other)
        assert entk.cka(path, other) == pytest.approx(expected, abs=1e-10)
        with entk.open_kernel(path) as file:
            assert entk.cka(other, file) == pytest.approx(expected, abs=1e-10)
        if outputs == "all":  # a file knows its outputs, a matrix takes them from it
            flat = other.flatten(2).flatten(0, 1)
            assert entk.cka(path, flat) == pytest.approx(expected, abs=1e-10)
        else:
            expected = entk.cka(kernel, other, unbiased=True)
            assert entk.cka(path, other, unbiased=True) == pytest.approx(expected, abs=1e-10)


def test_a_large_mean_costs_no_digits():
    """What centring removes is a thousand times larger than what is left."""
    k = gram(8)
    expected = entk.cka(k, gram(8, seed=1))
    assert entk.cka(k + 1e6, gram(8, seed=1)) == pytest.approx(expected, abs=1e6 * 64 * EPS)
    y = torch.randn(8, 1, dtype=torch.float64)
    expected = entk.alignment(k, y)
    assert entk.alignment(k + 1e6, y + 1e3) == pytest.approx(expected, abs=1e6 * 64 * EPS)


def test_float32_is_summed_in_float64():
    k, y = gram(200, dtype=torch.float32), torch.randn(200, 2)
    assert entk.alignment(k, y) == pytest.approx(
        plain_alignment(k.double(), y.double(), True), abs=LIMIT
    )


def test_a_kernel_between_two_sets_of_samples(tmp_path):
    model, x = model_and_samples(7)
    entk.write_ntk(tmp_path / "k.h5", model, x, x.clone()).close()
    with pytest.raises(entk.InputError, match=r"k\.h5 kernel is between two sets of samples"):
        entk.alignment(tmp_path / "k.h5", torch.randn(7, 2))


K = gram(5)
Y = torch.randn(5, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((K[:4], Y), entk.InputError, r"the kernel has shape \(4, 5\), expected a square one"),
        ((K.triu(), Y), entk.InputError, r"the kernel is not symmetric, \|K - K'\| = .* \|K\|"),
        ((gram(5, 2)[:, :, :, :1], Y), entk.InputError, "expected a square one"),
        ((torch.ones(2, 5, 5), Y), entk.InputError, "call alignment for each output"),
        ((K, Y[:4]), entk.InputError, r"labels have shape \(4, 2\), which does not fit"),
        ((gram(5, 3), Y), entk.InputError, r"does not fit the kernel's \(5, 3, 5, 3\)"),
        ((K, [1, 2]), entk.InputError, "labels are list, expected real targets"),
        ((K, Y[None]), entk.InputError, r"labels are \(1, 5, 2\), expected real targets"),
        ((K, torch.tensor([1, -1, 1, -1, 1])), entk.InputError, "labels have class -1"),
        ((gram(5, 2), torch.arange(5)), entk.InputError, "class 4 but the kernel has 2 outputs"),
        ((K, torch.ones(5)), entk.UndefinedDistanceError, "labels are constant over samples"),
        ((K, Y * torch.nan), entk.UndefinedDistanceError, "labels are .* not finite"),
        ((K, Y / 0), entk.UndefinedDistanceError, "labels are .* not finite"),
        ((torch.ones(5, 5), Y), entk.UndefinedDistanceError, "the kernel is constant|kernel is ze"),
        ((K * torch.nan, Y), entk.UndefinedDistanceError, "kernel contains NaN"),
        ((K * torch.inf, Y), entk.UndefinedDistanceError, "kernel contains NaN"),
        ((0.1 * torch.ones(5, 5).double(), Y), entk.UndefinedDistanceError, "constant|is zero"),
    ],
)
def test_refused_alignment(arguments, error, text):
    with pytest.raises(error, match=text):
        entk.alignment(*arguments)


def test_zero_labels_without_centring():
    with pytest.raises(entk.UndefinedDistanceError, match="labels are zero"):
        entk.alignment(K, 0 * Y, centred=False)
    assert 0 < entk.alignment(K, torch.ones(5), centred=False) <= 1


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((K, gram(4)), {}, entk.InputError, r"shape \(5, 5\) but the second has \(4, 4\)"),
        ((gram(2, 3), gram(3, 2)), {}, entk.InputError, r"\(2, 3, 2, 3\) but the second has \(3"),
        ((K, K.tril()), {}, entk.InputError, "the second kernel is not symmetric"),
        ((gram(5, 2), gram(5, 2)), {"unbiased": True}, entk.InputError, r"is for kernels \[N, N\]"),
        ((gram(3), gram(3)), {"unbiased": True}, entk.InputError, "at least four samples, got 3"),
        ((K, 0 * K), {}, entk.UndefinedDistanceError, "the second centred kernel is zero"),
        ((K, 0 * K + 3), {}, entk.UndefinedDistanceError, "the second"),
        ((K * torch.nan, K), {}, entk.UndefinedDistanceError, "the first centred kernel contains"),
        ((K, "/nonexistent/kernel.h5"), {}, entk.KernelFileError, "no kernel at /nonexistent"),
    ],
)
def test_refused_cka(arguments, options, error, text):
    with pytest.raises(error, match=text):
        entk.cka(*arguments, **options)
