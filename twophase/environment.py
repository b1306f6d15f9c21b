"""What a run was made with: versions, machine, time per stage."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import entk
from twophase.rundir import RunDir

PACKAGES = ("entk", "torch", "numpy", "h5py", "scikit-learn", "scipy", "matplotlib", "safetensors")


def record(run: RunDir, stage: str, seconds: float) -> None:
    """environment.json, with the time of this stage added to those of earlier ones.

    The rest is of the last stage that measured something: a report may be written again.
    """
    path = run.path / "environment.json"
    before = run.load_json(path) if path.exists() else {}
    times = {**before.get("stage_seconds", {}), stage: round(seconds, 2)}
    about = before
    if stage != "report" or not before:
        about = {**describe(run.config.device), "kernel_plan": _plan(run)}
    run.save_json(path, {**about, "stage_seconds": times})


def recorded(run: RunDir, stage: str) -> bool:
    """Whether the stage is in environment.json; a kill just after its last file leaves it out."""
    path = run.path / "environment.json"
    return path.exists() and stage in run.load_json(path).get("stage_seconds", {})


def _plan(run: RunDir) -> list[str]:
    """The lines of the plan behind the first kernel, once there is one."""
    path = run.kernel(run.config.arms[0], run.config.kernels.steps[0])
    if not path.exists():
        return []
    with entk.open_kernel(path) as file:
        return str(file.plan).splitlines()


def describe(device: str = "cpu") -> dict:
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
        },
        "torch_threads_per_worker": 1,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "backends": entk.backends(),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "commit": _commit(),
    }


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "twophase" if name == "__main__.py" else name  # python -m twophase


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def _commit() -> str | None:
    """The commit of the source tree that this runs from, if it is one."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
