"""What only a GPU can show; run by `make gpu`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS
from entk.ops import native
from entk.ops.gram_dot import gram_dot, gram_dot_torch
from entk.sketch import signs
from tests import oracle, tolerance
from tests.cases import CASES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
BY_NAME = {case.name: case for case in CASES}
MEMORY = 2_000_000_000

LAYOUTS = {
    "dense": lambda r, c, dtype: torch.randn(r, c, dtype=dtype, device="cuda"),
    "transposed": lambda r, c, dtype: torch.randn(c, r, dtype=dtype, device="cuda").T,
    "every third column": lambda r, c, dtype: torch.randn(r, 3 * c, dtype=dtype, device="cuda")[
        :, ::3
    ],
    "one row repeated": lambda r, c, dtype: torch.randn(1, c, dtype=dtype, device="cuda").expand(
        r, c
    ),
}


def cnn() -> nn.Module:
    """Large enough for tiles to matter: 1.1 million parameters, 10 outputs."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(128 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, 10)),
    ).eval()


def test_every_backend_is_there():
    found = entk.backends()
    assert found["native"] == "ok"
    assert found["native-cuda"] == "ok"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 7), (257, 259), (3000, 1001)], ids=str)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_gram_dot(left, right, shape, dtype):
    a, b = LAYOUTS[left](*shape, dtype), LAYOUTS[right](*shape, dtype)
    found = gram_dot(a, b, backend="native")
    exact = gram_dot_torch(a.cpu(), b.cpu())
    size = (a.double() * b).abs().sum(), a.double().square().sum(), b.double().square().sum()
    bound = 2 * (a.numel() + 1) * torch.finfo(torch.float64).eps * torch.stack(size)
    assert found.device == a.device
    assert ((found.cpu() - exact).abs() <= bound.cpu()).all()
    assert torch.equal(found, gram_dot(a, b, backend="native"))


def test_gram_dot_keeps_nan_on_a_stream_of_its_own():
    a, b = torch.ones(700, 900, device="cuda"), torch.ones(700, 900, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        a.mul_(2)  # queued on the same stream: the kernel has to see it
        found = gram_dot(a, b, backend="native").tolist()
    assert found == [2 * 630000, 4 * 630000, 630000]
    a[-1, -1] = torch.nan
    assert gram_dot(a, b, backend="native").isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gram_dot_is_well_formed(layout):
    torch.library.opcheck(
        native.gram_dot_op,
        (LAYOUTS[layout](5, 7, torch.float32), LAYOUTS["dense"](5, 7, torch.float32)),
    )


@pytest.mark.parametrize("strategy", ["rows", "pairs"])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_ntk_float64(name, outputs, strategy):
    """Every case of the CPU tests, against the float64 loop on the CPU."""
    model, x, z = BY_NAME[name].make()
    expected = oracle.mode(oracle.ntk(model, x, z), outputs)
    model, x, z = model.cuda(), x.cuda(), z.cuda()
    plan = entk.plan_ntk(model, x, z, outputs=outputs, strategy=strategy, block=2)
    found = entk.ntk(model, x, z, outputs=outputs, plan=plan)
    assert found.is_cuda
    assert tolerance.error(found.cpu(), expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_ntk_float32(outputs):
    """At most twice the error of the plain loop in float32 on the CPU."""
    model, x = cnn(), torch.randn(6, 3, 32, 32)
    exact = oracle.mode(oracle.ntk(model, x), outputs)
    plain = oracle.mode(oracle.ntk(model, x, dtype=torch.float32), outputs)
    found = entk.ntk(model.cuda(), x.cuda(), outputs=outputs)
    assert tolerance.error(found.cpu(), exact) <= tolerance.limit(plain, exact)


def test_tf32_of_the_process_is_not_used():
    model, x = cnn().cuda(), torch.randn(6, 3, 32, 32, device="cuda")
    expected = entk.ntk(model, x)
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [s.fp32_precision for s in settings]
    try:
        for s in settings:
            s.fp32_precision = "tf32"
        found = entk.ntk(model, x)
        assert [s.fp32_precision for s in settings] == ["tf32", "tf32"]
    finally:
        for s, value in zip(settings, before, strict=True):
            s.fp32_precision = value
    # TF32 keeps 10 bits of the mantissa: its errors would be some thousand times larger
    assert tolerance.error(found, expected.double()) <= 64 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("outputs", ["all", "trace"])
def test_memory_budget(outputs):
    model, x = cnn().cuda(), torch.randn(400, 3, 32, 32, device="cuda")
    entk.ntk(model, x[:2])  # cuDNN and cuBLAS take their workspaces
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = entk.ntk(model, x, outputs=outputs, memory=MEMORY)
    peak = torch.cuda.max_memory_allocated() - before
    assert found.isfinite().all()
    assert peak <= MEMORY
    unbounded = len(x) * 10 * sum(p.numel() for p in model.parameters()) * 4
    assert unbounded > 4 * MEMORY  # without tiles the Jacobian alone would not fit


def test_file_and_distance(tmp_path):
    model, x = cnn().cuda(), torch.randn(40, 3, 32, 32, device="cuda")
    with entk.write_ntk(tmp_path / "k.h5", model, x, outputs="trace") as file:
        kernel = entk.ntk(model, x, outputs="trace", plan=file.plan)
        assert torch.equal(file[:, :], kernel.cpu())
        assert entk.kernel_distance(file, kernel.cpu()) == 0
    assert entk.kernel_distance(kernel, 3 * kernel) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_probes_of_a_sketch_are_those_of_the_cpu(dtype):
    index = torch.arange(5000)
    here, there = (signs(-(2**62), i, 5, 300, dtype).cpu() for i in (index, index.cuda()))
    assert torch.equal(here, there)


@pytest.mark.parametrize("name", ["vgg", "gpt_tied", "weight_norm"])
def test_a_sketch_is_that_of_the_cpu(name):
    model, x, _ = BY_NAME[name].make()
    expected = entk.ntk(model, x, sketch=192)
    found = entk.ntk(model.cuda(), x.cuda(), sketch=192)
    assert tolerance.error(found.cpu(), expected) < tolerance.FLOAT64
