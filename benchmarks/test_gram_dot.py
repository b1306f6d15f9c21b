"""`gram_dot`: one pass against the PyTorch ways, each behind the same correctness gate."""

import pytest
import torch

from entk.ops.gram_dot import gram_dot, gram_dot_torch

# name: side of the kernel, dtype, whether the second kernel is a transposed view
CASES = {
    "64 float32": (64, torch.float32, False),
    "500 float32": (500, torch.float32, False),
    "2000 float32": (2000, torch.float32, False),
    "5000 float32": (5000, torch.float32, False),
    "2000 float64": (2000, torch.float64, False),
    "2000 float32 transposed": (2000, torch.float32, True),
}


def blas_dot(a, b):
    """The fastest PyTorch way found: float64 copies once, then three BLAS dots."""
    a, b = a.double().flatten(), b.double().flatten()
    return torch.stack([a.dot(b), a.dot(a), b.dot(b)])


WAYS = {
    "torch": gram_dot_torch,
    "torch, BLAS dots": blas_dot,
    "native": lambda a, b: gram_dot(a, b, backend="native"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_gram_dot(case, way, timed, device):
    side, dtype, transposed = CASES[case]
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    b = b.T if transposed else b
    found, truth = WAYS[way](a, b), gram_dot_torch(a, b)
    scale = torch.stack([truth[1:].prod().sqrt(), truth[1], truth[2]])
    error = ((found - truth) / scale).abs().max().item()
    # n terms in any order are off by n u sum |a b| at most, sum |a b| <= |a| |b|; two such ways
    assert error <= 2 * side**2 * torch.finfo(torch.float64).eps

    iterations = max(1, 200_000 // side**2)
    timed(
        lambda: WAYS[way](a, b),
        op="gram_dot",
        case=case,
        way=way,
        iterations=iterations,
        error=error,
    )
