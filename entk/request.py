"""What is asked for, checked, and the plan that answers it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from entk.capture import check_state, forward
from entk.errors import InputError, UnsupportedModelError
from entk.factors import kernel_shape
from entk.inputs import (
    check_finite_parameters,
    check_flags,
    check_outputs,
    check_samples,
    first_parameter,
    not_finite,
    parameter_names,
    parse_bytes,
)
from entk.models import Params, as_module
from entk.ops import choose_backend
from entk.plan import Job, Plan, layer_costs, product_cost
from entk.precision import check_precision, computing
from entk.rates import Rates, choose_rates
from entk.samples import Input, Samples, Select, as_samples
from entk.sketch import Sketch
from entk.survey import Survey, survey
from entk.tiling import (
    Tiling,
    available_memory,
    captures,
    choose_tiles,
    footprint,
    output_parts,
    refit,
)


@dataclass(frozen=True)
class Target:
    """What is asked for, checked, and what was found out about the model."""

    model: nn.Module
    x: Tensor | Samples
    z: Tensor | Samples | None  # None: x
    outputs: str
    names: tuple[str, ...]
    found: Survey

    @cached_property  # asked for at every tile
    def like(self) -> Tensor:
        """A tensor of the kernel's dtype and device."""
        return first_parameter(self.model, self.names)

    @property
    def samples(self) -> tuple[int, int]:
        return len(self.x), len(self.x if self.z is None else self.z)


def prepare(
    model: nn.Module | Callable,
    x: Input,
    z: Input | None,
    outputs: str,
    params: Params,
    select: Select | None = None,
    strict: bool = False,
) -> Target:
    """Check every argument and look at the model; nothing of the kernel is computed yet."""
    model, params = as_module(model, params, select)
    check_outputs(outputs)
    check_flags(strict=strict)
    names = parameter_names(model, params)
    x, z = as_samples(x, "x"), None if z is None else as_samples(z, "z")
    check_samples(first_parameter(model, names), x, z)
    check_state(model)
    check_finite_parameters(model, names)
    for label, samples in (("x", x), ("z", z)):
        _check_finite_samples(model, samples, label)
    with computing():
        found = survey(model, x, names, outputs == "sum")
    if strict:
        check_covered(found)
    return Target(model, x, z, outputs, names, found)


def _check_finite_samples(model: nn.Module, x: Tensor | Samples | None, label: str) -> None:
    """NaN or infinity in a sample is refused if it is in the model's outputs as well."""
    bad = None if x is None else not_finite(x, label)
    if bad is None:
        return
    name, index = bad
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        y = forward(model, {n: t.detach().clone() for n, t in state.items()}, x[[index]])
    if not y.isfinite().all():
        raise InputError(
            f"{name} has NaN or infinity in sample {index}, and so have the model's outputs; "
            "leave that sample out or repair it"
        )


def check_covered(found: Survey) -> None:
    """`strict=True`: every parameter is served by a rule."""
    missing = [s for s in found.served if s.kind == "generic"]
    if missing:
        names = "; ".join(f"{s.name} ({s.note})" for s in missing[:4])
        raise UnsupportedModelError(
            f"strict=True, but {len(missing)} of {len(found.served)} parameters have no rule and "
            f"would go through torch.func: {names}{'; ...' if len(missing) > 4 else ''}; leave "
            "strict out, or name the others with params="
        )


def make_plan(
    target: Target,
    *,
    memory: int | str | None = None,
    block: int | None = None,
    strategy: str | None = None,
    backend: str = "auto",
    precision: str | None = None,
    rates: Rates | str | None = None,
    copies: int = 1,
    streamed: bool = False,
    sketch: Sketch | None = None,
    parted: bool = True,
) -> Plan:
    """A plan for a target, of `copies` kernels (by_layer) that are kept, or else `streamed`.

    `parted`: outputs may be taken in parts, and a tile is whole when the last one is.
    """
    found, outputs, like, samples = target.found, target.outputs, target.like, target.samples
    backend = choose_backend(backend, like.device, like.dtype)
    precision = check_precision(precision, backend, like.dtype)
    if block is not None and (type(block) is not int or block < 1):
        raise InputError(f"block={block!r}, expected a number of samples, at least 1")
    memory = available_memory(like.device) if memory is None else parse_bytes(memory)
    job = Job(samples, outputs, target.z is None, like.element_size(), backend, sketch=sketch)
    sketched = 0 if sketch is None else copies * sketch.size
    shape = kernel_shape(*samples, found.outputs, outputs)
    result = 0 if streamed else copies * like.element_size() * torch.Size(shape).numel()
    rates = choose_rates(rates, backend, like.device, like.dtype, outputs)
    for _ in range(2):  # costs depend on the tiles, which depend on what the costs have chosen
        costs = layer_costs(found, job, strategy, rates)
        size = partial(footprint, found, costs, outputs, like.element_size(), result, copies)
        counts = output_parts(found, outputs, sketch) if parted else [1]
        sizes = [size(sketched, parts) for parts in counts]
        work = sum(c.flops for c in costs)
        tiling, peak = choose_tiles(sizes, samples, memory, block, job.symmetric, work)
        blocks = tuple(math.ceil(n / tiling.block) for n in samples)
        job = replace(job, blocks=blocks, rounds=math.ceil(found.outputs / tiling.chunk))
    return Plan(
        layers=costs,
        shape=shape,
        outputs=outputs,
        dtype=str(like.dtype).removeprefix("torch."),
        device=str(like.device),
        backend=backend,
        samples=samples,
        symmetric=job.symmetric,
        block=tiling.block,
        chunk=tiling.chunk,
        keep=tiling.keep,
        memory=memory,
        peak=peak,
        precision=precision,
        rates=rates,
        sketch=sketch,
        product=product_cost(job, found.outputs, copies, rates),
        parts=tiling.parts,
        batch=tiling.batch,
        capture_seconds=_capture_seconds(found, job, tiling),
    )


def fitted(plan: Plan, target: Target, memory: int | str, copies: int) -> Plan:
    """A streamed plan that may be of another budget: the same tiles and bits in that of now."""
    memory = parse_bytes(memory)
    if memory >= plan.memory:
        return plan
    itemsize = target.like.element_size()
    sketched = 0 if plan.sketch is None else copies * plan.sketch.size
    sizes = (plan.outputs, itemsize, 0, copies, sketched, plan.parts)
    cost = footprint(target.found, plan.layers, *sizes)
    tiling = Tiling(plan.parts, plan.block, plan.batch, plan.chunk)
    total = plan.blocks[0] if plan.symmetric else sum(plan.blocks)
    tiling, peak = refit(cost, tiling, total, memory)
    return replace(plan, keep=tiling.keep, memory=memory, peak=peak)


def _capture_seconds(found: Survey, job: Job, t: Tiling) -> float:
    blocks = captures(job.blocks, t.keep, job.symmetric, t.parts)
    each = found.timing.passes(min(t.batch, max(job.samples)), found.outputs / t.parts)
    return found.timing.survey + t.parts * blocks * t.block / t.batch * each


def check_plan(
    plan: Plan,
    target: Target,
    precision: str | None = None,
    backend: str = "auto",
    memory: int | str | None = None,
    sketch: Sketch | None = None,
) -> None:
    """A plan that the user brings must have been made for this very request."""
    if not isinstance(plan, Plan):
        raise InputError(f"plan={plan!r:.80}, expected a plan of plan_ntk, or None")
    expected = {
        "outputs": target.outputs,
        "symmetric": target.z is None,
        "samples": target.samples,
        "shape": kernel_shape(*target.samples, target.found.outputs, target.outputs),
        "dtype": str(target.like.dtype).removeprefix("torch."),
        "device": str(target.like.device),
    }
    named = {
        "precision": precision,
        "backend": None if backend == "auto" else backend,
        "memory": None if memory is None else parse_bytes(memory),
        "sketch": sketch,
    }
    expected |= {what: value for what, value in named.items() if value is not None}
    for what, value in expected.items():
        if getattr(plan, what) != value:
            leave = f", or leave {what}= out" if what in named else ""
            raise InputError(
                f"the plan was made for {what}={getattr(plan, what)!r}, this request has "
                f"{value!r}; make a new one with plan_ntk{leave}"
            )
    made = [(c.name, _rule(c.rule)) for c in plan.layers]
    if made != [(s.name, _rule(s.rule)) for s in target.found.served]:
        raise InputError(
            "the plan was made for other parameters, or another model that uses them otherwise; "
            "make a new one with plan_ntk"
        )


def _rule(name: str) -> str:
    """Without the method of torch.func, which depends on the samples."""
    return name.partition(" (")[0]
