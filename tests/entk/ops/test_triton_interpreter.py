"""Runs the tests of the Triton kernels where there is no GPU.

TRITON_INTERPRET is read while triton and the kernels are imported, so they get a process of their
own: what is set there reaches no other test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    Version(triton.__version__) < Version("3.9") and Version(np.__version__) >= Version("2.4"),
    reason=f"the interpreter of triton {triton.__version__} fails with numpy {np.__version__}",
)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FILES = (
    "gram_triton",
    "pairs_gram_triton",
    "gram_dot_triton",
    "fused_gram_dot_triton",
    "triton_ntk",
)


def run(marks: str) -> None:
    files = [str(HERE / f"test_{name}.py") for name in FILES]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", marks, *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # nothing here to share
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    print(done.stdout.splitlines()[-1])
    assert "passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_kernels():
    run("not slow")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_slowly():
    run("slow")
