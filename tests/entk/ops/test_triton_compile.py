"""Every launch of the Triton kernels, compiled for sm_80 and sm_90 where there need be no GPU.

The launch code runs on tensors of the meta device, and what it would have launched is compiled with
the arguments specialised as Triton specialises them. Looked at: registers, spills, shared memory,
and which tensor-core instructions make the products.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from entk.factors import Factors, kernel_shape
from entk.ops import PRECISIONS

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from entk.ops import (  # noqa: E402
    fused_gram_dot_triton,
    gram_dot_triton,
    gram_triton,
    pairs_gram_triton,
    triton_common,
)

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SHARED = {80: 99 << 10, 90: 227 << 10}  # bytes that a program may have
TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64"}
KERNELS = (
    *((gram_triton, "gram_kernel"), (gram_dot_triton, "partial_kernel")),
    *((gram_dot_triton, "total_kernel"), (pairs_gram_triton, "apply_kernel")),
    *((pairs_gram_triton, "weigh_kernel"), (fused_gram_dot_triton, "pair_kernel")),
    (fused_gram_dot_triton, "total_kernel"),
)
INSTRUCTIONS = {
    "ieee": set(),
    "tf32": {"tf32"},
    "tf32x3": {"tf32"},
    "bf16x3": {"bf16"},
    "bf16x6": {"bf16"},
    "f64": {"f64"},
}


@dataclass(frozen=True)
class Launch:
    kernel: triton.runtime.JITFunction
    grid: tuple[int, ...]
    values: dict  # by the names of the kernel's arguments
    options: dict

    def compiled(self, capability: int):
        names = self.kernel.arg_names
        constants, signature, attributes = {}, {}, {}
        for place, name in enumerate(names):
            value = self.values[name]
            divides = [["tt.divisibility", 16]]
            if isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
                attributes[place,] = divides  # as torch allocates
            elif self.kernel.params[place].is_constexpr or value == 1:
                signature[name], constants[place,] = "constexpr", value
            else:
                signature[name] = "i32" if abs(value) < 2**31 else "i64"
                if value % 16 == 0:
                    attributes[place,] = divides
        source = ASTSource(self.kernel, signature, constants, attributes)
        target = GPUTarget("cuda", capability, 32)
        return triton.compile(source, target=target, options=self.options)


@pytest.fixture
def launches(monkeypatch):
    """The list that fills with what would be launched."""
    found: list[Launch] = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*args, **keywords):
                names = self.kernel.arg_names
                values = dict(zip(names, args, strict=False))
                values |= {name: keywords.pop(name) for name in names if name in keywords}
                assert set(values) == set(names)
                found.append(Launch(self.kernel, grid, values, keywords))

            return launch

    for module, name in KERNELS:
        monkeypatch.setattr(module, name, Recorder(getattr(module, name)))
    monkeypatch.setattr(triton_common, "why_not_triton", lambda device, dtype: None)
    return found


def check(launch: Launch, tmp_path: Path, precision: str | None = None) -> dict[int, int]:
    """{capability: tensor-core instructions}."""
    counts = {}
    for capability in SHARED:
        made = launch.compiled(capability)
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        command = [CUOBJDUMP, "--dump-resource-usage", cubin]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        used = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        shared = made.metadata.shared
        name = made.metadata.name
        print(f"{name} sm_{capability} {precision}: {used['REG']} registers, {shared} bytes shared")
        assert used["STACK"] == used["LOCAL"] == 0  # nothing spilled
        assert used["REG"] <= 255
        assert shared <= SHARED[capability]
        products = re.findall(r"mma[\w.]*\.(tf32|bf16|f64)\.", made.asm["ptx"])
        if precision is not None:
            assert set(products) == INSTRUCTIONS[precision]
        counts[capability] = len(products)
    return counts


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, device="meta", dtype=dtype)


def tensor_cores(dtype, precision):
    return "f64" if dtype == torch.float64 else precision


KINDS = [(torch.float32, p) for p in PRECISIONS["triton"]] + [(torch.float64, "ieee")]
IDS = [f"{p}-{str(d).removeprefix('torch.')}" for d, p in KINDS]
kinds = pytest.mark.parametrize(("dtype", "precision"), KINDS, ids=IDS)


def run_gram(rows, length, outputs, lower, dtype, precision):
    j = meta(rows, 2, length, dtype=dtype)
    out = meta(*kernel_shape(rows, rows, 2, outputs), dtype=dtype)
    gram_triton.gram_triton(j, j, out, outputs, lower=lower, precision=precision)


@kinds
@pytest.mark.parametrize("rows", [50, 5000])
def test_gram(rows, dtype, precision, launches, tmp_path):
    run_gram(rows, 1001, "trace", True, dtype, precision)
    (launch,) = launches
    assert launch.values["SIDE"] == (32 if rows == 50 else 64)
    check(launch, tmp_path, tensor_cores(dtype, precision))


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("length", [1024, 1001, 2**31])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("rows", [50, 5000])
def test_gram_slowly(rows, lower, length, dtype, precision, launches, tmp_path):
    run_gram(rows, length, "diagonal", lower, dtype, precision)
    check(launches[0], tmp_path, tensor_cores(dtype, precision))


def test_products_for_each_precision(launches, tmp_path):
    """As many tensor-core products an entry as the name says; bfloat16 ones take two entries."""
    counts = {}
    for precision in PRECISIONS["triton"]:
        run_gram(5000, 1001, "trace", True, torch.float32, precision)
        depth = launches[-1].values["DEPTH"]
        found = check(launches[-1], tmp_path)
        counts[precision] = {capability: n / depth for capability, n in found.items()}
    for capability in SHARED:
        assert counts["ieee"][capability] == 0
        one = counts["tf32"][capability]
        assert one > 0
        assert counts["tf32x3"][capability] == 3 * one
        assert counts["bf16x3"][capability] == 3 * one / 2
        assert counts["bf16x6"][capability] == 6 * one / 2


def run_pairs(o, t, outputs, lower, dtype, precision, tokens=False, k=27):
    n, m = (40, 40) if lower else (40, 30)
    x, z = (
        Factors(
            meta(size, t, dtype=torch.int64) if tokens else meta(size, 1, k, t, dtype=dtype),
            meta(size, o, 1, 33, t, dtype=dtype),
        )
        for size in (n, m)
    )
    out = meta(*kernel_shape(n, m, o, outputs), dtype=dtype)
    pairs_gram_triton.pairs_gram_triton(x, z, out, outputs, lower=lower, precision=precision)


@kinds
@pytest.mark.parametrize("outputs", ["all", "diagonal"])
def test_pairs_gram(outputs, dtype, precision, launches, tmp_path):
    run_pairs(20, 225, outputs, True, dtype, precision)
    check(launches[0], tmp_path, tensor_cores(dtype, precision))


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("t", [4, 32, 256])
@pytest.mark.parametrize("o", [10, 100])
@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace"])
def test_pairs_gram_slowly(outputs, o, t, lower, dtype, precision, launches, tmp_path):
    run_pairs(o, t, outputs, lower, dtype, precision)
    check(launches[0], tmp_path, tensor_cores(dtype, precision))


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("t", [4, 225])
@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace"])
def test_tokens_slowly(outputs, t, dtype, precision, launches, tmp_path):
    run_pairs(20, t, outputs, True, dtype, precision, tokens=True)
    check(launches[0], tmp_path, tensor_cores(dtype, precision))


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
def test_pairs_gram_without_positions(tokens, launches, tmp_path):
    """Two products of the `gram` kernel, the second with a factor; tokens need no first one."""
    run_pairs(10, 1, "all", True, torch.float32, "ieee", tokens)
    assert [launch.values["SCALED"] for launch in launches] == [True] if tokens else [False, True]
    check(launches[-1], tmp_path, "ieee")


@pytest.mark.parametrize("outputs", ["all", "trace"])
def test_offsets_are_of_64_bits_when_samples_are_large(outputs, launches):
    run_pairs(1, 2**16, outputs, True, torch.float32, "ieee", k=2**15 + 1)
    assert launches[0].values["INDEX"] == triton.language.int64
    run_pairs(1, 2**16, outputs, True, torch.float32, "ieee", k=2**15 - 1)
    assert launches[1].values["INDEX"] == triton.language.int32


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gram_dot(dtype, dense, launches, tmp_path):
    a = meta(70_000, 50_000, dtype=dtype)  # more than 2^31 entries
    gram_dot_triton.gram_dot_triton(a, a if dense else meta(50_000, 70_000, dtype=dtype).T)
    assert [launch.kernel.fn.__name__ for launch in launches] == ["partial_kernel", "total_kernel"]
    for launch in launches:
        check(launch, tmp_path)


@kinds
@pytest.mark.parametrize(("rows", "lower"), [(50, False), (5000, True)])
def test_fused_gram_dot(rows, lower, dtype, precision, launches, tmp_path, monkeypatch):
    """Tables of addresses are made where there are some: of CPU tensors, which are not read."""
    monkeypatch.setattr(fused_gram_dot_triton, "on_device", lambda t: contextlib.nullcontext())
    j, start = torch.empty(rows, 2, 5, dtype=dtype), torch.empty(rows, rows, dtype=dtype)
    one = [(j, j)]
    fused_gram_dot_triton.fused_gram_dot_triton(
        one, one, (start, start), "trace", lower=lower, precision=precision
    )
    assert launches[0].values["SIDE"] == (32 if rows == 50 else 64)
    check(launches[0], tmp_path, tensor_cores(dtype, precision))
