"""The one file that touches the extension `entk._native`; it registers its operators with torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from entk import pages
from entk.factors import Factors
from entk.ops.gram import gram

try:
    import entk._native as _native
except ImportError as error:  # built without a compiler, or for another Python
    _native = None
    _import_error = f"{error}; reinstall entk with this Python"


def _loaded_openmp() -> str | None:
    """The OpenMP runtime that torch's own threads come from, if it is one that can be borrowed."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = dict.fromkeys(line.split()[-1] for line in lines if "/" in line)
    found = [p for p in paths if re.match(r"lib(g|i)?omp(5|-\w+)?\.so", Path(p).name)]
    own = [p for p in found if Path(p).is_relative_to(Path(torch.__file__).parent)]
    found = own or found
    return found[0] if len(found) == 1 else None  # of several, which one is torch's is not known


if _native is not None and (_openmp := _loaded_openmp()) is not None:
    _native.borrow_openmp(_openmp)


def native_status() -> str:
    """ "ok", or why the CPU part of the extension is missing."""
    return "ok" if _native is not None else _reason("native", _import_error)


def native_cuda_status() -> str:
    """ "ok", or why the CUDA part of the extension cannot serve."""
    if _native is None:
        return native_status()
    if not _native.cuda:
        return _reason("cuda", "the extension was built without CUDA")
    return "ok" if torch.cuda.is_available() else "no CUDA device, or torch is built without CUDA"


def instructions() -> str | None:
    """The instruction set of the products: "avx512", "avx2" or None."""
    return None if _native is None else _native.instructions


def why_not_products(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why gram, pairs_gram and rows cannot serve tensors of this device and dtype, or None."""
    if device.type != "cpu":
        return f"its products run on the CPU, the model is on {device.type}"
    if native_status() != "ok":
        return native_status()
    if instructions() is None:
        return "its products need a processor with AVX2 and FMA"
    return None if dtype in (torch.float32, torch.float64) else f"it has no products of {dtype}"


def _unit(t: Tensor, *axes: int) -> Tensor:
    """With a unit stride on one of the axes, and in memory what it says: a negative view is not."""
    t = t.resolve_neg()
    return t if 1 in [t.stride(axis) for axis in axes] else t.contiguous()


def gram_native(j: Tensor, k: Tensor, out: Tensor, outputs: str, *, lower: bool = False) -> None:
    """As `gram`; only the lower triangle is formed where it is all that is asked for."""
    gram(j, k, out, outputs, lower=lower, accumulate=_gram)


def _gram(j: Tensor, k: Tensor, out: Tensor, lower: bool) -> None:
    j, k = _unit(j, 1), _unit(k, 1)
    rows = (t for pair in ((t.data_ptr(), t.stride(0)) for t in (j, k, out)) for t in pair)
    shape = (*out.shape, j.shape[1])
    _native.gram(*rows, *shape, lower, _is_double(out), torch.get_num_threads())


PLAIN = ({(torch.float32, "cpu")}, {(torch.float64, "cpu")})
SMALL = 1 << 16  # multiply-adds below which a call costs more than it saves


def linear_native(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear where no gradient of the weight is needed; small ones stay with PyTorch."""
    small = input.numel() * len(weight) < SMALL
    given = [t for t in (input, weight, bias) if t is not None]
    odd = {(t.dtype, t.device.type) for t in given} not in PLAIN or weight.dim() != 2
    if small or odd or torch.is_autocast_enabled("cpu"):
        return F.linear(input, weight, bias)
    return NativeLinear.apply(input, weight, bias)


class NativeLinear(torch.autograd.Function):
    """F.linear of a constant weight, both ways by the extension's product."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        y = x.new_empty(*x.shape[:-1], len(weight))
        bias = None if bias is None else _unit(bias, 0)
        _multiply(_unit(x.reshape(-1, x.shape[-1]), 1), _unit(weight, 1), y, bias)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        grad = g.new_empty(*g.shape[:-1], weight.shape[1])
        _multiply(_unit(g.reshape(-1, g.shape[-1]), 1), _unit(weight, 1).T, grad, None)
        return grad, None, None


def _multiply(a: Tensor, b: Tensor, c: Tensor, bias: Tensor | None) -> None:
    """c = a b' (+ bias) for a [R, P], b [Q, P] with a unit stride each, c dense [..., Q]."""
    operands = (a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride())
    shape = (len(a), len(b), a.shape[1])
    start = 0 if bias is None else bias.data_ptr()
    _native.multiply(*operands, start, c.data_ptr(), *shape, _is_double(c), torch.get_num_threads())


def rows_native(f: Factors) -> Tensor:
    """As `rows` of factors that are no tokens: J [N, O, P]."""
    a, g = _with_unit_strides(f)
    n, o, groups, c, _ = g.shape
    j = pages.empty((n, o, groups * c * a.shape[2]), g)
    sides = (g.data_ptr(), g.shape, g.stride(), a.data_ptr(), a.shape, a.stride())
    _native.rows(*sides, j.data_ptr(), _is_double(g), torch.get_num_threads())
    return j


def fused_gram_native(
    x: Factors, z: Factors, out: Tensor, outputs: str, *, lower: bool = False
) -> None:
    """As `fused_gram`: J exists a strip of parameters at a time, in the caches."""
    (a, g), (b, h) = _with_unit_strides(x), _with_unit_strides(z)
    sides = (g.data_ptr(), g.shape, g.stride(), a.data_ptr(), a.shape, a.stride())
    sides += (h.data_ptr(), h.shape, h.stride(), b.data_ptr(), b.stride())
    row = out.stride(1 if outputs in ("all", "diagonal") else 0)
    place = (out.data_ptr(), row, out.stride(0), _mode(outputs), lower)
    _native.fused_gram(*sides, *place, _is_double(out), torch.get_num_threads())


def _with_unit_strides(f: Factors) -> tuple[Tensor, Tensor]:
    return tuple(_unit(t, -2, -1) for t in f)


def _mode(outputs: str) -> int:
    return ("all", "diagonal").index(outputs) if outputs in ("all", "diagonal") else 2


def pairs_gram_native(
    x: Factors, z: Factors, out: Tensor, outputs: str, *, lower: bool = False
) -> None:
    """As `pairs_gram`; what comes between the factors and `out` stays in the caches."""
    a, g, b, h = (t.resolve_neg().contiguous() for t in (*x, *z))
    patch = 0 if x.is_tokens else a.shape[2]
    n, o, m = {"all": (0, 1, 2), "diagonal": (1, 0, 2)}.get(outputs, (0, 0, 1))
    strides = (out.stride(n), out.stride(o), out.stride(m))
    _native.pairs_gram(
        *(t.data_ptr() for t in (a, g, b, h)),
        x.is_tokens,
        g.shape,
        len(h),
        patch,
        h.shape[-1],
        out.data_ptr(),
        *strides,
        _mode(outputs),
        lower,
        _is_double(out),
        torch.get_num_threads(),
    )


def _is_double(t: Tensor) -> bool:
    return t.dtype == torch.float64


def _reason(part: str, otherwise: str) -> str:
    """What the build noted about itself."""
    note = Path(__file__).parents[1] / "_build_info.json"
    found = json.loads(note.read_text()).get(part) if note.exists() else None
    return found if found not in (None, "ok") else otherwise


def _arguments(a: Tensor, b: Tensor) -> tuple:
    pointers = (a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride())
    return (*pointers, *a.shape, a.dtype == torch.float64)


if _native is not None:

    @torch.library.custom_op("entk::gram_dot", mutates_args=(), device_types="cpu")
    def gram_dot_op(a: Tensor, b: Tensor) -> Tensor:
        """As `gram_dot`, for two matrices of one shape and dtype, float32 or float64."""
        sums = _native.gram_dot(*_arguments(a, b), torch.get_num_threads())
        return torch.tensor(sums, dtype=torch.float64, device="cpu")

    @gram_dot_op.register_fake
    def _(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty(3, dtype=torch.float64)

    if _native.cuda:

        @gram_dot_op.register_kernel("cuda")
        def _(a: Tensor, b: Tensor) -> Tensor:
            with torch.cuda.device(a.device):
                scratch = a.new_empty(_native.gram_dot_cuda_scratch(), dtype=torch.float64)
                out = a.new_empty(3, dtype=torch.float64)
                stream = torch.cuda.current_stream().cuda_stream
                pointers = (scratch.data_ptr(), out.data_ptr(), stream)
                _native.gram_dot_cuda(*_arguments(a, b), *pointers)
            return out
