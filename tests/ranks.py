"""Several processes of one torch.distributed group, for tests: starting them, what each has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from entk import plan_ntk

ROOT = Path(__file__).parents[1]
START = """
import sys, torch, torch.distributed as dist, entk, entk.shards
from entk import peers
from tests.ranks import request
torch.set_num_threads(1)
peers.LOST_SECONDS, peers.LEAVE_SECONDS, peers.BEAT_SECONDS = 10.0, 1.0, 0.2
peers.MESSAGE_BYTES = 500  # most messages go in several pieces
dist.init_process_group("gloo")
rank = dist.get_rank()
"""


def request(outputs: str = "all", block: int = 2, n: int = 9, rectangular: bool = False, **options):
    """Arguments of a small kernel, the same on every rank: those of `ntk`, and their options."""
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(48, 3)),
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 4)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    z = torch.randn(5, 2, 6, 6, generator=generator) if rectangular else None
    options |= {"outputs": outputs}
    plan = plan_ntk(model, x, z, block=block, memory="1GB", rates="nominal", **options)
    return (model, x, z), options | {"plan": plan}


def start(body: str, ranks: int, *arguments) -> list[subprocess.Popen]:
    """A process for each rank that runs START and the body; rank 0 hosts the store."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "FATAL",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
    }
    command = [sys.executable, "-c", START + body, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=environment | {"RANK": str(r)}, **pipes) for r in range(ranks)
    ]


def finish(processes: list[subprocess.Popen], seconds: float = 120) -> list[str]:
    """What each has printed; none may fail."""
    try:
        told = [p.communicate(timeout=seconds) for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0] * len(processes), told
    return [out for out, _ in told]
