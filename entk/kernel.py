"""The kernel in memory: `ntk`, `plan_ntk` and `jacobian`."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from entk.assemble import WHOLE, Engine, layer_name
from entk.errors import InputError
from entk.factors import NTK, Factors, place, transposed
from entk.features import capture_block
from entk.inputs import check_flags, check_outputs
from entk.models import Params
from entk.plan import Plan
from entk.precision import computing
from entk.progress import Progress
from entk.rates import Rates
from entk.request import Target, check_plan, make_plan, prepare
from entk.samples import Input, Select
from entk.sketch import ERROR, check_sketch, relative_error


def plan_ntk(
    model: nn.Module | Callable,
    x: Input,
    z: Input | None = None,
    *,
    outputs: str = "all",
    params: Params = None,
    select: Select | None = None,
    strict: bool = False,
    by_layer: bool = False,
    memory: int | str | None = None,
    block: int | None = None,
    strategy: str | None = None,
    backend: str = "auto",
    precision: str | None = None,
    rates: Rates | str | None = None,
    sketch: int | None = None,
    seed: int = 0,
) -> Plan:
    """How `ntk` would compute this kernel and what that costs; `print(plan)` shows a table.

    Takes a few small forward passes. `strategy` ("rows", "pairs" or "fused") overrides the planner
    wherever a parameter has it, `block` sets the samples on a side of a tile; `by_layer` counts a
    kernel for each layer. `rates` are what strategies are chosen by: None measures this machine,
    once (some 0.2 s, kept in ~/.cache/entk); "nominal" gives the same plan on every machine;
    `entk.Rates` takes values. See `ntk` for the rest, and docs/architecture.md for the formulas.

    Raises as `ntk`; InputError also for a `strategy`, `block` or `rates` that there is not.

    >>> import torch, entk
    >>> plan = entk.plan_ntk(torch.nn.Linear(3, 2), torch.randn(4, 3), rates="nominal")
    >>> [(layer.name, layer.rule) for layer in plan.layers]
    [('weight', 'linear'), ('bias', 'linear')]
    """
    check_flags(by_layer=by_layer)
    target = prepare(model, x, z, outputs, params, select, strict)
    options = {"memory": memory, "block": block, "strategy": strategy, "rates": rates}
    options |= {"backend": backend, "precision": precision, "copies": copies(target, by_layer)}
    return make_plan(target, sketch=check_sketch(sketch, seed), **options)


def ntk(
    model: nn.Module | Callable,
    x: Input,
    z: Input | None = None,
    *,
    outputs: str = "all",
    params: Params = None,
    select: Select | None = None,
    strict: bool = False,
    by_layer: bool = False,
    precision: str | None = None,
    memory: int | str | None = None,
    plan: Plan | None = None,
    backend: str = "auto",
    rates: Rates | str | None = None,
    sketch: int | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = False,
) -> NTK | dict[str, NTK]:
    """The empirical neural tangent kernel of `model` between the samples of x and of z.

    It is exact unless `sketch` asks for an estimate.

    With J[n,o] = d f_o(x_n) / d w over the requested parameters and J' the same at z
    (z = None stands for x), f flattened to O outputs per sample:

        outputs="all"       K[n,o,m,q] = <J[n,o], J'[m,q]>           [N, O, M, O]
        outputs="diagonal"  K[o,n,m]   = <J[n,o], J'[m,o]>           [O, N, M]
        outputs="trace"     K[n,m]     = sum_o <J[n,o], J'[m,o]>     [N, M], not divided by O
        outputs="sum"       K[n,m]     = <sum_o J[n,o], sum_q J'[m,q]>   [N, M], not divided by O

    Args:
        model: any module in eval mode whose samples (axis 0) do not interact; left untouched. Or
            a function f(params, x), with its tensors as `params`.
        x, z: samples [N, ...] and [M, ...]; a tuple or dict of such tensors is passed on as
            positional or keyword arguments.
        params: names of parameters; None takes all with requires_grad. For a function: the dict
            (of dicts) of tensors that it gets; all of floating point are its parameters.
        select: which outputs. A function of what the model returns, a name in it ("logits"), or a
            slice or list of positions among the flattened outputs. None takes all: those of a
            tuple or dict side by side, of an object with .logits those.
        strict: refuse a model with a parameter that no rule serves, which would go through
            torch.func; the plan's notes name those.
        by_layer: return {layer name: kernel}, whose sum is the kernel, in the same passes.
        precision: None or "ieee": products in IEEE arithmetic of the model's dtype. With
            backend="triton" float32 products may be made of tensor-core products: "tf32" (one, 10
            bits), "bf16x3" and "tf32x3" (three), "bf16x6" (six, nearly float32).
        memory: budget beyond the model and the samples, in bytes or as "2GB"; None takes half
            of what is free.
        plan: a plan from `plan_ntk` for the same request.
        backend: "auto", or the name of one that has to serve (see `entk.backends`).
        rates: what strategies are chosen by, as for `plan_ntk`.
        sketch: None: the exact kernel. A multiple of 8, k: an unbiased estimate from k random
            projections of each Jacobian, whose error falls as 1 / sqrt(k); see `sketch_error`.
            With by_layer each layer has its own k, and the sum is the better estimate.
        seed: which projections; the same on every device, and for every state of a model.
        progress: True shows tiles done on stderr; a function gets (done, total).

    Raises:
        InputError, ModelStateError, UnsupportedModelError, BackendUnavailableError.

    Source: Jacot et al. 2018 (arXiv 1806.07572); Novak et al. 2022 (arXiv 2206.08720).

    >>> import torch, entk
    >>> model = torch.nn.Linear(3, 2)
    >>> entk.ntk(model, torch.randn(4, 3)).shape
    torch.Size([4, 2, 4, 2])
    """
    check_flags(by_layer=by_layer)
    target = prepare(model, x, z, outputs, params, select, strict)
    projections = check_sketch(sketch, seed)
    if plan is None:
        options = {"memory": memory, "backend": backend, "precision": precision, "rates": rates}
        options |= {"copies": copies(target, by_layer), "sketch": projections}
        plan = make_plan(target, **options)
    else:
        check_plan(plan, target, precision, backend, memory, projections)
    engine = Engine(target, plan, by_layer)
    kernels = {group: target.like.new_zeros(plan.shape) for group in engine.groups}
    wanted = list(plan.tiles())
    with Progress(progress, len(wanted), "ntk") as bar:
        for i, j, tile in engine.tiles(wanted):
            rows, columns = plan.span(i), plan.span(j, axis=1)
            for group, kernel in kernels.items():
                place(kernel, tile[group], rows, columns, outputs)
                if plan.symmetric and i != j:
                    place(kernel, transposed(tile[group], outputs), columns, rows, outputs)
            bar.advance()
    return kernels if by_layer else kernels[WHOLE]


def sketch_error(
    model: nn.Module | Callable,
    x: Input,
    z: Input | None = None,
    *,
    sketch: int,
    seed: int = 0,
    outputs: str = "all",
    params: Params = None,
    select: Select | None = None,
    by_layer: bool = False,
    memory: int | str | None = None,
    backend: str = "auto",
    rates: Rates | str | None = None,
) -> float:
    """The expected relative error of `ntk(..., sketch=sketch)`: sqrt(E |S - K|^2) / |K|.

    Norms are Frobenius norms over all entries, S is the sketch and K the exact kernel, of which
    nothing is computed: 8 groups of k / 8 probes give 8 independent kernels, and the error is that
    of their mean. It costs what the sketch costs, and keeps no kernel. It is an estimate itself,
    from 7 degrees of freedom in each entry; infinite where the kernel is lost in the noise.
    `write_ntk` does the same on the way: `KernelFile.sketch_error`.

    Raises as `ntk`. Source: docs/science.md, "Sketched kernels".

    >>> import torch, entk
    >>> model, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    >>> entk.sketch_error(model, x, sketch=4096) < 0.1
    True
    """
    check_flags(by_layer=by_layer)
    target = prepare(model, x, z, outputs, params, select)
    options = {"memory": memory, "backend": backend, "rates": rates, "streamed": True}
    options |= {"copies": copies(target, by_layer), "sketch": check_sketch(sketch, seed)}
    if sketch is None:
        raise InputError(
            "sketch=None, expected a number of projections: the exact kernel has no error"
        )
    plan = make_plan(target, **options)
    tiles = Engine(target, plan, by_layer).tiles(plan.tiles())
    return relative_error(sum(plan.weight(i, j) * tile[ERROR] for i, j, tile in tiles))


def jacobian(
    model: nn.Module | Callable,
    x: Input,
    *,
    outputs: str = "all",
    params: Params = None,
    select: Select | None = None,
) -> dict[str, Float[Tensor, "N O *parameter"] | Float[Tensor, " N *parameter"]]:
    """Per-sample Jacobians {parameter name: J [N, O, *shape]}, J[n,o] = d f_o(x_n) / d w.

    outputs="sum" gives the gradients of the summed outputs, [N, *shape]. Unused parameters get
    zeros. All samples go through the model at once, and J is held whole: N O P numbers. Other
    arguments as for `ntk`.

    Raises as `ntk`; InputError also for outputs="diagonal" and "trace", which have no Jacobian.

    >>> import torch, entk
    >>> entk.jacobian(torch.nn.Linear(3, 2), torch.ones(4, 3))["weight"].shape
    torch.Size([4, 2, 2, 3])
    """
    check_outputs(outputs, ("all", "sum"))
    target = prepare(model, x, None, outputs, params, select)
    parameters = dict(target.model.named_parameters())
    count = len(target.x)
    plan = make_plan(target, strategy="rows", streamed=True, block=count)
    with computing():
        made = capture_block(target.model, target.found, target.x, plan)
    lead = (count,) if outputs == "sum" else (count, target.found.outputs)
    return {
        name: _rows(made[name], parameters[name]).view(*lead, *parameters[name].shape)
        if name in made
        else target.like.new_zeros(*lead, *parameters[name].shape)
        for name in target.names
    }


def copies(target: Target, by_layer: bool) -> int:
    """Kernels that are there at the end."""
    return len({layer_name(name) for name in target.names}) if by_layer else 1


def _rows(made: Tensor | Factors, parameter: Tensor) -> Tensor:
    return made.rows(len(parameter)) if isinstance(made, Factors) else made
