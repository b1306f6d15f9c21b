"""One way of one case in a process of its own, so that its peak of memory is its own.

Reads lines "COUNT [PATH]": computes the kernel of COUNT samples a side (0: of all), saved to PATH
if given; answers each with a line of JSON: {"peak_gb": ...} or {"error": ...}.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import BY_NAME, Case
from benchmarks.export import export
from benchmarks.peers import JAX_WAYS, WAYS

LIMIT_GB = 20


class PeerError(Exception):
    """What a way answered in place of a kernel."""


class Worker:
    """A way of a case, running in a process."""

    def __init__(
        self,
        case: Case,
        way: str,
        threads: int,
        device: str,
        jax_python: str | None,
        limit: float,
    ):
        self.limit = limit  # seconds for one kernel; a way that needs more is reported as such
        self.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "benchmarks.worker", str(case), way, str(threads), device]
        if way in JAX_WAYS:
            if jax_python is None:
                raise PeerError("no environment for it: see docs/benchmarks.md")
            try:
                export(*case.make(), Path(self.folder.name))
            except Exception as error:  # the network cannot be told to it
                raise PeerError(str(error).splitlines()[0]) from None
            script = Path(__file__).with_name("jax_worker.py")
            command = [jax_python, str(script), self.folder.name, JAX_WAYS[way], case.outputs]
            command = ["taskset", "-c", ",".join(map(str, range(threads))), *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes)

    def run(self, count: int = 0, path: Path | str = "") -> float:
        """Compute the kernel; the process' peak in GB so far."""
        timer = threading.Timer(self.limit, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(f"{count} {path}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        ended = not timer.is_alive()
        timer.cancel()
        if not answer:
            reason = f"more than {self.limit:g} s" if ended else "the process died"
            raise PeerError(reason)
        told = json.loads(answer)
        if "error" in told:
            raise PeerError(told["error"].splitlines()[0][:160])
        return told["peak_gb"]

    def kernel(self, count: int = 0) -> np.ndarray:
        path = Path(self.folder.name) / "kernel.npy"
        self.run(count, path)
        return np.load(path)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()


def main(case: Case, way: str, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "TF32" in way
    if device == "cpu":  # CUDA reserves more address space than that
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GB * 10**9,) * 2)
    model, x, z = (None if t is None else t.to(device) for t in case.make())
    kernel = WAYS[way](model)
    for line in sys.stdin:
        count, _, path = line.strip().partition(" ")
        few = int(count) or None
        found = kernel(x[:few], None if z is None else z[:few], case.outputs)
        if device == "cuda":
            torch.cuda.synchronize()
        if path:
            np.save(path, found.detach().cpu().numpy())
        del found
        print(json.dumps({"peak_gb": peak_gb(device)}), flush=True)


def peak_gb(device: str) -> float:
    """Of the process on the CPU, of torch's allocator on CUDA."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):  # ru_maxrss would begin at the parent's
            return int(line.split()[1]) * 1024 / 1e9
    return float("nan")


if __name__ == "__main__":
    try:
        main(BY_NAME[sys.argv[1]], sys.argv[2], int(sys.argv[3]), sys.argv[4])
    except Exception as error:  # whatever a peer dies of is told in the results
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
