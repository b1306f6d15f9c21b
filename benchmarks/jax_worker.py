"""As worker.py, for neural-tangents in an environment of its own, on an exported network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from jax import lax


def network(graph: list[dict], buffers: dict):
    """f(parameters, x) [N, O] from an exported graph."""

    def f(parameters, x):
        values = {}
        for node in graph:
            inputs = [values[name] for name in node["inputs"]]
            role = lambda r, node=node: parameters[f"p:{node['name']}:{r}"]  # noqa: E731
            if node["op"] == "placeholder":
                out = x
            elif node["op"] == "output":
                return inputs[0]
            else:
                out = OPERATIONS[node["op"]](node, inputs, role, buffers)
            values[node["name"]] = out
        return None

    return f


def _conv(node, inputs, role, buffers):
    dims = ("NCHW", "OIHW", "NCHW")
    y = lax.conv_general_dilated(
        inputs[0], role("weight"), node["stride"], node["padding"], dimension_numbers=dims
    )
    return y + role("bias")[:, None, None] if node["bias"] else y


def _linear(node, inputs, role, buffers):
    return inputs[0] @ role("weight").T + role("bias")


def _batch_norm(node, inputs, role, buffers):
    mean, var = (buffers[f"{node['name']}:{k}"][:, None, None] for k in ("mean", "var"))
    xhat = (inputs[0] - mean) / jnp.sqrt(var + node["eps"])
    return xhat * role("weight")[:, None, None] + role("bias")[:, None, None]


def _pool(node, inputs, role, buffers):
    window = (1, 1, node["size"], node["size"])
    if node["op"] == "max_pool":
        return lax.reduce_window(inputs[0], -jnp.inf, lax.max, window, window, "VALID")
    return lax.reduce_window(inputs[0], 0.0, lax.add, window, window, "VALID") / node["size"] ** 2


OPERATIONS = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "max_pool": _pool,
    "avg_pool": _pool,
    "relu": lambda node, inputs, role, buffers: jax.nn.relu(inputs[0]),
    "add": lambda node, inputs, role, buffers: inputs[0] + inputs[1],
    "identity": lambda node, inputs, role, buffers: inputs[0],
    "mean": lambda node, inputs, role, buffers: inputs[0].mean((2, 3)),
    "mean_kept": lambda node, inputs, role, buffers: inputs[0].mean((2, 3), keepdims=True),
    "flatten": lambda node, inputs, role, buffers: inputs[0].reshape(len(inputs[0]), -1),
}


def kernel_function(f, implementation: str, outputs: str):
    """entk's output modes from neural-tangents, which divides a trace by O."""
    axes = {"trace": {"trace_axes": (-1,)}, "diagonal": {"trace_axes": (), "diagonal_axes": (-1,)}}
    function = (lambda p, x: f(p, x).sum(1, keepdims=True)) if outputs == "sum" else f
    options = axes.get(outputs, {"trace_axes": ()})
    implementation = getattr(nt.NtkImplementation, implementation)
    kernel = nt.empirical_ntk_fn(function, vmap_axes=0, implementation=implementation, **options)
    return jax.jit(lambda x, z, parameters: kernel(x, z, parameters))


def in_entk_shape(k: np.ndarray, outputs: str, o: int) -> np.ndarray:
    if outputs == "all":
        return k.transpose(0, 2, 1, 3)
    if outputs == "diagonal":
        return k.transpose(2, 0, 1)
    return k * o if outputs == "trace" else k.reshape(k.shape[:2])


def main(folder: Path, implementation: str, outputs: str) -> None:
    arrays = dict(np.load(folder / "arrays.npz"))
    parameters = {k: jnp.asarray(v) for k, v in arrays.items() if k.startswith("p:")}
    f = network(json.loads((folder / "graph.json").read_text()), arrays)
    kernel = kernel_function(f, implementation, outputs)
    x, z = (jnp.asarray(arrays[k]) if k in arrays else None for k in ("x", "z"))
    o = f(parameters, x[:1]).shape[1]
    for line in sys.stdin:
        count, _, path = line.strip().partition(" ")
        few = int(count) or None
        found = kernel(x[:few], None if z is None else z[:few], parameters)
        found.block_until_ready()
        if path:
            np.save(path, in_entk_shape(np.asarray(found), outputs, o))
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        print(json.dumps({"peak_gb": peak * 1024 / 1e9}), flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except Exception as error:  # whatever a peer dies of is told in the results
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
