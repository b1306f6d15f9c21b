"""`fused_gram_dot` against two grams and a `gram_dot` of what they store; CUDA only."""

import pytest
import torch

from entk.ops import products
from entk.ops.fused_gram_dot import fused_gram_dot
from entk.ops.gram_dot import gram_dot

# name: rows of the tile (N O), entries of each layer
CASES = {
    "640, 20 x 1e4": (640, (10_000,) * 20),
    "2560, 20 x 1e4": (2560, (10_000,) * 20),
    "5120, 3 x 1e3": (5120, (1_000,) * 3),
}


def in_turn(one, two, starts, precision):
    backend = products("triton", precision)
    a, b = (s.clone() for s in starts)
    for out, rows in ((a, one), (b, two)):
        for j, k in rows:
            backend.gram(j, k, out, "trace")
    return gram_dot(a, b, backend="triton")


def at_once(one, two, starts, precision):
    return products("triton", precision).fused_gram_dot(one, two, starts, "trace")


WAYS = {"gram and gram_dot": in_turn, "fused_gram_dot": at_once}


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_fused_gram_dot(case, way, precision, timed, device):
    if device.type == "cpu":
        pytest.skip("on CUDA only")
    size, lengths = CASES[case]
    one, two = ([(torch.randn(size, 1, p, device=device),) * 2 for p in lengths] for _ in range(2))
    starts = (torch.zeros(size, size, device=device),) * 2
    few = [[(j[:64], k[:64]) for j, k in rows] for rows in (one, two)]
    corner = tuple(s[:64, :64] for s in starts)
    found = WAYS[way](*few, corner, precision)
    wide = [[(j.double(), k.double()) for j, k in rows] for rows in few]
    truth = fused_gram_dot(*wide, tuple(s.double() for s in corner), "trace")
    scale = torch.stack([truth[1:].prod().sqrt(), truth[1], truth[2]])
    error = ((found - truth) / scale).abs().max().item()
    assert error <= 1e-4
    timed(
        lambda: WAYS[way](one, two, starts, precision),
        op="fused_gram_dot",
        case=f"{case} {precision}",
        way=way,
        rounds=7,
        error=error,
    )
