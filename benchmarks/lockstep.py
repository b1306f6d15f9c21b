"""Steps of twins per second: one after another in processes, or in lockstep.

python -m benchmarks.lockstep                             # on an idle machine
python -m benchmarks.lockstep --device cuda --lanes 4,16,64
python -m benchmarks.lockstep --networks mlp --lanes 2 --steps 3 --rounds 1      # does it run

"processes": as many processes as --processes says, each trains one twin at a time. "lockstep": the
same processes on the CPU, one on CUDA, each trains all its lanes at once. Every process warms up,
all start a round together, and a round ends with the slowest. Samples are noise of the right shape.
Replaces the networks' rows of results/lockstep.csv, or of results/gpu-lockstep.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.error_study import where, write
from benchmarks.table import RESULTS
from twophase import config as configs
from twophase import data as datasets
from twophase import device, lockstep, train
from twophase.config import Config
from twophase.errors import UserError
from twophase.presets import PRESETS

COLUMNS = (
    *("network", "way", "processes", "lanes", "batch", "steps", "rounds"),
    *("twin_steps_per_s", "min", "max", "times_as_fast", "cpu_ms_per_twin_step"),
    *("hardware", "threads", "torch", "entk", "commit", "command", "date"),
)
# network -> preset, what differs from it, (channels, side) of the samples
NETWORKS = {
    "mlp": ("quickstart", ["model.name=mlp", "model.widths=[128, 128]"], (1, 8)),
    "thin-resnet": ("quickstart", [], (1, 8)),
    "resnet20": ("resnet20-cifar10", [], (3, 32)),
}
SAMPLES = 2048
WARM_UP = 4  # steps; CUDA graphs are recorded at the second


def configure(network: str, device_: str, folder: Path) -> Config:
    """The network's preset on noise, whose last batch of an epoch is as large as the others."""
    preset, changes, (channels, side) = NETWORKS[network]
    path, generator = folder / f"{network}.npz", np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        shape = (SAMPLES, side, side, channels)
        arrays[f"x_{part}"] = generator.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(SAMPLES) % 10
    np.savez(path, **arrays)
    fixed = [f"data.source={path}", f"device={device_}", "training.steps=1000000"]
    return configs.build(PRESETS[preset], [*changes, *fixed])


def steps_of(config: Config, data: datasets.Dataset, lanes: int) -> Iterator[None]:
    """One step of one twin, or of so many in lockstep, each time it is asked."""
    state, arm, last = train.initial(config, data), "constant", config.training.steps
    if lanes == 1:
        model = train.network(config, data, state).train()
        for _ in train.run_sgd(model, config, data, arm, state, 0, last):
            yield
    together = lockstep.Lanes(config, data, [state] * lanes)
    for step in range(last):
        losses = together.step(config.rate(arm, step), *train.step_batch(config, data, step))
        losses.tolist()  # as in training, which looks at each
        yield


def work(config: Config, lanes: int, steps: int, rounds: int) -> list[tuple[float, float]]:
    """(seconds, processor seconds) of each round, in a process of its own."""
    device.prepare(config.device)
    moving = steps_of(config, datasets.load(config), lanes)
    for _ in range(WARM_UP):
        next(moving)
    found = []
    for _ in range(rounds):
        BARRIER.wait()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            next(moving)
        if config.device == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - start, time.process_time() - cpu))
    return found


def _start(barrier) -> None:
    global BARRIER
    BARRIER = barrier


def measure(config: Config, processes: int, lanes: int, options: argparse.Namespace) -> dict:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, context, initializer=_start, initargs=(context.Barrier(processes),)
    ) as pool:
        job = (work, config, lanes, options.steps, options.rounds)
        workers = [future.result() for future in [pool.submit(*job) for _ in range(processes)]]
    done = processes * lanes * options.steps
    rates = [done / max(seconds for seconds, _ in found) for found in zip(*workers, strict=True)]
    cpu = [1e3 * sum(c for _, c in found) / done for found in zip(*workers, strict=True)]
    return {
        "way": "processes" if lanes == 1 else "lockstep",
        "processes": processes,
        "lanes": lanes,
        "batch": config.training.batch,
        "steps": options.steps,
        "rounds": options.rounds,
        "rate": median(rates),
        "min": f"{min(rates):.4g}",
        "max": f"{max(rates):.4g}",
        "cpu_ms_per_twin_step": f"{median(cpu):.4g}",
    }


def rows(network: str, options: argparse.Namespace) -> Iterator[dict]:
    """First the processes, then lockstep with every number of lanes."""
    with tempfile.TemporaryDirectory() as folder:
        config = configure(network, options.device, Path(folder))
        first = None
        for lanes in (1, *map(int, options.lanes.split(","))):
            alone = options.device == "cuda" and lanes > 1
            row = measure(config, 1 if alone else options.processes, lanes, options)
            rate = row.pop("rate")
            first = first or rate
            row |= {"twin_steps_per_s": f"{rate:.4g}", "times_as_fast": f"{rate / first:.3g}"}
            yield {"network": network, **row, **where(options.device, "lockstep"), "threads": 1}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.lockstep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", default=",".join(NETWORKS), help="of mlp, thin-resnet and resnet20")
    add("--lanes", default="2,4,8", help="numbers of twins in lockstep, each at least 2")
    add("--processes", type=int, default=os.cpu_count() or 1)
    add("--steps", type=int, default=20, help="of a round")
    add("--rounds", type=int, default=5, help="of which the median is taken")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    prefix = "gpu-" if options.device == "cuda" else ""
    try:
        device.prepare(options.device)
        for network in options.networks.split(","):
            if network not in NETWORKS:
                raise UserError(f"--networks {network!r}: expected of {', '.join(NETWORKS)}")
            found = []
            for row in rows(network, options):
                found.append(row)
                print(network, row["way"], row["lanes"], row["twin_steps_per_s"], flush=True)
            write(RESULTS / f"{prefix}lockstep.csv", found, COLUMNS)
    except UserError as error:
        print(f"lockstep: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
