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


def main() -> None:
    options = _options()
    if options.worker:
        _work(options)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        runs = [_run(options, ranks, Path(folder)) for ranks in options.ranks]
    assert len({run["sha256"] for run in runs}) == 1, "the files differ"
    plan = Plan.from_json(runs[0]["plan"])
    one = next(run for run in runs if run["ranks"] == 1)
    costs = Costs(**one["costs"])
    for run in runs:
        run["model_s"] = round(expected(costs, plan, run["ranks"]), 2)
        run["measured_over_model"] = round(run["seconds"] / run["model_s"], 2)
        run["speed_up"] = round(one["seconds"] / run["seconds"], 2)
        run.pop("plan")
    times = LARGE / options.samples
    blocks = math.ceil(LARGE / options.block)
    ahead = {ranks: limits(larger(costs, times), blocks, ranks) for ranks in (1, *AHEAD)}
    found = {
        "kernel": f"{options.network}, N={options.samples}, outputs={options.outputs!r}, float32",
        "blocks": plan.blocks,
        "tiles": len(list(plan.tiles())),
        "costs": asdict(costs),
        "runs": runs,
        "ahead": ahead,
        "rounds": options.rounds,
        "environment": environment.describe(),
        "command": f"python -m benchmarks.distributed {' '.join(sys.argv[1:])}".strip(),
    }
    options.result.write_text(json.dumps(found, indent=1) + "\n")
    if options.result == RESULT:
        page = PAGE.read_text()
        PAGE.write_text(MARKS.sub(lambda m: m[1] + table(found) + m[2], page))
    print(table(found))


def table(found: dict) -> str:
    """Markdown: what was measured, and what the model says beyond."""
    processor = found["environment"]["machine"]["processor"]
    lines = [
        f"{found['kernel']}; {found['tiles']} tiles of {found['blocks'][0]} blocks; median of "
        f"{found['rounds']}; {processor}, one thread a rank",
        "",
        "| ranks | s | speed-up | model, s | measured / model | captured twice | shards | said |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in found["runs"]:
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
    lines += ["", f"By the model, N = {LARGE:,}:", ""]
    lines += ["| ranks | captures, s | products, s | start, s | join, s | speed-up |"]
    lines += ["|---|---|---|---|---|---|"]
    one = sum(found["ahead"][1].values())
    for ranks, parts in found["ahead"].items():
        cells = [ranks, *(f"{parts[key]:.3g}" for key in ("captures", "products", "start", "join"))]
        lines.append(f"| {' | '.join(map(str, cells))} | {one / sum(parts.values()):.1f} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", default="ResNet-20")
    add("--samples", type=int, default=512, help="N")
    add("--outputs", default="trace")
    add("--block", type=int, default=32, help="samples on a side of a tile")
    add("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="1 is among them")
    add("--rounds", type=int, default=3)
    add("--scratch", type=Path, default=None, help="folder for kernels")
    add("--result", type=Path, default=RESULT)
    add("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, ranks: int, folder: Path) -> dict:
    """The processes of `ranks` ranks, and what rank 0 has told."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = folder / f"{ranks}.h5"
    command = [sys.executable, "-m", "benchmarks.distributed", *sys.argv[1:], "--worker", str(path)]
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
    model, x, _ = Case(options.network, options.samples, outputs=options.outputs).make()
    asked = {"outputs": options.outputs, "memory": "4GB", "rates": "nominal"}
    plan = entk.plan_ntk(model, x, block=options.block, **asked)
    clock, seconds, counts = _Clock(), [], {}
    for _ in range(options.rounds):
        dist.barrier()
        clock.begin()
        asked = {"outputs": options.outputs, "plan": plan, "resume": False, "group": "world"}
        entk.write_ntk(options.worker, model, x, **asked).close()
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
            "sha256": hashlib.sha256(options.worker.read_bytes()).hexdigest(),
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
