"""`gram`: PyTorch's product against the other backends, each behind the same correctness gate."""

import pytest
import torch

from entk.ops import products
from tests import emulation, tolerance

# name: samples, outputs, entries of the parameter: linear and convolution layers, whole small nets
CASES = {
    "64 x 10, 1e4": (64, 10, 10_000),
    "128 x 10, 1e5": (128, 10, 100_000),
    "512 x 10, 1e5": (512, 10, 100_000),
    "128 x 1, 1e6": (128, 1, 1_000_000),
    "1024 x 1, 1e6": (1024, 1, 1_000_000),
}
WAYS = {
    "torch": ("torch", "ieee"),
    "native": ("native", "ieee"),
    "triton ieee": ("triton", "ieee"),
    "triton tf32x3": ("triton", "tf32x3"),
    "triton bf16x3": ("triton", "bf16x3"),
    "triton bf16x6": ("triton", "bf16x6"),
    "triton tf32": ("triton", "tf32"),
}
# relative size of what a product of two such factors leaves out
UNIT = {"tf32": 2**-9, "bf16x3": 2**-15, "tf32x3": 2**-19, "bf16x6": 2**-22, "ieee": 0}


@pytest.mark.parametrize("outputs", ["all", "trace"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_gram(case, way, outputs, timed, device):
    backend, precision = WAYS[way]
    if backend == {"cpu": "triton", "cuda": "native"}[device.type]:
        pytest.skip("not on this device")
    if device.type == "cpu" and CASES[case][0] > 128:
        pytest.skip("on CUDA only")
    n, o, p = CASES[case]
    j = torch.randn(n, o, p, device=device)
    shape = (n, o, n, o) if outputs == "all" else (n, n)
    gram = products(backend, precision).gram

    def run():
        out = torch.zeros(shape, device=device)
        gram(j, j, out, outputs, lower=True)
        return out

    few = j[:16]
    out = torch.zeros((16, o, 16, o) if outputs == "all" else (16, 16), device=device)
    gram(few, few, out, outputs)
    error = tolerance.error(out, emulation.gram(few, few, outputs, "ieee"))
    # roundings of a sum of p terms grow like their number's root; the diagonal has no cancellation
    assert error <= UNIT[precision] + 2 * p**0.5 * torch.finfo(torch.float32).eps
    timed(run, op="gram", case=f"{case} {outputs}", way=way, rounds=7, error=error)
