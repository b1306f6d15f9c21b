"""`ntk_operator`: products with a kernel that is never formed, K V = J (J'ᵀ V)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from entk.capture import check_finite, check_state, saved_storages
from entk.errors import BackendUnavailableError, InputError
from entk.inputs import check_samples, first_parameter, parameter_names
from entk.models import Params, as_module
from entk.precision import computing
from entk.recorder import Recorder
from entk.samples import Input, Samples, Select, as_samples, map_tensors
from entk.soundness import check_checkpoints, check_independence, several_of
from entk.tangent import Linearization, choose_mode, shell_of
from entk.tiling import available_memory

LARGEST = 256  # samples of a batch that nobody chose: more are no faster


def ntk_operator(
    model: nn.Module | Callable,
    x: Input,
    z: Input | None = None,
    *,
    params: Params = None,
    select: Select | None = None,
    batch: int | None = None,
) -> NTKOperator:
    """K [N*O, M*O] as a linear map: K V = J(x) (J(z)ᵀ V), exactly, and neither K nor J is formed.

    K[n*O+o, m*O+q] = <J[n,o], J'[m,q]> is `entk.ntk(model, x, z).reshape(N*O, M*O)`. A product
    takes, for each batch of samples and each column of V, one backward pass at z and one forward
    derivative at x (two backward passes where PyTorch has no right forward derivative). In memory
    are the activations of one batch, the samples, and as many numbers as parameters for each
    column. The parameters are those of the moment: later training does not change the operator, and
    products carry no gradient.

    Args:
        model: any module in eval mode whose samples (axis 0) do not interact; left untouched.
        x, z: samples [N, ...] and [M, ...], not copied; z = None stands for x. A tuple or dict of
            tensors, `params` and `select` as for `ntk`.
        batch: samples that go through the model at once; None takes what fits into half of the
            free memory, 256 at most.

    Raises:
        InputError, ModelStateError, UnsupportedModelError: as `ntk`.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian" (J v); Novak et al. 2022
    (arXiv 2206.08720; kernel-vector products).

    >>> import torch, entk
    >>> model, x = torch.nn.Linear(3, 2).double(), torch.randn(4, 3).double()
    >>> k = entk.ntk_operator(model, x)
    >>> v = torch.randn(8, 5).double()
    >>> torch.allclose(k @ v, entk.ntk(model, x).reshape(8, 8) @ v)
    True
    """
    model, params = as_module(model, params, select)
    names = parameter_names(model, params)
    x, z = as_samples(x, "x"), None if z is None else as_samples(z, "z")
    check_samples(first_parameter(model, names), x, z)
    check_state(model)
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise InputError(f"batch={batch!r}, expected a positive number of samples or None")
    with torch.inference_mode(False):
        state = {n: p.detach().clone() for n, p in model.named_parameters()}
        state |= {n: b.detach().clone() for n, b in model.named_buffers()}
    x = map_tensors(x, Tensor.detach)
    z = None if z is None else map_tensors(z, Tensor.detach)
    linear = Linearization(shell_of(model, state, names), state, names)
    outputs, size = _look(linear, x)
    with computing():
        mode = choose_mode(lambda p: linear.outputs(p, x[:2]), linear.at)
    batch = batch or max(1, min(LARGEST, available_memory(state[names[0]].device) // size))
    linear = replace(linear, o=outputs, mode=mode, batch=batch)
    return NTKOperator(linear, x, x if z is None else z, z is None)


def _look(linear: Linearization, x: Tensor | Samples) -> tuple[int, int]:
    """(outputs, bytes that one sample needs), if the model has per-sample derivatives at all."""
    several = several_of(x)
    leaves = linear.leaves()
    with computing(), Recorder({}):  # which refuses random functions
        with saved_storages() as kept:
            first = linear.outputs(leaves, several[:1])
        y = linear.outputs(leaves, several)
    check_finite(y)
    check_checkpoints(first)
    check_independence(linear.shell, linear.state, several, y.detach(), first.detach())
    for t in linear.state.values():
        kept.pop(t.untyped_storage().data_ptr(), None)
    # what is kept, its gradients, and the primal and tangent of the widest layer: thrice is enough
    return first.shape[1], 3 * sum(kept.values()) + first.nbytes + 1


@dataclass(frozen=True, eq=False)
class NTKOperator:
    """The kernel [N*O, M*O] as a linear map; `K @ v` for a tensor or array [M*O] or [M*O, k].

    Also `K.T`, `K.shape`, `K.dtype`, `K.device`, `K.outputs` (O), `K.symmetric` (z was None).
    """

    linear: Linearization
    x: Tensor | Samples
    z: Tensor | Samples
    symmetric: bool

    @property
    def outputs(self) -> int:
        """O, of one sample."""
        return self.linear.o

    @property
    def shape(self) -> tuple[int, int]:
        """(N*O, M*O)."""
        return (len(self.x) * self.outputs, len(self.z) * self.outputs)

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters, and of what it is multiplied with."""
        return self.linear.state[self.linear.names[0]].dtype

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return self.linear.state[self.linear.names[0]].device

    @property
    def T(self) -> NTKOperator:
        """The transposed kernel, of z and x."""
        return self if self.symmetric else replace(self, x=self.z, z=self.x)

    def __matmul__(
        self, v: Float[Tensor, " MO *k"] | Shaped[np.ndarray, " MO *k"]
    ) -> Float[Tensor, " NO *k"] | Float[np.ndarray, " NO *k"]:
        """K v, as a tensor or an array like v. Raises InputError if v does not fit."""
        columns = self._columns(v, self.shape[1])
        with torch.no_grad():
            out = self.linear.product(self.x, self.linear.transposed(self.z, columns))
        out = out if len(v.shape) == 2 else out[:, 0]
        return out if isinstance(v, Tensor) else out.cpu().numpy()

    def jacobian_transpose(
        self, w: Float[Tensor, " NO *k"] | Shaped[np.ndarray, " NO *k"]
    ) -> dict[str, Float[Tensor, "*k_and_shape"]]:
        """J(x)ᵀ w = Σ w[n*O+o] J[n,o]: {parameter: [*shape]} for w [N*O], [k, *shape] for [N*O, k].

        That of z is `K.T.jacobian_transpose`.
        """
        found = self.linear.transposed(self.x, self._columns(w, self.shape[0]))
        return found if len(w.shape) == 2 else {name: t[0] for name, t in found.items()}

    def jacobian_product(
        self, u: Mapping[str, Float[Tensor, "*k_and_shape"]]
    ) -> Float[Tensor, " NO *k"]:
        """J(x) u, the change of all outputs along u: [N*O] for u {parameter: [*shape]}, [N*O, k]
        for {parameter: [k, *shape]}. That of z is `K.T.jacobian_product`."""
        single = self._check_direction(u)
        columns = {name: u[name][None] if single else u[name] for name in self.linear.names}
        out = self.linear.product(self.x, columns)
        return out[:, 0] if single else out

    def to_scipy(self):
        """A `scipy.sparse.linalg.LinearOperator`, for solvers and eigensolvers.

        Raises BackendUnavailableError if SciPy is not installed.
        """
        try:
            from scipy.sparse.linalg import LinearOperator
        except ImportError as error:
            raise BackendUnavailableError(
                f"to_scipy needs SciPy, which does not import ({error}); pip install scipy"
            ) from error

        def times(k: NTKOperator):
            return lambda v: (k @ v.reshape(v.shape[0], -1)).reshape(-1, *v.shape[1:])

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        ways = {"matvec": times(self), "matmat": times(self)}
        ways |= {"rmatvec": times(self.T), "rmatmat": times(self.T)}
        return LinearOperator(self.shape, dtype=dtype, **ways)

    def __repr__(self) -> str:
        count = len(self.linear.names)
        return f"NTKOperator(shape={self.shape}, dtype={self.dtype}, {count} parameters)"

    def _columns(self, v: Tensor | np.ndarray, rows: int) -> Tensor:
        """v as [rows, k] of the operator's dtype; arrays are converted, tensors have to fit."""
        if isinstance(v, np.ndarray) and v.dtype.kind in "iuf":
            v = torch.from_numpy(np.ascontiguousarray(v)).to(self.device, self.dtype)
        if not isinstance(v, Tensor):
            raise InputError(f"v is {type(v).__name__}, expected a tensor or a real array")
        if v.dim() not in (1, 2) or v.shape[0] != rows or 0 in v.shape:
            raise InputError(
                f"v has shape {tuple(v.shape)}, expected [{rows}] or [{rows}, k]: samples times "
                f"outputs, {rows // self.outputs} x {self.outputs}"
            )
        if v.dtype != self.dtype or v.device != self.device:
            raise InputError(
                f"v is {v.dtype} on {v.device} but the operator is {self.dtype} on {self.device}; "
                "convert one of them"
            )
        if not torch.isfinite(v).all():
            raise InputError("v contains NaN or infinity")
        return v.detach().reshape(rows, -1)

    def _check_direction(self, u: Mapping[str, Tensor]) -> bool:
        """Whether u is one direction rather than several."""
        at = self.linear.at
        if not isinstance(u, Mapping) or u.keys() != at.keys():
            found = sorted(u) if isinstance(u, Mapping) else type(u).__name__
            raise InputError(f"u has {found}, expected a tensor for each of {list(at)}")
        first = next(iter(at))
        lead = tuple(u[first].shape[: max(0, u[first].dim() - at[first].dim())])
        for name, t in at.items():
            if len(lead) > 1 or 0 in lead or u[name].shape != (*lead, *t.shape):
                raise InputError(
                    f"u[{name!r}] has shape {tuple(u[name].shape)}, expected {tuple(t.shape)}, or "
                    f"[k, ...] for several directions, the same k for all"
                )
            if u[name].dtype != self.dtype or u[name].device != self.device:
                raise InputError(
                    f"u[{name!r}] is {u[name].dtype} on {u[name].device} but the operator is "
                    f"{self.dtype} on {self.device}; convert one of them"
                )
        return not lead
