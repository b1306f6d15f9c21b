"""One kernel in every precision, and how far each is from float64.

Products of the lower precisions are those of a GPU. On the CPU they are emulated: rows of J from
`entk.jacobian` in float32, multiplied as `tests/emulation.py` defines them. On CUDA the library's
Triton kernels make them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import entk
from tests import emulation, oracle, tolerance

MEMORY = "4GB"
SKETCHES = (256, 1024, 4096)
AT_REST = {"bfloat16 at rest": torch.bfloat16, "float16 at rest": torch.float16}
ELEMENTS = 1 << 28  # of J at once: 1 GiB
COLUMNS = 1 << 13  # of J that are split and multiplied at once: their parts stay in a cache
NEAR = 0.1  # an eigenvalue, or a distance, that is off by less has been found


def library_ways(device: str, *, slow: bool) -> dict[str, dict]:
    """{name: options of `entk.plan_ntk`}; what is stored rounded is the first one's kernel.

    `slow`: with those that take minutes for networks on images.
    """
    backend, last = ("native", "fused") if device == "cpu" else ("triton", "pairs")
    found = {
        f"float32 {b} {s}": {"backend": b, "strategy": s}
        for b, s in ((backend, last), (backend, "rows"), ("torch", "rows"))
    }
    for b in (backend, "torch") if slow else ():
        found[f"float32 {b} pairs"] = {"backend": b, "strategy": "pairs"}
    if device != "cpu":
        for precision in emulation.PAIRS:
            options = {"backend": backend, "strategy": "rows", "precision": precision}
            found[f"{precision} {backend} rows"] = options
    return found | {f"sketch {k}": {"sketch": k} for k in SKETCHES[: None if slow else -1]}


def library(model: nn.Module, x: Tensor, outputs: str, **options) -> Tensor:
    plan = entk.plan_ntk(model, x, outputs=outputs, memory=MEMORY, rates="nominal", **options)
    precision = options.get("precision")
    return entk.ntk(model, x, outputs=outputs, plan=plan, precision=precision).cpu()


def truth(model: nn.Module, x: Tensor, outputs: str) -> Tensor:
    """The kernel of the same float32 parameters and samples, computed in float64."""
    return library(copy.deepcopy(model).double(), x.double(), outputs, backend="torch")


def check_truth(model: nn.Module, x: Tensor) -> float:
    """Relative error of `truth` against the plain loop of autograd, on two samples.

    Raises ArithmeticError: it is more than rounding in float64.
    """
    error = tolerance.error(truth(model, x[:2], "all"), oracle.ntk(model, x[:2]).cpu())
    if not error < tolerance.FLOAT64:
        raise ArithmeticError(
            f"the float64 kernel of two samples is off by {error:.1e}, expected less than "
            f"{tolerance.FLOAT64:.0e} beside a loop of autograd: nothing can be measured by it"
        )
    return error


def computed(
    model: nn.Module, x: Tensor, modes: Sequence[str], *, slow: bool
) -> dict[str, dict[str, Tensor]]:
    """{outputs: {way: kernel}} of a float32 model, as float32 on the CPU; slow ways for "all"."""
    device = x.device.type
    full = emulated(model, x) if device == "cpu" else {}
    found: dict[str, dict[str, Tensor]] = {}
    for outputs in modes:
        ways = library_ways(device, slow=slow and outputs == "all")
        made = {name: library(model, x, outputs, **options) for name, options in ways.items()}
        base = next(iter(made.values()))
        made |= {f"{p} emulated": oracle.mode(k, outputs).float() for p, k in full.items()}
        found[outputs] = made | {name: base.to(t).float() for name, t in AT_REST.items()}
    return found


def emulated(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """{precision: K [N, O, N, O] float64}, all of `emulation.gram` from products that they share.

    A product of parts (j, i) is that of (i, j) transposed, as z is x.
    """
    wanted = {(p[:4], *pair) for p, pairs in emulation.PAIRS.items() for pair in pairs}
    sums: dict[tuple, Tensor | float] = {key: 0.0 for key in wanted if key[1] <= key[2]}
    lead: tuple[int, ...] = ()
    for block in _rows(model, x):
        lead = tuple(block.shape[:2])
        for columns in block.flatten(0, 1).split(COLUMNS, 1):
            parts = {family: emulation.parts(columns, family) for family in ("tf32", "bf16")}
            for family, i, j in sums:
                sums[family, i, j] += parts[family][i] @ parts[family][j].T
    whole = {**sums, **{(f, j, i): value.T for (f, i, j), value in sums.items() if i != j}}
    return {
        precision: sum(whole[precision[:4], *pair] for pair in pairs).view(*lead, *lead)
        for precision, pairs in emulation.PAIRS.items()
    }


def _rows(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """[N, O, P of some parameters], as many parameters at a time as memory should hold."""
    outputs = model(x[:1]).numel()
    group: list[str] = []
    held = 0
    for name, p in model.named_parameters():
        size = len(x) * outputs * p.numel()
        if group and held + size > ELEMENTS:
            yield _joined(model, x, group)
            group, held = [], 0
        group.append(name)
        held += size
    yield _joined(model, x, group)


def _joined(model: nn.Module, x: Tensor, names: list[str]) -> Tensor:
    found = entk.jacobian(model, x, params=names)
    return torch.cat([j.flatten(2) for j in found.values()], 2)


def kernel_errors(found: Tensor, exact: Tensor) -> dict[str, tuple[float, float, float]]:
    """{quantity: (exact, found, error)} of a full kernel [N, O, N, O] or of [N, N].

    "norm": error |K' - K| / |K|. "entry": the largest |K' - K| over the largest |K|. "top" and
    "bottom": the largest and the smallest eigenvalue, error relative to it. "eigenvalues": how
    many there are, and how many are within 10 %. What overflowed has errors of infinity.
    """
    if not torch.isfinite(found).all():
        nothing = (float("nan"), float("nan"), float("inf"))
        return dict.fromkeys(("norm", "entry", "top", "bottom", "eigenvalues"), nothing)
    away = found.double() - exact
    largest = exact.abs().max().item()
    values, right = entk.spectrum(found), entk.spectrum(exact)
    near = ((values - right).abs() < NEAR * right).sum().item()
    top, bottom = ((right[i].item(), values[i].item()) for i in (0, -1))
    return {
        "norm": (exact.norm().item(), found.double().norm().item(), tolerance.error(found, exact)),
        "entry": (largest, found.abs().max().item(), away.abs().max().item() / largest),
        "top": (*top, abs(top[1] / top[0] - 1)),
        "bottom": (*bottom, abs(bottom[1] / bottom[0] - 1)),
        "eigenvalues": (len(right), near, 1 - near / len(right)),
    }


def distance(a: Tensor, b: Tensor) -> float:
    """`entk.kernel_distance`; nan where a kernel has overflowed."""
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("nan")
    return entk.kernel_distance(a, b)
