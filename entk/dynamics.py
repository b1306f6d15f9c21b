"""The linearised network's outputs over training, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from entk.errors import InputError
from entk.regression import System
from entk.source import Kernel
from entk.spectrum import check_semidefinite

FLOWS = ("gradient_flow", "gradient_descent")


@dataclass(frozen=True, eq=False)
class LinearisedPredictions:
    """Result of `linearised_predictions`, in the kernel's dtype.

    Of what shapes:

        train   [T, N, O], or [T, N] if y is [N]
        test    [T, M, O] or [T, M]; None without k_test
    """

    train: Float[Tensor, "T N *O"]
    test: Float[Tensor, "T M *O"] | None


def linearised_predictions(
    k_train: Kernel,
    y: Shaped[Tensor, " N *O"],
    times: Shaped[Tensor, " T"] | Sequence[float],
    *,
    k_test: Kernel | None = None,
    f0: Shaped[Tensor, " N *O"] | None = None,
    f0_test: Shaped[Tensor, " M *O"] | None = None,
    flow: str = "gradient_flow",
    learning_rate: float = 1.0,
    momentum: float = 0.0,
) -> LinearisedPredictions:
    """Outputs of the linearised network at `times` of full-batch training, without training.

    The loss is L(w) = ½ Σ_n Σ_o (f_o(x_n; w) - y[n,o])², a sum: for the mean over N and O of
    squared errors (`torch.nn.MSELoss`), pass learning_rate = 2 η / (N O). From outputs f0, with
    η the learning rate and K the kernel of the training samples,

        "gradient_flow"     dw/dt = -η ∇L
            train  f(t) = y + exp(-η K t) (f0 - y)
            test   f(t) = f0_test - K_test K⁻¹ (I - exp(-η K t)) (f0 - y)

        "gradient_descent"  v ← μ v + ∇L,  w ← w - η v,  from v = 0: `torch.optim.SGD(lr=η,
            momentum=μ)`, heavy ball, at numbers of steps s. In the mode of eigenvalue λ
            r ← (1 - ηλ) r - ηλμ b,  b ← r + μ b  (both from the old ones; r = 1, b = 0 at first)
            train  f(s) = y + U r U' (f0 - y)
            test   f(s) = f0_test + K_test U a U' (f0 - y),  a the sum of -η b over the steps

    by the eigendecomposition K = U λ U' in float64, never by K⁻¹: a singular K is no obstacle.
    The kernel's forms are those of `kernel_regression`, the limit of large t.

    Args:
        k_train, y, k_test: as for `kernel_regression`.
        times: [T], t >= 0 or numbers of steps, in any order.
        f0, f0_test: outputs before training, like y, and [M, O] or [M]; None: zero.
        flow: which of the two.
        learning_rate: η > 0.
        momentum: μ, 0 <= μ < 1, of gradient descent.

    Raises:
        InputError: as `kernel_regression`; K has a negative eigenvalue; or gradient descent
            overflows, as it does sooner or later for η >= 2 (1 + μ) / max λ.

    Source: Lee et al. 2019 (arXiv 1902.06720), section 2.2; heavy ball: Polyak 1964.

    >>> import torch, entk
    >>> k, y = torch.diag(torch.tensor([1.0, 2.0])), torch.ones(2)
    >>> entk.linearised_predictions(k, y, [0, 1], flow="gradient_descent", learning_rate=0.5).train
    tensor([[0.0000, 0.0000],
            [0.5000, 1.0000]])
    """
    times = _check_times(times, flow)
    if not isinstance(learning_rate, (int, float)) or not 0 < learning_rate < float("inf"):
        raise InputError(f"learning_rate={learning_rate!r}, expected a positive number")
    if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
        raise InputError(f"momentum={momentum!r}, expected a number in [0, 1)")
    if momentum and flow == "gradient_flow":
        raise InputError(
            f"momentum={momentum!r} is for flow='gradient_descent'; gradient flow has none"
        )
    system = System(k_train, y)
    start = system.outputs("f0", f0, system.n)
    if k_test is None and f0_test is not None:
        raise InputError("f0_test without k_test; pass the kernel of test and training samples")
    if k_test is not None and (f0 is None) != (f0_test is None):
        raise InputError("f0 and f0_test are both outputs before training; pass both or neither")
    values, modes = torch.linalg.eigh(system.k)
    values = check_semidefinite(values, system.dtype)
    error = modes.mT @ (start - system.y)
    if k_test is not None:
        crossed = system.test_kernel(k_test) @ modes
        samples = crossed.shape[1] // (system.o if system.kind == "full" else 1)
        start_test = system.outputs("f0_test", f0_test, samples)
    train, test = [], []
    for t in times:
        if flow == "gradient_flow":
            left, summed = _flow(values, learning_rate, t)
        else:
            left, summed = _descent(values, learning_rate, momentum, int(t))
        train.append(system.like_y(system.y + modes @ (left[..., None] * error)))
        if k_test is not None:
            test.append(system.like_y(start_test + crossed @ (summed[..., None] * error)))
        if not all(torch.isfinite(part[-1]).all() for part in (train, test) if part):
            stable = 2 * (1 + momentum) / values.max().item()
            raise InputError(
                f"gradient descent with learning_rate={learning_rate:g} overflows within {t:g} "
                f"steps; it converges below 2 (1 + momentum) / max λ = {stable:.3g}"
            )
    return LinearisedPredictions(torch.stack(train), torch.stack(test) if test else None)


def _flow(values: Tensor, rate: float, t: float) -> tuple[Tensor, Tensor]:
    """Per mode, the share r(t) of the error that is left, and a with r = 1 + λ a."""
    decay = -rate * t * values
    # where λ is 0, (exp(-ηλt) - 1) / λ has the limit -ηt
    some = values > 0
    summed = torch.where(some, torch.expm1(decay) / values.where(some, 1.0), -rate * t)
    return decay.exp(), summed


def _descent(values: Tensor, rate: float, momentum: float, steps: int) -> tuple[Tensor, Tensor]:
    """As `_flow`, after so many steps: a power of the map of (a, r, b), which is linear."""
    step = values.new_zeros(*values.shape, 3, 3)
    step[..., 0, 0] = 1
    step[..., 0, 1] = -rate
    step[..., 0, 2] = -rate * momentum
    step[..., 1, 1] = 1 - rate * values
    step[..., 1, 2] = -rate * momentum * values
    step[..., 2, 1] = 1
    step[..., 2, 2] = momentum
    after = torch.linalg.matrix_power(step, steps)
    return after[..., 1, 1], after[..., 0, 1]


def _check_times(times: Tensor | Sequence[float], flow: str) -> list[float]:
    if flow not in FLOWS:
        raise InputError(f"flow={flow!r}, expected one of {FLOWS}")
    try:
        found = torch.as_tensor(times, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"times are {times!r}, expected numbers [T] ({error})") from error
    if found.dim() != 1 or len(found) == 0:
        raise InputError(f"times have shape {tuple(found.shape)}, expected [T], T >= 1")
    bad = ~(torch.isfinite(found) & (found >= 0))
    if flow == "gradient_descent":
        bad |= found != found.floor()
    if bad.any():
        kind = "whole numbers of steps" if flow == "gradient_descent" else "finite times"
        raise InputError(
            f"times have {found[bad][0].item():g} for flow={flow!r}, expected {kind} from 0 on; "
            "the limit is entk.kernel_regression"
        )
    return found.tolist()
