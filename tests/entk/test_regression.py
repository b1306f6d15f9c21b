"""Kernel regression, and training of the linearised network, against solving and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import entk
from tests import oracle, tolerance
from tests.kernels import gram, with_eigenvalues

N, M, O = 6, 4, 2
FORMS = ("shared", "diagonal", "full", "flat")


def model_and_samples() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, O)).double().eval()
    return model, torch.randn(N, 4).double(), torch.randn(M, 4).double()


def kernels(form: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(k_train, k_test) in a form, and as the full matrices that they stand for."""
    model, x, z = model_and_samples()
    outputs = {"shared": "trace", "diagonal": "diagonal"}.get(form, "all")
    train, test = oracle.ntk(model, x, x, outputs), oracle.ntk(model, z, x, outputs)
    full = []
    for k in (train, test):
        if form == "shared":
            k = torch.kron(k, torch.eye(O).double())
        elif form == "diagonal":
            k = torch.einsum("onm,oq->nomq", k, torch.eye(O).double())
        full.append(k.flatten(-2).flatten(0, -2) if k.dim() == 4 else k)
    if form == "flat":
        train, test = full
    return train, test, *full


def targets(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("form", FORMS)
def test_regression(form, ridge):
    train, test, full, crossed = kernels(form)
    y = targets(N, O)
    found = entk.kernel_regression(train, y, test, ridge=ridge)
    dual = torch.linalg.solve(full + ridge * torch.eye(N * O).double(), y.flatten())
    condition = torch.linalg.cond(full + ridge * torch.eye(N * O).double()).item()
    for part, expected, rows in (
        (found.dual, dual, N),
        (found.train, full @ dual, N),
        (found.test, crossed @ dual, M),
    ):
        assert part.shape == (rows, O)
        limit = 64 * condition * torch.finfo(torch.float64).eps
        assert tolerance.error(part.flatten(), expected) <= limit
    assert entk.kernel_regression(train, y, ridge=ridge).test is None
    assert torch.equal(entk.kernel_regression(train.numpy(), y, ridge=ridge).dual, found.dual)


def test_one_output_without_its_axis():
    k, y = gram(5), targets(5)
    found = entk.kernel_regression(k, y, k[:3])
    assert (found.dual.shape, found.train.shape, found.test.shape) == ((5,), (5,), (3,))
    assert torch.equal(found.dual, entk.kernel_regression(k, y[:, None]).dual[:, 0])
    assert tolerance.error(found.train, y) <= tolerance.FLOAT64


def test_files(tmp_path):
    model, x, z = model_and_samples()
    y = targets(N, O)
    for outputs in ("all", "diagonal", "trace"):
        paths = (tmp_path / f"{outputs}.h5", tmp_path / f"{outputs}-test.h5")
        entk.write_ntk(paths[0], model, x, outputs=outputs).close()
        entk.write_ntk(paths[1], model, z, x, outputs=outputs).close()
        kernels = oracle.ntk(model, x, x, outputs), oracle.ntk(model, z, x, outputs)
        expected = entk.kernel_regression(kernels[0], y, kernels[1], ridge=0.1)
        found = entk.kernel_regression(paths[0], y, paths[1], ridge=0.1)
        assert tolerance.error(found.test, expected.test) <= tolerance.FLOAT64
        expected = entk.linearised_predictions(kernels[0], y, [0.1, 2], k_test=kernels[1])
        found = entk.linearised_predictions(paths[0], y, [0.1, 2], k_test=paths[1])
        assert tolerance.error(found.test, expected.test) <= tolerance.FLOAT64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_kernels_dtype(dtype):
    k, y = gram(5, dtype=dtype), targets(5)
    found = entk.kernel_regression(k, y, k, ridge=1)
    assert {found.dual.dtype, found.train.dtype, found.test.dtype} == {dtype}
    later = entk.linearised_predictions(k, y, [1.0], k_test=k)
    assert {later.train.dtype, later.test.dtype} == {dtype}


@pytest.mark.parametrize("least", [0.0, -1e-3, 1e-18])
def test_a_kernel_that_is_not_positive_definite(least):
    k, y = with_eigenvalues(torch.tensor([2.0, 1.0, 0.5, least])), targets(4)
    with pytest.raises(entk.InputError, match=r"smallest eigenvalue of k_train is .*; pass ridge="):
        entk.kernel_regression(k, y)
    with pytest.raises(entk.InputError) as refusal:
        entk.kernel_regression(k, y)
    ridge = float(str(refusal.value).split("ridge=")[1].split()[0])
    assert torch.isfinite(entk.kernel_regression(k, y, ridge=ridge).dual).all()


def trained(x: Tensor, z: Tensor, y: Tensor, model, steps: int, rate: float, momentum: float):
    """Outputs at x and z after each step of torch's SGD on half the sum of squared errors."""
    linear = entk.linearize(model)
    optimizer = torch.optim.SGD(linear.parameters(), lr=rate, momentum=momentum)
    found = []
    for _ in range(steps + 1):
        with torch.no_grad():
            found.append((linear(x), linear(z)))
        optimizer.zero_grad()
        ((linear(x) - y).square().sum() / 2).backward()
        optimizer.step()
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_gradient_descent_is_training_the_linearised_model(momentum):
    model, x, z = model_and_samples()
    y, rate = targets(N, O), 0.02
    train, test = trained(x, z, y, model, 60, rate, momentum)
    options = {"k_test": oracle.ntk(model, z, x), "flow": "gradient_descent"}
    options |= {"f0": model(x), "f0_test": model(z)}
    times = [0, 1, 2, 60, 17]
    found = entk.linearised_predictions(
        oracle.ntk(model, x), y, times, learning_rate=rate, momentum=momentum, **options
    )
    assert tolerance.error(found.train, train[times]) <= tolerance.FLOAT64
    assert tolerance.error(found.test, test[times]) <= tolerance.FLOAT64
    assert tolerance.error(train[60], train[0]) > 0.1  # it did learn


def test_the_mean_squared_error_is_another_rate():
    """As the docstring says: 2 η / (N O)."""
    model, x, _ = model_and_samples()
    y, rate = targets(N, O), 0.1
    linear = entk.linearize(model)
    optimizer = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.mse_loss(linear(x), y).backward()
        optimizer.step()
    found = entk.linearised_predictions(
        oracle.ntk(model, x),
        y,
        [30],
        f0=model(x),
        flow="gradient_descent",
        learning_rate=2 * rate / (N * O),
        momentum=0.9,
    )
    assert tolerance.error(found.train[0], linear(x).detach()) <= tolerance.FLOAT64


@pytest.mark.parametrize("form", FORMS)
def test_gradient_flow_solves_its_equation(form):
    """df/dt = -η K (f - y) on train and test points together, by a solver of order 8."""
    from scipy.integrate import solve_ivp

    train, test, full, crossed = kernels(form)
    y, f0, f0_test = targets(N, O), targets(N, O, seed=2), targets(M, O, seed=3)
    both, times, rate = torch.cat([full, crossed]).numpy(), [0.0, 0.1, 1.0, 4.0], 0.3

    def slope(_, f: np.ndarray) -> np.ndarray:
        return -rate * both @ (f[: N * O] - y.flatten().numpy())

    start = torch.cat([f0, f0_test]).flatten().numpy()
    exact = solve_ivp(slope, (0, 4), start, "DOP853", times, rtol=1e-12, atol=1e-12).y.T
    expected = torch.from_numpy(exact.copy()).view(4, N + M, O)
    found = entk.linearised_predictions(
        train, y, times, k_test=test, f0=f0, f0_test=f0_test, learning_rate=rate
    )
    assert tolerance.error(found.train, expected[:, :N]) <= 1e-9
    assert tolerance.error(found.test, expected[:, N:]) <= 1e-9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_descent_in_every_form(form, momentum):
    """The recursion itself, on whole matrices."""
    train, test, full, crossed = kernels(form)
    y, f, g = targets(N, O).flatten(), torch.zeros(N * O).double(), torch.zeros(M * O).double()
    velocity = torch.zeros(N * O).double()
    for _ in range(25):
        velocity = momentum * velocity + (f - y)
        f, g = f - 0.01 * full @ velocity, g - 0.01 * crossed @ velocity
    options = {"flow": "gradient_descent", "learning_rate": 0.01, "momentum": momentum}
    found = entk.linearised_predictions(train, y.view(N, O), [25], k_test=test, **options)
    assert tolerance.error(found.train.flatten(), f) <= tolerance.FLOAT64
    assert tolerance.error(found.test.flatten(), g) <= tolerance.FLOAT64


@pytest.mark.parametrize("flow", ["gradient_flow", "gradient_descent"])
def test_the_limit_is_regression(flow):
    k = with_eigenvalues(torch.linspace(0.2, 1, 7))
    y, f0 = targets(5, 2), targets(5, 2, seed=2)
    f0_test = targets(2, 2, seed=3)
    k_train, k_test = k[:5, :5], k[5:, :5]
    found = entk.linearised_predictions(
        k_train, y, [10000], k_test=k_test, f0=f0, f0_test=f0_test, flow=flow
    )
    expected = f0_test + entk.kernel_regression(k_train, y - f0, k_test).test
    assert tolerance.error(found.train[0], y) <= tolerance.FLOAT64
    assert tolerance.error(found.test[0], expected) <= tolerance.FLOAT64


def test_what_a_singular_kernel_does_not_see_stays():
    """Two equal samples with different targets: their mean is learned."""
    k = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double()
    for flow in ("gradient_flow", "gradient_descent"):
        found = entk.linearised_predictions(
            k, torch.tensor([1.0, 2.0]), [1000], k_test=k[:1], flow=flow, learning_rate=0.3
        )
        assert tolerance.error(found.train[0], torch.full((2,), 1.5).double()) <= 1e-12
        assert tolerance.error(found.test[0], torch.full((1,), 1.5).double()) <= 1e-12


def test_small_errors_keep_their_digits():
    """f(t) - y decays past rounding of y where y is zero."""
    k = torch.diag(torch.tensor([1.0, 2.0])).double()
    f0 = torch.ones(2).double()
    found = entk.linearised_predictions(k, 0 * f0, [60.0], f0=f0).train[0]
    assert torch.allclose(found, torch.exp(torch.tensor([-60.0, -120.0]).double()), rtol=1e-12)


K, Y = gram(5), targets(5, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (
            (K, Y[:4]),
            {},
            r"y has shape \(4, 2\), which does not fit the training kernel's \(5, 5\)",
        ),
        ((gram(5, 3), Y), {}, r"does not fit the training kernel's \(5, 3, 5, 3\)"),
        ((torch.eye(5).expand(3, 5, 5), Y), {}, r"does not fit the training kernel's \(3, 5, 5\)"),
        ((K, Y.long()), {}, "y is torch.int64, expected a floating-point tensor"),
        ((K, [1.0] * 5), {}, "y is list, expected a floating-point tensor"),
        ((K, Y[None]), {}, r"y has shape \(1, 5, 2\), expected"),
        ((K, Y * torch.nan), {}, "y contains NaN or infinity"),
        ((K * torch.nan, Y), {}, "the training kernel contains NaN"),
        ((K.tril(), Y), {}, "the training kernel is not symmetric"),
        ((K[:4], Y), {}, r"the training kernel has shape \(4, 5\), expected a square one"),
        ((K, Y, K[:, :4]), {}, r"the test kernel has shape \(5, 4\), expected \[M, N\] with N = 5"),
        ((gram(5, 2), Y, K), {}, r"the test kernel has shape \(5, 5\), expected \[M, O, N, O\]"),
        ((K, Y, K * torch.inf), {}, "the test kernel contains NaN or infinity"),
        ((K, Y), {"ridge": -1}, "ridge=-1, expected a number of at least 0"),
        ((K, Y), {"ridge": float("nan")}, "ridge=nan, expected"),
    ],
)
def test_refused(arguments, options, text):
    with pytest.raises(entk.InputError, match=text):
        entk.kernel_regression(*arguments, **options)


DESCENT = {"flow": "gradient_descent"}


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((K, Y, [1]), {"flow": "adam"}, "flow='adam', expected one of"),
        ((K, Y, []), {}, r"times have shape \(0,\), expected \[T\]"),
        ((K, Y, 1.0), {}, r"times have shape \(\), expected \[T\]"),
        ((K, Y, ["a"]), {}, r"times are \['a'\], expected numbers"),
        ((K, Y, [1, -2]), {}, "times have -2 for flow='gradient_flow', expected finite times"),
        ((K, Y, [torch.inf]), {}, "the limit is entk.kernel_regression"),
        ((K, Y, [0.5]), DESCENT, "times have 0.5 for .*, expected whole numbers of steps"),
        ((K, Y, [1]), {"learning_rate": 0}, "learning_rate=0, expected a positive number"),
        ((K, Y, [1]), {"momentum": 0.9}, "momentum=0.9 is for flow='gradient_descent'"),
        ((K, Y, [1]), {**DESCENT, "momentum": 1}, r"momentum=1, expected a number in \[0, 1\)"),
        ((K, Y, [1]), {"f0": Y[:4]}, r"f0 has shape \(4, 2\), expected \(5, 2\)"),
        ((K, Y, [1]), {"f0": Y / 0}, "f0 contains NaN or infinity"),
        ((K, Y, [1]), {"f0_test": Y}, "f0_test without k_test"),
        ((K, Y, [1]), {"k_test": K[:3], "f0": Y}, "pass both or neither"),
        ((K, Y, [1]), {"k_test": K[:3], "f0": Y, "f0_test": Y}, r"f0_test has .* \(3, 2\)"),
        ((-K, Y, [1]), {}, "the smallest eigenvalue is -"),
        ((K, Y, [10**6]), DESCENT, r"overflows within 1e\+06 steps; it converges below .* = 0\.0"),
    ],
)  # fmt: skip
def test_refused_over_time(arguments, options, text):
    with pytest.raises(entk.InputError, match=text):
        entk.linearised_predictions(*arguments, **options)
