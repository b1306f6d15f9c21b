"""Kernel regression: what the linearised network converges to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from entk.errors import InputError
from entk.source import Kernel, Source


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """Result of `kernel_regression`, in the kernel's dtype.

    Of what shapes:

        dual    (K + ridge I)⁻¹ y, like y
        train   K dual, like y
        test    K_test dual, [M, O], or [M] if y is [N]; None without k_test
        left_out  for each sample, the prediction of the regression without it, like y; None
            unless asked for
    """

    dual: Float[Tensor, " N *O"]
    train: Float[Tensor, " N *O"]
    test: Float[Tensor, " M *O"] | None
    left_out: Float[Tensor, " N *O"] | None = None


def kernel_regression(
    k_train: Kernel,
    y: Shaped[Tensor, " N *O"],
    k_test: Kernel | None = None,
    *,
    ridge: float = 0.0,
    leave_one_out: bool = False,
) -> KernelRegression:
    """f = K_test (K_train + ridge I)⁻¹ y, by Cholesky decomposition in float64.

    It minimises Σ (f - y)² + ridge |f|², |.| the norm of the kernel's function space; `ridge` is
    not multiplied by N. With ridge 0 it is the limit of `linearised_predictions` for f0 = 0 (for
    another f0, regress y - f0 and add f0).

        k_train                   y             k_test                    each output has
        [N, N]                    [N], [N, O]   [M, N]                    the same kernel
        [O, N, N]                 [N, O]        [O, M, N]                 its own
        [N, O, N, O], [N*O, N*O]  [N, O]        [M, O, N, O], [M*O, N*O]  a share in one kernel

    Args:
        k_train: of the training samples; tensor, array, `KernelFile` or path, read whole.
        y: real targets.
        k_test: rows are test samples, columns training samples: `entk.ntk(model, x_test, x)`.
        ridge: at least 0.
        leave_one_out: also each sample's prediction by all others, y_n - G_nn⁻¹ dual_n with
            G = (K_train + ridge I)⁻¹ and G_nn the block of sample n, one number or [O, O].

    Raises:
        InputError: shapes do not fit, a kernel or y is not finite, k_train is not symmetric, or
            k_train + ridge I is not positive definite (it names the smallest eigenvalue).

    Source: Saunders, Gammerman and Vovk 1998 (dual ridge regression); Jacot et al. 2018
    (arXiv 1806.07572), section 5; leave-one-out: Rasmussen and Williams 2006, section 5.4.2.

    >>> import torch, entk
    >>> k = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> entk.kernel_regression(k, torch.tensor([3.0, 3.0]), k[:1]).test
    tensor([3.])
    """
    if not isinstance(ridge, (int, float)) or not 0 <= ridge < float("inf"):
        raise InputError(f"ridge={ridge!r}, expected a number of at least 0")
    system = System(k_train, y)
    crossed = None if k_test is None else system.test_kernel(k_test)
    k = system.k
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    factor, failed = torch.linalg.cholesky_ex(k + ridge * eye)
    size = k.diagonal(dim1=-2, dim2=-1).abs().amax()
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    if failed.any() or (pivots <= torch.finfo(system.dtype).eps * size).any():
        raise InputError(_not_definite(system, ridge))
    dual = torch.cholesky_solve(system.y, factor)
    test = None if crossed is None else system.like_y(crossed @ dual)
    left_out = system.like_y(system.left_out(factor, dual)) if leave_one_out else None
    return KernelRegression(system.like_y(dual), system.like_y(k @ dual), test, left_out)


def _not_definite(system: System, ridge: float) -> str:
    values = torch.linalg.eigvalsh(system.k)
    least, most = values.min().item(), values.max().item()
    enough = 2 * max(-least, values.shape[-1] * torch.finfo(system.dtype).eps * most)
    return (
        f"k_train + {ridge:g} I is not positive definite in {system.dtype}: the smallest "
        f"eigenvalue of k_train is {least:.2e}, the largest {most:.2e}; pass ridge="
        f"{enough:.0e} or more, or leave out samples that are equal"
    )


class System:
    """A kernel and targets as K [B, R, R] and y [B, R, C] in float64, whatever their form."""

    def __init__(self, k_train: Kernel, y: Tensor):
        source = Source(k_train, "the training")
        source.check_symmetric()
        self.dtype, self.device = source.dtype, source.device
        self._shape = check_targets("y", y, self.device)
        y = y.detach().double().reshape(len(y), -1)
        self.n, self.o = y.shape
        rows = source.shape[-1]
        if len(source.shape) == 3:
            self.kind, fits = "diagonal", source.shape == (self.o, self.n, self.n)
        elif len(source.form) == 4:
            self.kind, fits = "full", source.form[:2] == (self.n, self.o)
        else:
            self.kind = "shared" if rows == self.n else "full"
            fits = rows in (self.n, self.n * self.o)
        if not fits:
            raise InputError(
                f"y has shape {self._shape}, which does not fit {source.label} kernel's "
                f"{source.form}: expected [N] or [N, O] for [N, N], [N, O] for [N, O, N, O] or "
                "[O, N, N]"
            )
        k = source.dense()
        self.k = k if self.kind == "diagonal" else k[None]
        self.k = (self.k + self.k.mT) / 2
        self.y = self.columns(y)

    def columns(self, t: Tensor) -> Tensor:
        """[N, O] -> [B, R, C]"""
        if self.kind == "full":
            return t.reshape(1, -1, 1)
        return t[None] if self.kind == "shared" else t.mT[..., None]

    def like_y(self, t: Tensor) -> Tensor:
        """[B, R, C] -> [N, O], or [N] if y is, in the kernel's dtype; N of any size."""
        if self.kind == "full":
            t = t.reshape(-1, self.o)
        else:
            t = t[0] if self.kind == "shared" else t[..., 0].mT
        return t.reshape(-1, *self._shape[1:]).to(self.dtype)

    def left_out(self, factor: Tensor, dual: Tensor) -> Tensor:
        """[B, R, C], from the Cholesky factor of K + ridge I."""
        size = (self.n, self.o if self.kind == "full" else 1)
        blocks = torch.cholesky_inverse(factor).unflatten(2, size).unflatten(1, size)
        blocks = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # [B, N, O or 1, O or 1]
        return self.y - torch.linalg.solve(blocks, dual.unflatten(1, size)).flatten(1, 2)

    def test_kernel(self, k_test: Kernel) -> Tensor:
        """K_test [B, rows of M, R]"""
        source = Source(k_test, "the test")
        if source.device != self.device:
            raise InputError(
                f"{source.label} kernel is on {source.device} but the training kernel on "
                f"{self.device}; move one of them"
            )
        n, o = self.n, self.o
        m = source.form[1 if self.kind == "diagonal" else 0]
        expected = {"shared": (m, n), "diagonal": (o, m, n), "full": (m, o, n, o)}[self.kind]
        flat = self.kind == "full" and len(source.form) == 2
        if flat:
            fits = source.shape[1] == n * o and source.shape[0] % o == 0
        else:
            fits = source.form == expected
        if not fits:
            letters = {"shared": "[M, N]", "diagonal": "[O, M, N]", "full": "[M, O, N, O]"}
            raise InputError(
                f"{source.label} kernel has shape {source.form}, expected {letters[self.kind]} "
                f"with N = {n}, O = {o}: rows are test samples, columns training samples"
            )
        k = source.dense()
        return k if self.kind == "diagonal" else k[None]

    def outputs(self, name: str, f: Tensor | None, samples: int) -> Tensor:
        """f as [B, R, C] if it is shaped like y with `samples` in place of N; None is 0."""
        expected = (samples, *self._shape[1:])
        if f is None:
            return self.columns(self.y.new_zeros(samples, self.o))
        if check_targets(name, f, self.device) != expected:
            raise InputError(f"{name} has shape {tuple(f.shape)}, expected {expected}")
        return self.columns(f.detach().double().reshape(samples, self.o))


def check_targets(name: str, y: Tensor, device: torch.device) -> tuple[int, ...]:
    """The shape of real, finite numbers for samples [N] or [N, O]."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        found = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise InputError(
            f"{name} is {found}, expected a floating-point tensor [N] or [N, O]; make classes "
            "one-hot"
        )
    if y.dim() not in (1, 2) or 0 in y.shape:
        raise InputError(
            f"{name} has shape {tuple(y.shape)}, expected [N] or [N, O] without empty axes"
        )
    if y.device != device:
        raise InputError(f"{name} is on {y.device} but the kernel on {device}; move one of them")
    if not torch.isfinite(y).all():
        raise InputError(f"{name} contains NaN or infinity")
    return tuple(y.shape)
