"""`pairs_gram`: the PyTorch definition against the other backends, behind one correctness gate."""

import pytest
import torch

from entk.factors import Factors, kernel_shape
from entk.ops import products
from tests import emulation, tolerance

# name: samples, outputs, channels, patch length, positions: layers where pairs can beat rows
CASES = {
    "linear 512-512": (128, 10, 512, 512, 1),
    "VGG 512-512, 2x2": (64, 10, 512, 4608, 4),
    "VGG 256-256, 8x8": (32, 10, 256, 2304, 64),
    "transformer 768-768, 197": (16, 10, 768, 768, 197),
    "ResNet 16-16, 32x32": (8, 10, 16, 144, 1024),
}
WAYS = {
    "torch": ("torch", "ieee"),
    "native": ("native", "ieee"),
    "triton ieee": ("triton", "ieee"),
    "triton tf32x3": ("triton", "tf32x3"),
    "triton bf16x6": ("triton", "bf16x6"),
    "triton tf32": ("triton", "tf32"),
}
UNIT = {"tf32": 6 * 2**-10, "tf32x3": 6 * 2**-20, "bf16x6": 6 * 2**-23, "ieee": 0}  # six factors


@pytest.mark.parametrize("outputs", ["all", "trace"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_pairs_gram(case, way, outputs, timed, device):
    backend, precision = WAYS[way]
    if backend == {"cpu": "triton", "cuda": "native"}[device.type]:
        pytest.skip("not on this device")
    n, o, c, k, t = CASES[case]
    n = n if device.type == "cuda" else min(n, 4)
    x = Factors(torch.randn(n, 1, k, t, device=device), torch.randn(n, o, 1, c, t, device=device))
    pairs_gram = products(backend, precision).pairs_gram

    def run(x=x):
        out = torch.zeros(kernel_shape(len(x.a), len(x.a), o, outputs), device=device)
        pairs_gram(x, x, out, outputs, lower=True)
        return out

    one = Factors(x.a[:1], x.g[:1])
    error = tolerance.error(run(one), emulation.pairs_gram(one, one, outputs, "ieee"))
    longest = max(k, c * o * t, t * t)
    assert error <= UNIT[precision] + 2 * longest**0.5 * torch.finfo(torch.float32).eps
    timed(run, op="pairs_gram", case=f"{case} {outputs}", way=way, rounds=7, error=error)
