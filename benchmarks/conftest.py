"""What all benchmarks share: the device, and where results go.

`make bench` runs on the CPU, `make gpu` with --device=cuda. Every run writes its raw statistics
as JSON (hardware, versions, commit, command) and a table per operation as CSV.
"""

from __future__ import annotations

import csv
import os
import platform
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from benchmarks import table

RESULTS = Path(__file__).parent / "results"
REFERENCES = ("torch", "read")  # ratios are against the PyTorch definition, or against reading


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"))
    parser.addoption("--threads", type=int, help="threads of torch and of the extension")
    parser.addoption("--full", action="store_true", help="every case, not the short set")
    parser.addoption("--way", action="append", help="only this way of a whole kernel; repeatable")
    parser.addoption("--limit", type=float, default=40, help="seconds a whole kernel may take")
    parser.addoption("--jax-python", help="interpreter that has neural-tangents")


def pytest_configure(config):
    if config.getoption("threads"):
        torch.set_num_threads(config.getoption("threads"))


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("device"))


@pytest.fixture
def timed(benchmark, device):
    """timed(function, op=..., case=..., way=...): warm up, time, and note the row's place."""

    def run(function, *, op, case, way, rounds=15, iterations=1, **notes):
        def call():
            result = function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return result

        benchmark.extra_info.update(op=op, case=case, way=way, **notes)
        return benchmark.pedantic(call, rounds=rounds, iterations=iterations, warmup_rounds=3)

    return run


@pytest.fixture(scope="session")
def kernel_rows(request):
    """Rows of whole kernels; a table of them, failures too, is written when all are there."""
    rows: list[dict] = []
    request.config.kernel_rows = rows
    return rows


def hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def pytest_benchmark_update_machine_info(config, machine_info):
    device = config.getoption("device")
    machine_info.pop("node", None)
    machine_info["hardware"] = hardware(device)
    machine_info["threads"] = torch.get_num_threads()
    machine_info["torch"] = torch.__version__
    machine_info["cuda"] = torch.version.cuda
    machine_info |= table.peaks(device)
    machine_info["load"] = os.getloadavg()[0]
    machine_info["command"] = " ".join(["pytest", *sys.argv[1:]])


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """A table per operation, ratios worked out within each case."""
    tables = defaultdict(list)
    for entry in output_json["benchmarks"]:
        tables[entry["extra_info"]["op"]].append(entry)
    prefix = "gpu-" if config.getoption("device") == "cuda" else ""
    if "ntk" in tables:
        kernels = table.kernel_rows(config.kernel_rows, tables.pop("ntk"), output_json)
        table.write(RESULTS / f"{prefix}ntk.csv", kernels)
    for op, entries in tables.items():
        with (RESULTS / f"{prefix}{op}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(_rows(entries, output_json))


COLUMNS = (
    *("case", "way", "median_ms", "min_ms", "rounds", "times_as_fast", "error"),
    *("hardware", "threads", "torch", "commit", "date"),
)


def _rows(entries, run):
    """times_as_fast is the reference's median over the row's, of one case in one run."""
    machine, commit = run["machine_info"], run["commit_info"]
    state = f"{commit['id'][:10]}{'+changes' if commit.get('dirty') else ''}"
    where = (machine["hardware"], machine["threads"], machine["torch"], state, run["datetime"][:10])
    notes = [entry["extra_info"] for entry in entries]
    medians = {
        (n["case"], n["way"]): e["stats"]["median"] for n, e in zip(notes, entries, strict=True)
    }
    for note, entry in zip(notes, entries, strict=True):
        stats = entry["stats"]
        found = [medians[key] for r in REFERENCES if (key := (note["case"], r)) in medians]
        reference = found[0] if found else None
        yield (
            note["case"],
            note["way"],
            f"{1e3 * stats['median']:.4g}",
            f"{1e3 * stats['min']:.4g}",
            stats["rounds"],
            f"{reference / stats['median']:.3g}" if reference else "",
            f"{note['error']:.1e}" if "error" in note else "",
            *where,
        )
