"""Whole kernels: entk and every peer, side by side, each behind a gate of correctness.

The gate, before any time is told: on two samples a side, at most GATE from the float64 loop of
tests/oracle.py; on all samples (CUDA: the first CHECKED), the median over sample pairs of the
difference to entk's kernel on the CPU at most GATE. (Not the largest: where a ReLU's input is
within rounding of zero, two correct float32 kernels differ by percents at that sample.)
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import pytest
import torch

import entk
from benchmarks.cases import FULL, GPU, SHORT, Case
from benchmarks.peers import JAX_WAYS, WAYS
from benchmarks.worker import PeerError, Worker
from tests import oracle

GATE, TF32_GATE = 5e-4, 1e-2
CHECKED = 64  # samples a side whose kernel on CUDA is held against entk's on the CPU
FEW, SOME = 2, 10  # samples a side and outputs that are held against the oracle
SECONDS = 4.0  # of timed rounds, about
ALL = (*WAYS, *JAX_WAYS)
ON_CUDA = ("entk triton", "torch.func jacobian TF32")
ON_ONE = dict.fromkeys(ON_CUDA, "cuda") | dict.fromkeys(JAX_WAYS, "cpu")


def pytest_generate_tests(metafunc):
    if "way" in metafunc.fixturenames:
        short = GPU if metafunc.config.getoption("device") == "cuda" else SHORT
        cases = FULL if metafunc.config.getoption("full") else short
        only = metafunc.config.getoption("way") or ALL
        pairs = [(case, way) for case in cases for way in ALL if way in only]
        metafunc.parametrize(("case", "way"), pairs, ids=str)


@lru_cache(maxsize=1)
def truth(case: Case) -> np.ndarray:
    model, x, z = case.make()
    z = None if z is None else z[:FEW]
    some = torch.nn.Sequential(model, Some()) if case.o > SOME else model
    return oracle.mode(oracle.ntk(some, x[:FEW], z), case.outputs).numpy()


class Some(torch.nn.Module):
    """The first outputs: the Jacobians of all, in float64, would not fit into memory."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y[:, :SOME]


@lru_cache(maxsize=1)
def our_kernel(case: Case, count: int) -> np.ndarray:
    model, x, z = case.make()
    z = None if z is None else z[:count]
    return entk.ntk(model, x[:count], z, outputs=case.outputs).numpy()


@lru_cache(maxsize=1)
def our_plan(case: Case) -> entk.Plan:
    model, x, z = case.make()
    return entk.plan_ntk(model, x, z, outputs=case.outputs)


def far(found: np.ndarray, expected: np.ndarray, outputs: str) -> float:
    """The median over sample pairs of |difference| / |expected|."""
    axes = {"all": (1, 3), "diagonal": (0,)}.get(outputs, ())
    above, below = (np.sqrt((t**2).sum(axes)) for t in (found - expected, expected))
    return float(np.median(above / below))


def test_ntk(benchmark, case: Case, way: str, request, kernel_rows):
    device = request.config.getoption("device")
    if way in ON_ONE and ON_ONE[way] != device:
        pytest.skip(f"on {ON_ONE[way]} only")
    threads = torch.get_num_threads()
    operations = sum(c.flops for c in our_plan(case).layers)
    note = {"case": str(case), "way": way, "operations": operations}
    worker = None
    try:
        option = request.config.getoption
        worker = Worker(case, way, threads, device, option("jax_python"), option("limit"))
        few = worker.kernel(FEW)
        few = few[:, :SOME, :, :SOME] if case.outputs == "all" else few
        error = far(few, truth(case), case.outputs)
        gate = TF32_GATE if "TF32" in way else GATE
        assert error <= gate, f"{way} is wrong on {case}: {error:.1e} from the float64 loop"
        count = case.n if device == "cpu" else min(case.n, CHECKED)
        error = far(worker.kernel(count), our_kernel(case, count), case.outputs)
        assert error <= gate, f"{way} and entk differ on {case} by {error:.1e}"
        seconds = timed(worker)
        rounds = max(2 if seconds < 8 else 1, min(15, int(SECONDS / seconds)))
        peaks = []
        benchmark.extra_info.update(op="ntk", **note)
        benchmark.pedantic(lambda: peaks.append(worker.run()), rounds=rounds, warmup_rounds=0)
        kernel_rows.append({**note, "peak_gb": peaks[-1], "difference": error})
    except PeerError as failed:
        kernel_rows.append({**note, "failed": str(failed)})
        pytest.skip(str(failed))
    finally:
        if worker is not None:
            worker.close()


def timed(worker: Worker) -> float:
    start = time.perf_counter()
    worker.run()
    return time.perf_counter() - start
