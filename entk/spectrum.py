"""Eigenvalues of a kernel, all or the largest, and what one number says of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from entk.errors import BackendUnavailableError, InputError
from entk.operator import NTKOperator
from entk.source import Kernel, Source

METHODS = ("auto", "dense", "eigsh", "lobpcg")
KINDS = ("entropy", "participation", "stable")
DENSE = 2048  # rows up to which "auto" takes all eigenvalues rather than iterate for the largest

Product = Callable[[Tensor], Tensor]


def spectrum(
    kernel: Kernel | NTKOperator, *, k: int | None = None, method: str = "auto"
) -> Float64[Tensor, "*O N"]:
    """Eigenvalues of a symmetric kernel in descending order, in float64 on the kernel's device.

        [N, N]            -> [N]         [N, O, N, O] -> [N*O], of the matrix [N*O, N*O]
        [O, N, N]         -> [O, N], of each output's matrix
        an `NTKOperator`  -> [k], of a kernel that is never formed (`k` is needed)

    Args:
        kernel: of one set of samples; tensor, array, `KernelFile`, path, or `entk.ntk_operator`.
        k: only the k largest.
        method: "dense" forms the matrix in float64 and takes all eigenvalues. "eigsh" (ARPACK's
            Lanczos method) and "lobpcg" find the k largest by products alone; they read a file
            block by block. "auto" is dense where there is a matrix and k is None or the rows are at
            most 2048, else eigsh.

    Raises:
        InputError: the kernel is not symmetric, has NaN or infinity, or the iteration does not
            converge.
        BackendUnavailableError: SciPy is missing where it is needed.

    Source: Lehoucq, Sorensen and Yang 1998, "ARPACK Users' Guide"; Knyazev 2001 (LOBPCG).

    >>> import torch, entk
    >>> entk.spectrum(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
    tensor([3., 2., 1.], dtype=torch.float64)
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}, expected one of {METHODS}")
    kernel = symmetric(kernel)
    rows = kernel.shape[-1]
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= rows):
        raise InputError(f"k={k!r}, expected None or a number of eigenvalues from 1 to {rows}")
    operator = isinstance(kernel, NTKOperator)
    if method == "auto":
        few = k is not None and (operator or rows > DENSE)
        method = "eigsh" if few or operator else "dense"
    if method == "dense":
        if operator:
            raise InputError("an operator has no matrix; take method='eigsh', or entk.ntk")
        return torch.linalg.eigvalsh(_mirrored(kernel.dense())).flip(-1)[..., :k]
    if k is None:
        raise InputError(
            f"{'an operator' if operator else f'method={method!r}'} needs k=, the number of "
            "eigenvalues; for a picture of all take entk.spectral_density"
        )
    found = [LARGEST[method](product, rows, k, kernel.dtype) for product in products(kernel)]
    values = torch.from_numpy(np.stack(found)).to(kernel.device)
    return values if len(kernel.shape) == 3 else values[0]


def effective_rank(kernel: Kernel, kind: str = "entropy") -> Float64[Tensor, "*O"]:
    """How many eigenvalues matter, between 1 and N; float64, no axes ([O] for [O, N, N]).

        "entropy"        exp(-Σ p log p), p = λ / Σ λ
        "participation"  (Σ λ)² / Σ λ²
        "stable"         Σ λ / max λ, which is |J|_F² / |J|_2² for K = J J'

    Each is the rank if all eigenvalues but zeros are equal, and stable <= participation <= entropy.
    Negative eigenvalues count as zero down to -√eps max λ, eps that of the kernel's dtype.

    Args:
        kernel: as for `spectrum`, which is taken densely; or eigenvalues, all of them [N].
        kind: which of the three.

    Raises:
        InputError: an eigenvalue is negative, or all are zero; and what `spectrum` raises.

    Source: Roy and Vetterli 2007 (EUSIPCO), "The effective rank"; participation ratio: Bell and
    Dean 1970 (Discuss. Faraday Soc. 50); stable rank: Rudelson and Vershynin 2007 (J. ACM 54).

    >>> import torch, entk
    >>> entk.effective_rank(torch.eye(4), "participation")
    tensor(4., dtype=torch.float64)
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}, expected one of {KINDS}")
    if isinstance(kernel, NTKOperator):
        raise InputError("an operator has too many eigenvalues to take all; form it with entk.ntk")
    if isinstance(kernel, (Tensor, np.ndarray)) and kernel.ndim == 1:
        values = torch.as_tensor(kernel)
        if not values.is_floating_point() or len(values) == 0:
            raise InputError(
                f"eigenvalues are {values.dtype} {tuple(values.shape)}, expected floating point [N]"
            )
        dtype, values = values.dtype, values.detach().double()
        if not torch.isfinite(values).all():
            raise InputError("eigenvalues contain NaN or infinity")
    else:
        source = symmetric(kernel)
        values, dtype = spectrum(kernel, method="dense"), source.dtype
    values = check_semidefinite(values, dtype)
    largest = values.amax(-1, keepdim=True)
    if (largest == 0).any():
        raise InputError("all eigenvalues are zero, so there is no effective rank")
    p = values / largest  # no overflow in squares
    total = p.sum(-1)
    if kind == "stable":
        return total
    if kind == "participation":
        return total.square() / p.square().sum(-1)
    p = p / total[..., None]
    return torch.special.entr(p).sum(-1).exp()


def symmetric(kernel: Kernel | NTKOperator) -> Source | NTKOperator:
    """A kernel of one set of samples that can be multiplied with."""
    if not isinstance(kernel, NTKOperator):
        kernel = Source(kernel, "the")
        kernel.check_symmetric()
    elif not kernel.symmetric:
        raise InputError(
            "the operator is between two sets of samples and has no eigenvalues; make it with z "
            "left out"
        )
    return kernel


def products(kernel: Source | NTKOperator) -> list[Product]:
    """V -> K V in float64 on the kernel's device for V [rows, k]; one for each output."""
    if isinstance(kernel, NTKOperator):
        return [lambda v: (kernel @ v.to(kernel.device, kernel.dtype)).double()]
    outputs = kernel.shape[0] if len(kernel.shape) == 3 else 1
    return [lambda v, o=o: kernel.product(v.to(kernel.device), o) for o in range(outputs)]


def check_semidefinite(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Eigenvalues of kernels of a dtype, those that are negative by rounding set to zero.

    Rounding is whatever is below half of the digits of the largest.
    """
    largest = values.amax(-1, keepdim=True)
    if (values < -(torch.finfo(dtype).eps ** 0.5) * largest.abs()).any():
        raise InputError(
            f"the smallest eigenvalue is {values.min():.3e} (the largest {values.max():.3e}), "
            "expected a positive semi-definite kernel"
        )
    return values.clamp(min=0)


def finite(product: Tensor) -> Tensor:
    if not torch.isfinite(product).all():
        raise InputError("the kernel contains NaN or infinity")
    return product


def _mirrored(k: Tensor) -> Tensor:
    return (k + k.mT) / 2


def _by_eigsh(product: Product, rows: int, k: int, dtype: torch.dtype) -> np.ndarray:
    linalg = _scipy()
    if k == rows:
        raise InputError(
            f"eigsh finds at most {rows - 1} of {rows} eigenvalues; take a smaller k=, or "
            "method='dense' of a kernel from entk.ntk"
        )
    operator = linalg.LinearOperator((rows, rows), matvec=_on_arrays(product), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(rows)  # the same every time
    try:
        found = linalg.eigsh(
            operator, k, which="LA", v0=start, tol=_tolerance(dtype), return_eigenvectors=False
        )
    except linalg.ArpackNoConvergence as error:
        raise InputError(
            f"eigsh found {len(error.eigenvalues)} of {k} eigenvalues before its limit of "
            "iterations; take a smaller k=, or method='dense'"
        ) from error
    return np.sort(found)[::-1].copy()


def _by_lobpcg(product: Product, rows: int, k: int, dtype: torch.dtype) -> np.ndarray:
    linalg = _scipy()
    if 5 * k > rows:
        raise InputError(
            f"lobpcg needs at least five rows for each eigenvalue, got {rows} for k={k}; take "
            "method='dense'"
        )
    times = _on_arrays(product)
    operator = linalg.LinearOperator((rows, rows), matvec=times, matmat=times, dtype=np.float64)
    # the error of an eigenvalue is the square of its residual: half of the digits are enough
    start, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((rows, k)))
    size = np.linalg.norm(operator @ start, 2)
    limit = _tolerance(dtype) ** 0.5 * size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it stopped early is seen below
        values, vectors = linalg.lobpcg(operator, start, tol=limit, maxiter=20 * k + 200)
    residual = np.linalg.norm(operator @ vectors - vectors * values, axis=0).max()
    if not residual <= 2 * limit:
        raise InputError(
            f"lobpcg stopped at a residual of {residual:.1e}, expected {limit:.1e}; take "
            "method='eigsh'"
        )
    return np.sort(values)[::-1].copy()


LARGEST = {"eigsh": _by_eigsh, "lobpcg": _by_lobpcg}


def _tolerance(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _on_arrays(product: Product) -> Callable[[np.ndarray], np.ndarray]:
    def times(v: np.ndarray) -> np.ndarray:
        columns = torch.from_numpy(np.ascontiguousarray(v.reshape(len(v), -1)))
        return finite(product(columns)).cpu().numpy().reshape(v.shape)

    return times


def _scipy():
    try:
        from scipy.sparse import linalg
    except ImportError as error:
        raise BackendUnavailableError(
            f"the largest eigenvalues need SciPy, which does not import ({error}); pip install "
            "scipy, or take method='dense'"
        ) from error
    return linalg
