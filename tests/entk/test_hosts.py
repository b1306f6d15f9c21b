"""One kernel on two hosts: network namespaces, a cable between them, torchrun in each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import entk
from tests.ranks import ROOT, request

pytestmark = pytest.mark.hosts
CASE = """
import time, entk.peers, entk.shards, torch
from tests.ranks import request
torch.set_num_threads(1)
entk.shards.SHARD_SECONDS = -1
entk.peers.LOST_SECONDS = 5.0
def kernel():
    (model, x, _), options = request(block=1)
    return {"model": model, "x": x, **options}
def slowly():
    model = kernel()["model"]
    model.register_forward_pre_hook(lambda *_: time.sleep(0.5))
    return kernel() | {"model": model}
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts():
    """Two, with an address each and a cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the command ip (iproute2), to make network namespaces")
    names = [f"entk{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        cables = [f"v{name[4:]}" for name in names]
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1])
        ip("link", "set", cables[1], "netns", names[1])
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        _remove(names)
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    yield list(zip(names, cables, strict=True))
    _remove(names)


def _remove(names: list[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def torchrun(hosts: list, folder: Path, function: str) -> list[subprocess.Popen]:
    """Two processes on each host, into one shared folder."""
    (folder / "case.py").write_text(CASE)
    processes = []
    for rank, (name, cable) in enumerate(hosts):
        command = [
            *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-id=7"),
            *("--rdzv-endpoint=10.77.0.1:29400", f"--local-addr=10.77.0.{rank + 1}"),
            f"--rdzv-conf=is_host={int(rank == 0)}",
            *("-m", "entk", "write", str(folder / "k.h5"), f"{folder}/case.py:{function}"),
        ]
        environment = os.environ | {
            "GLOO_SOCKET_IFNAME": cable,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        with (folder / f"{rank}.log").open("w") as log:
            pipes = {"stdout": log, "stderr": subprocess.STDOUT}
            processes.append(subprocess.Popen(command, env=environment, **pipes))
    return processes


def told(folder: Path) -> list[str]:
    return [(folder / f"{rank}.log").read_text() for rank in range(2)]


def workers(process: subprocess.Popen) -> list[str]:
    """Those that a torchrun has started and that run still; itself it may be slow to bury them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [pid for pid in children if _state(pid) not in ("Z", "")]


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def until(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told(folder)
        time.sleep(0.1)


@contextmanager
def ended(processes: list[subprocess.Popen]) -> Iterator[None]:
    try:
        yield
    finally:
        for p in processes:
            p.kill()
            p.wait()


def test_two_hosts_make_the_bytes_of_one_process(hosts, tmp_path, one_thread):
    processes = torchrun(hosts, tmp_path, "kernel")
    with ended(processes):
        assert [p.wait(timeout=240) for p in processes] == [0, 0], told(tmp_path)
    arguments, options = request(block=1)
    entk.write_ntk(tmp_path / "straight.h5", *arguments, **options).close()
    assert (tmp_path / "k.h5").read_bytes() == (tmp_path / "straight.h5").read_bytes()
    assert sum("k.h5: [27, 27] float32" in out for out in told(tmp_path)) == 1  # rank 0 says it


def test_when_the_cable_is_cut_every_rank_ends(hosts, tmp_path, one_thread):
    processes = torchrun(hosts, tmp_path, "slowly")
    parts = tmp_path / "k.h5.parts"
    with ended(processes):
        until(lambda: len(list(parts.glob("shard-*.h5"))) >= 4, tmp_path)
        ip("-n", hosts[1][0], "link", "set", hosts[1][1], "down")
        assert [len(workers(p)) for p in processes] == [2, 2]
        until(lambda: not any(map(workers, processes)), tmp_path)  # torchrun itself may stay
    for out in told(tmp_path):
        assert "finished shards are kept; start the processes and make the call again" in out
    assert not (tmp_path / "k.h5").exists()
    arguments, _ = request(block=1)
    entk.write_ntk(tmp_path / "k.h5", *arguments).close()
    entk.write_ntk(tmp_path / "straight.h5", *arguments, **request(block=1)[1]).close()
    assert (tmp_path / "k.h5").read_bytes() == (tmp_path / "straight.h5").read_bytes()
