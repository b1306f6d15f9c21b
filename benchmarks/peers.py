"""The same kernel by other means, each in the best way that its own documentation shows.

A way is made once for a model and then called: way(model)(x, z, outputs) -> kernel in entk's shape.
What a peer cannot do raises, and its message stands in the results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

import entk

Way = Callable[[Tensor, Tensor | None, str], Tensor]
CHUNK = 16  # samples that vmap(jacrev) takes at once


def ours(model: nn.Module) -> Way:
    return lambda x, z, outputs: entk.ntk(model, x, z, outputs=outputs)


def ours_triton(model: nn.Module) -> Way:
    return lambda x, z, outputs: entk.ntk(model, x, z, outputs=outputs, backend="triton")


def loop(model: nn.Module) -> Way:
    """One backward pass for each sample and output."""

    def jacobian(x: Tensor, outputs: str) -> list[Tensor]:
        parameters = list(model.parameters())
        rows: list[list[Tensor]] = [[] for _ in parameters]
        for sample in x:
            y = model(sample[None]).flatten()
            y = y.sum(0, keepdim=True) if outputs == "sum" else y
            for i in range(len(y)):
                found = torch.autograd.grad(y[i], parameters, retain_graph=i + 1 < len(y))
                for row, g in zip(rows, found, strict=True):
                    row.append(g.flatten())
        return [torch.stack(row).view(len(x), -1, row[0].numel()) for row in rows]

    def kernel(x: Tensor, z: Tensor | None, outputs: str) -> Tensor:
        j = jacobian(x, outputs)
        k = j if z is None else jacobian(z, outputs)
        return sum(_contract(a, b, outputs) for a, b in zip(j, k, strict=True))

    return kernel


def _contract(j: Tensor, k: Tensor, outputs: str) -> Tensor:
    """The product of Jacobians [N, O, P] and [M, O, P] of one parameter."""
    forms = {"all": "nop,mqp->nomq", "diagonal": "nop,mop->onm"}
    return torch.einsum(forms.get(outputs, "nop,mop->nm"), j, k)


def jacobian_contraction(model: nn.Module) -> Way:
    """The first way of PyTorch's tutorial on neural tangent kernels, in chunks of samples."""
    state = {k: v.detach() for k, v in model.state_dict(keep_vars=True).items()}
    parameters = {name: state.pop(name) for name, _ in model.named_parameters()}

    def kernel(x: Tensor, z: Tensor | None, outputs: str) -> Tensor:
        def single(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            y = functional_call(model, (parameters, state), (sample[None],))[0]
            return y.sum(0, keepdim=True) if outputs == "sum" else y

        def jacobian(x: Tensor) -> list[Tensor]:
            found = vmap(jacrev(single), (None, 0), chunk_size=CHUNK)(parameters, x)
            return [j.flatten(2) for j in found.values()]

        j = jacobian(x)
        k = j if z is None else jacobian(z)
        return sum(_contract(a, b, outputs) for a, b in zip(j, k, strict=True))

    return kernel


def ntk_vector_products(model: nn.Module) -> Way:
    """The second way of the same tutorial: jvp of vjp for each pair, output by output."""
    state = {k: v.detach() for k, v in model.state_dict(keep_vars=True).items()}
    parameters = {name: state.pop(name) for name, _ in model.named_parameters()}

    def kernel(x: Tensor, z: Tensor | None, outputs: str) -> Tensor:
        def single(sample: Tensor) -> Callable:
            def function(parameters: dict[str, Tensor]) -> Tensor:
                y = functional_call(model, (parameters, state), (sample[None],))[0]
                return y.sum(0, keepdim=True) if outputs == "sum" else y

            return function

        def pair(a: Tensor, b: Tensor) -> Tensor:
            y, back = vjp(single(a), parameters)

            def product(v: Tensor) -> Tensor:
                return jvp(single(b), (parameters,), back(v))[1]

            return vmap(product)(torch.eye(len(y), device=y.device))

        rows = vmap(vmap(pair, (None, 0)), (0, None), chunk_size=1)(x, x if z is None else z)
        return _mode(rows.permute(0, 2, 1, 3), outputs)  # [N, M, O, O] -> [N, O, M, O]

    return kernel


def _mode(full: Tensor, outputs: str) -> Tensor:
    """An output mode of a full kernel [N, O, M, O]; "sum" has been summed before (O = 1)."""
    if outputs == "all":
        return full
    diagonal = full.diagonal(dim1=1, dim2=3).permute(2, 0, 1)
    return diagonal if outputs == "diagonal" else diagonal.sum(0)


def torchjd(model: nn.Module) -> Way:
    """autogram; with batch norm it asks for batch_dim=None."""
    from torchjd.autogram import Engine

    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    engine = Engine(model, batch_dim=None if norms else 0)

    def kernel(x: Tensor, z: Tensor | None, outputs: str) -> Tensor:
        _square_only(z)
        y = model(x)
        y = y.sum(1, keepdim=True) if outputs == "sum" else y
        shape = (*y.shape, *y.shape)  # the Gramian is one matrix
        return _mode(engine.compute_gramian(y).reshape(shape), outputs)

    return kernel


def nngeometry(model: nn.Module) -> Way:
    from twophase.sources import import_torchvision

    import_torchvision()
    from nngeometry import GramMatrix
    from torch.utils.data import DataLoader, TensorDataset

    def kernel(x: Tensor, z: Tensor | None, outputs: str) -> Tensor:
        _square_only(z)
        loader = DataLoader(TensorDataset(x), batch_size=len(x))

        def function(x: Tensor) -> Tensor:
            y = model(x)
            return y.sum(1, keepdim=True) if outputs == "sum" else y

        full = GramMatrix(model, loader, function=function).data  # [O, N, O, M]
        return _mode(full.permute(1, 0, 3, 2), outputs)

    return kernel


def asdfghjkl(model: nn.Module) -> Way:
    """Its implicit way; its direct one finds none of its own operations in 0.1a5."""
    from asdl.kernel import empirical_class_wise_direct_ntk, empirical_implicit_ntk

    def kernel(x: Tensor, z: Tensor | None, outputs: str) -> Tensor:
        if outputs == "sum":
            raise ValueError("it has no kernel of summed outputs")
        if outputs == "all":
            return empirical_implicit_ntk(model, x, z).permute(0, 2, 1, 3)
        found = empirical_class_wise_direct_ntk(model, x, z).permute(2, 0, 1)
        return found if outputs == "diagonal" else found.sum(0)

    return kernel


def _square_only(z: Tensor | None) -> None:
    if z is not None:
        raise ValueError("it has no kernel between two sets of samples")


WAYS: dict[str, Callable[[nn.Module], Way]] = {
    "entk": ours,
    "entk triton": ours_triton,
    "torch.func jacobian": jacobian_contraction,
    "torch.func jacobian TF32": jacobian_contraction,
    "torch.func ntk-vp": ntk_vector_products,
    "TorchJD": torchjd,
    "nngeometry": nngeometry,
    "asdfghjkl": asdfghjkl,
    "loop": loop,
}
JAX_WAYS = {
    "neural-tangents 1": "JACOBIAN_CONTRACTION",
    "neural-tangents 2": "NTK_VECTOR_PRODUCTS",
    "neural-tangents 3": "STRUCTURED_DERIVATIVES",
}
