"""A kernel that would not fit, streamed to disk under a budget, killed half way and resumed.

python -m benchmarks.streamed --data cifar10.npz          # 10,000 samples: an hour or more, 2 cores
python -m benchmarks.streamed --data cifar10.npz --samples 1000

The trace kernel of a briefly trained ResNet-20 is written in a process of its own, whose peak of
memory is read from the kernel; it is ended with SIGKILL when half of the tiles are done, and
started again. Tiles on either side of the cut, and others, are then computed by themselves and
compared bit for bit. results/streamed.json gets the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import entk
from benchmarks import error_states
from benchmarks.worker import peak_gb
from entk.assemble import WHOLE, Engine
from entk.request import prepare
from twophase import environment

RESULT = Path(__file__).parent / "results" / "streamed.json"
CHECKED = 24  # tiles that are computed again


def main() -> None:
    options = _options()
    path, inputs = options.out / "kernel.h5", options.out / f"inputs-{options.samples}.pt"
    if options.worker:
        _write(path, *torch.load(inputs, weights_only=False), options.memory)
        return
    if not inputs.exists():
        config = error_states.configure("resnet20-cifar10", options.data, [], options.steps)
        run, data = error_states.trained(options.out / "resnet20", config)
        model = error_states.states(run, data, [], [])[0].model
        torch.save((model, error_states.samples(config, data, options.samples).clone()), inputs)
    model, x = torch.load(inputs, weights_only=False)
    attempts = [_attempt(options.kill_at), _attempt(None)]
    with entk.open_kernel(path) as file:
        plan = file.plan
        checked = _check(file, model, x, attempts[0]["tiles"])
    found = {
        "kernel": f"ResNet-20, N={len(x)}, outputs=trace, float32",
        "memory": options.memory,
        "plan": str(plan).splitlines()[:2],
        "multiply_adds": sum(c.flops for c in plan.costs),
        "killed": attempts[0],
        "resumed": attempts[1],
        "tiles": len(list(plan.tiles())),
        "tiles_recomputed": checked,
        "tiles_that_differ": 0,
        "file_bytes": path.stat().st_size,
        "training": f"{options.steps} steps",
        "environment": environment.describe(),
        "command": f"python -m benchmarks.streamed {' '.join(sys.argv[1:])}",
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help=".npz with x_train, y_train, x_test, y_test")
    add("--samples", type=int, default=10_000, help="N")
    add("--steps", type=int, default=240, help="of training")
    add("--memory", default="2GiB", help="budget of the kernel")
    add("--kill-at", type=float, default=0.5, help="share of tiles after which it is killed")
    add("--out", type=Path, default=Path("runs/streamed"), help="folder of network and kernel")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(path: Path, model: torch.nn.Module, x: torch.Tensor, memory: str) -> None:
    """In a process of its own: a line on stdout for each tile, and at the end what it took."""
    start = time.perf_counter()
    before = int(peak_gb("cpu") * 1e9)

    def show(done: int, total: int) -> None:
        peak = int(peak_gb("cpu") * 1e9)
        times = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "tiles": done,
            "total": total,
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(times.ru_utime + times.ru_stime, 1),
            "peak_bytes": peak,
            "before_bytes": before,
        }
        print(json.dumps(found), flush=True)

    entk.write_ntk(path, model, x, outputs="trace", memory=memory, progress=show).close()


def _attempt(kill_at: float | None) -> dict:
    """What the last line said before the process was killed, or ended by itself."""
    command = [sys.executable, "-m", "benchmarks.streamed", *sys.argv[1:], "--worker"]
    found = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            print(f"\r{found['tiles']} of {found['total']} tiles, {found['seconds']} s", end="")
            if kill_at is not None and found["tiles"] >= kill_at * found["total"]:
                process.send_signal(signal.SIGKILL)
                break
    print()
    expected = 0 if kill_at is None else -signal.SIGKILL
    if process.returncode != expected:
        raise SystemExit(f"the process ended with {process.returncode}, expected {expected}")
    return found


def _check(file: entk.KernelFile, model: torch.nn.Module, x: torch.Tensor, cut: int) -> int:
    """Tiles computed again, by a process that was never killed; all have to be the same bits."""
    plan = file.plan
    engine = Engine(prepare(model, x, None, "trace", None), plan)
    order = list(plan.tiles())
    random.seed(0)
    chosen = {*order[max(cut - 2, 0) : cut + 2], order[0], order[-1]}
    chosen |= set(random.sample(order, min(CHECKED, len(order)) - len(chosen)))
    for i, j, tile in (t for place in sorted(chosen) for t in engine.tiles([place])):
        rows, columns = plan.span(i), plan.span(j, axis=1)
        if not torch.equal(tile[WHOLE], file[rows, columns]):
            raise SystemExit(f"tile {(i, j)} differs from the one in the file")
    return len(chosen)


if __name__ == "__main__":
    main()
