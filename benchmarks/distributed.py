"""One kernel over several processes on one machine, beside the model of how that scales.

python -m benchmarks.distributed    # results/distributed.json, the table in docs/benchmarks.md

Each rank has one thread; `--ranks` beyond the number of cores says what oversubscription costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

import entk
import entk.peers
import entk.write
from benchmarks.cases import Case
from benchmarks.scaling import Costs, expected, larger, limits
from benchmarks.table import RESULTS, ROOT
from entk.assemble import Engine
from entk.distribute import assign, captured
from entk.plan import Plan
from twophase import environment

RESULT = RESULTS / "distributed.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = re.compile(r"(<!-- distributed:begin -->\n).*(<!-- distributed:end -->)", re.S)
AHEAD = (8, 64, 512)
LARGE = 50_000  # samples of the kernel that is looked ahead to: CIFAR-10
BLOCK = 256  # and of its blocks
BLOCKS = math.ceil(LARGE / BLOCK)
JOINED = 8192  # samples of the kernel whose join is timed
CASES = ("ResNet-20:512:trace", "ResNet-20:384:all")
PARTS = ("captures", "products", "start", "join")


def main() -> None:
    options = _options()
    if options.worker:
        _work(options)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        kernels = [_kernel(options, case, Path(folder)) for case in options.cases]
        join = _join_seconds(Path(folder))
    costs = Costs(**kernels[0]["costs"])
    found = {
        "kernels": kernels,
        "join": {"samples": JOINED, "block": BLOCK, "seconds": join},
        "ahead": {ranks: _ahead(costs, join, options, ranks) for ranks in (1, *AHEAD)},
        "rounds": options.rounds,
        "environment": environment.describe(),
        "command": f"python -m benchmarks.distributed {' '.join(sys.argv[1:])}".strip(),
    }
    options.result.write_text(json.dumps(found, indent=1) + "\n")
    if options.result == RESULT:
        page = PAGE.read_text()
        PAGE.write_text(MARKS.sub(lambda m: m[1] + table(found) + m[2], page))
    print(table(found))


def _kernel(options: argparse.Namespace, case: str, folder: Path) -> dict:
    """One kernel by every number of ranks."""
    network, samples, outputs = case.split(":")
    print(f"{network}, N={samples}, {outputs}", flush=True)
    runs = [_run(case, ranks, folder) for ranks in options.ranks]
    assert len({run["sha256"] for run in runs}) == 1, "the files differ"
    plan = Plan.from_json(runs[0]["plan"])
    one = next(run for run in runs if run["ranks"] == 1)
    costs = Costs(**one["costs"])
    for run in runs:
        run["model_s"] = round(expected(costs, plan, run["ranks"]), 2)
        run["measured_over_model"] = round(run["seconds"] / run["model_s"], 2)
        run["speed_up"] = round(one["seconds"] / run["seconds"], 2)
        run.pop("plan")
    return {
        "kernel": f"{network}, N={samples}, outputs={outputs!r}, float32",
        "blocks": plan.blocks,
        "tiles": len(list(plan.tiles())),
        "costs": asdict(costs),
        "runs": runs,
    }


def _ahead(costs: Costs, join: float, options: argparse.Namespace, ranks: int) -> dict:
    """Of the first case's network with LARGE samples in blocks of BLOCK."""
    return limits(larger(costs, BLOCK / options.block, join * (LARGE / JOINED) ** 2), BLOCKS, ranks)


def _join_seconds(folder: Path) -> float:
    """What it takes to join the shards of a kernel of JOINED samples in blocks of BLOCK."""
    x, model, clock = torch.randn(JOINED, 4), torch.nn.Linear(4, 1), _Clock()
    plan = entk.plan_ntk(model, x, outputs="trace", block=BLOCK, rates="nominal")
    for _ in range(3):
        clock.begin()
        asked = {"outputs": "trace", "plan": plan, "resume": False}
        entk.write_ntk(folder / "join.h5", model, x, **asked).close()
        clock.end_of_round()
    return round(median(r["join"] for r in clock.rounds), 3)


def table(found: dict) -> str:
    """Markdown: what was measured, and what the model says beyond."""
    machine = found["environment"]["machine"]["processor"]
    lines = [f"{machine}, one thread a rank; medians of {found['rounds']}.", ""]
    for kernel in found["kernels"]:
        of = kernel["costs"]
        lines += [
            f"{kernel['kernel']}; {kernel['tiles']} tiles of {kernel['blocks'][0]} blocks; "
            f"{of['capture']:.2f} s a block, {of['tile']:.3f} s a tile:",
            "",
            "| ranks | s | speed-up | model, s | s / model | captured twice | shards | said |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for run in kernel["runs"]:
            cells = (
                run["ranks"],
                f"{run['seconds']:.1f}",
                f"{run['speed_up']:.2f}",
                f"{run['model_s']:.1f}",
                f"{run['measured_over_model']:.2f}",
                f"{run['captured_twice']:.0%}",
                f"{run['shard_bytes'] / 1e6:.1f} MB",
                f"{run['sent_bytes'] / 1e3:.0f} kB",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    lines += [
        f"By the model, the first kernel with N = {LARGE:,} in blocks of {BLOCK}; joining "
        f"{found['join']['samples']:,} samples took {found['join']['seconds']:.2f} s:",
        "",
        "| ranks | captures, s | products, s | start, s | join, s | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    one = sum(found["ahead"][1].values())
    for ranks, parts in found["ahead"].items():
        cells = [ranks, *(f"{parts[key]:,.3g}" for key in PARTS)]
        lines.append(f"| {' | '.join(map(str, cells))} | {one / sum(parts.values()):.1f} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", nargs="+", default=CASES, metavar="NETWORK:N:OUTPUTS")
    add("--block", type=int, default=32, help="samples on a side of a tile")
    add("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="1 is among them")
    add("--rounds", type=int, default=3)
    add("--scratch", type=Path, default=None, help="folder for kernels")
    add("--result", type=Path, default=RESULT)
    add("--worker", nargs=2, help=argparse.SUPPRESS)  # path, case
    return parser.parse_args()


def _run(case: str, ranks: int, folder: Path) -> dict:
    """The processes of `ranks` ranks, and what rank 0 has told."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = str(folder / "kernel.h5")
    command = [sys.executable, "-m", "benchmarks.distributed", *sys.argv[1:]]
    command += ["--worker", path, case]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    environment_ = os.environ | place | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command, env=environment_ | {"RANK": str(r)}, stdout=subprocess.PIPE, text=True
        )
        for r in range(ranks)
    ]
    told = [p.communicate()[0] for p in processes]
    if any(p.returncode for p in processes):
        raise SystemExit(f"a rank of {ranks} failed")
    found = json.loads(told[0].splitlines()[-1])
    print(f"{ranks} ranks: {found['seconds']} s", flush=True)
    return found


def _work(options: argparse.Namespace) -> None:
    """One rank: the same kernel `rounds` times; rank 0 prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    path, case = options.worker
    network, samples, outputs = case.split(":")
    model, x, _ = Case(network, int(samples), outputs=outputs).make()
    asked = {"outputs": outputs, "memory": "4GB", "rates": "nominal"}
    plan = entk.plan_ntk(model, x, block=options.block, **asked)
    clock, seconds, counts = _Clock(), [], {}
    for _ in range(options.rounds):
        dist.barrier()
        clock.begin()
        asked = {"outputs": outputs, "plan": plan, "resume": False, "group": "world"}
        entk.write_ntk(path, model, x, **asked).close()
        seconds.append(clock.now())
        clock.end_of_round()
        counts = {"shard_bytes": clock.shards, "sent_bytes": clock.sent}
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, counts)
    if dist.get_rank() == 0:
        ranks = dist.get_world_size()
        blocks = sum(captured(plan, tiles) for tiles in assign(plan, ranks))
        found = {
            "ranks": ranks,
            "seconds": round(median(seconds), 2),
            "costs": clock.costs(plan),
            "captured_twice": round(1 - plan.blocks[0] / blocks, 3),
            **{key: sum(c[key] for c in every) for key in counts},
            "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            "plan": plan.to_json(),
        }
        print(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


class _Clock:
    """Where the seconds of one process go: around the engine's blocks and tiles, and the join."""

    def __init__(self):
        self.rounds: list[dict[str, float]] = []
        self.spent: dict[str, float] = {}
        self.shards = self.sent = 0
        shards, peers = entk.write.Shards, entk.peers.Peers
        Engine.block = self._around("capture", Engine.block)
        Engine.tile = self._around("tile", Engine.tile)
        shards.finish = self._sized(self._around("join", shards.finish))
        shards._write = self._around("write", shards._write)
        peers.__exit__ = self._counted(peers.__exit__)

    def begin(self) -> None:
        self.spent, self.started = {}, time.perf_counter()
        self.shards = self.sent = 0

    def now(self) -> float:
        return time.perf_counter() - self.started

    def end_of_round(self) -> None:
        self.rounds.append(self.spent | {"whole": self.now()})

    def costs(self, plan: Plan) -> dict[str, float]:
        """Of a single process that has done all blocks and tiles."""
        of = {k: median(r.get(k, 0.0) for r in self.rounds) for k in self.rounds[0]}
        apart = ("capture", "tile", "join")
        return {
            "start": of["whole"] - sum(of[k] for k in apart),
            "capture": of["capture"] / plan.blocks[0],
            "tile": of["tile"] / len(list(plan.tiles())),
            "join": of["join"],
        }

    def _around(self, name: str, call):
        def timed(*arguments, **options):
            start = time.perf_counter()
            result = call(*arguments, **options)
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start
            return result

        return timed

    def _sized(self, call):
        def sized(store, *arguments):
            self.shards = sum(f.stat().st_size for f in store.folder.glob("shard-*.h5"))
            return call(store, *arguments)

        return sized

    def _counted(self, call):
        def counted(peers, *arguments):
            self.sent = peers.sent
            return call(peers, *arguments)

        return counted


if __name__ == "__main__":
    main()
