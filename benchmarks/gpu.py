"""`make gpu`: every check and benchmark that needs a GPU, as one command.

Builds the extension in place for this interpreter (torch is never installed or changed), runs the
tests marked gpu, the benchmarks on CUDA and compute-sanitizer where there is one, and writes
benchmarks/results/gpu-checks.json, gpu-benchmarks.json, gpu-lockstep.csv and gpu-<op>.csv. Exit
status 0: all passed, 1: something failed, 2: there is no GPU to run on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOCKSTEP = ("-m", "benchmarks.lockstep")
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


def why_not() -> str | None:
    """What is missing to run here, or None."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} of {sys.executable} sees no CUDA device"
    if shutil.which("nvcc") is None:
        return "nvcc is not on the PATH, so the extension's CUDA part cannot be built"
    return None


def steps() -> dict[str, tuple[str, ...]]:
    report = f"--benchmark-json={RESULTS / 'gpu-benchmarks.json'}"
    found = {
        "build": (sys.executable, "setup.py", "-q", "build_ext", "--inplace"),
        "tests": (*PYTEST, "tests/gpu", "tests/entk/ops", "-m", "not slow"),
        "benchmarks": (*PYTEST, "benchmarks", "--device", "cuda", report),
        "lockstep": (sys.executable, *LOCKSTEP, "--device", "cuda", "--lanes", "4,16,64"),
    }
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer:
        kernels = (*PYTEST, "tests/gpu", "-k", "gram_dot and not well_formed")
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
            found[tool] = (sanitizer, "--tool", tool, "--error-exitcode", "1", *kernels)
    return found


def machine() -> dict[str, str]:
    import torch

    def first_line(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        return done.stdout.strip().splitlines()[-1]

    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "nvcc": first_line("nvcc", "--version"),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": first_line("git", "rev-parse", "HEAD"),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    reason = why_not()
    if reason:
        print(
            f"make gpu: {reason}; run it where there is a GPU, or name another interpreter with "
            "make gpu PYTHON=...",
            file=sys.stderr,
        )
        return 2
    RESULTS.mkdir(exist_ok=True)
    environment = {**os.environ, "ENTK_BUILD_EXT": "1", "PYTHONPATH": str(ROOT)}
    checks = {"machine": machine(), "steps": {}}
    failed = []
    for name, command in steps().items():
        print(f"== {name}: {' '.join(command)}", flush=True)
        start = time.perf_counter()
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        if status:
            failed.append(name)
        checks["steps"][name] = {
            "command": [Path(part).name if part.startswith("/") else part for part in command],
            "exit_status": status,
            "seconds": round(time.perf_counter() - start, 1),
        }
        (RESULTS / "gpu-checks.json").write_text(json.dumps(checks, indent=1) + "\n")
    print(f"failed: {', '.join(failed)}" if failed else "all passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
