"""A network as a list of operations and arrays, for a worker in an environment without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


def export(model: nn.Module, x: Tensor, z: Tensor | None, folder: Path) -> None:
    """graph.json and arrays.npz; raises where an operation has no translation."""
    arrays = {"x": x.numpy()} | ({} if z is None else {"z": z.numpy()})
    nodes = [_node(model, node, arrays) for node in fx.symbolic_trace(model).graph.nodes]
    (folder / "graph.json").write_text(json.dumps([n for n in nodes if n]))
    np.savez(folder / "arrays.npz", **arrays)


def _node(model: nn.Module, node: fx.Node, arrays: dict) -> dict | None:
    names = [str(a) for a in node.args if isinstance(a, fx.Node)]
    if node.op in ("placeholder", "output"):
        return {"op": node.op, "name": node.name, "inputs": [str(node.args[0])] if names else []}
    if node.op == "call_module":
        layer = model.get_submodule(node.target)
        return {"name": node.name, "inputs": names, **_layer(layer, node.name, arrays)}
    simple = {F.relu: "relu", torch.relu: "relu", "mean": "mean", "flatten": "flatten"}
    operation = simple.get(node.target) or ("add" if "add" in str(node.target) else None)
    if operation is None:
        raise ValueError(f"{node.target} was not translated for it")
    return {"op": operation, "name": node.name, "inputs": names}


def _layer(layer: nn.Module, name: str, arrays: dict) -> dict:
    if isinstance(layer, nn.BatchNorm2d):
        arrays[f"{name}:mean"], arrays[f"{name}:var"] = layer.running_mean, layer.running_var
        return {"op": "batch_norm", "eps": layer.eps, **_parameters(layer, name, arrays)}
    if isinstance(layer, nn.Conv2d):
        options = {"stride": layer.stride, "padding": [(p, p) for p in layer.padding]}
        return {"op": "conv", **options, **_parameters(layer, name, arrays)}
    if isinstance(layer, nn.Linear):
        return {"op": "linear", **_parameters(layer, name, arrays)}
    if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
        kind = "avg" if isinstance(layer, nn.AvgPool2d) else "max"
        return {"op": f"{kind}_pool", "size": layer.kernel_size}
    if isinstance(layer, nn.Sequential) and len(layer) == 0:
        return {"op": "identity"}
    plain = {nn.ReLU: "relu", nn.Flatten: "flatten", nn.AdaptiveAvgPool2d: "mean_kept"}
    if type(layer) not in plain:
        raise ValueError(f"{type(layer).__name__} was not translated for it")
    return {"op": plain[type(layer)]}


def _parameters(layer: nn.Module, name: str, arrays: dict) -> dict:
    """Parameters are prefixed apart from buffers, which take no part in the kernel."""
    for role, p in layer.named_parameters():
        arrays[f"p:{name}:{role}"] = p.detach().numpy()
    return {"bias": getattr(layer, "bias", None) is not None}
