"""Nobody waits for a process that is killed, stopped or cut off; what is finished is kept."""

from __future__ import annotations

import signal
import time
from functools import partial

import pytest

import entk
from tests.ranks import request, start

SLOW = """
peers.LOST_SECONDS = 4.0
import time
entk.shards.SHARD_SECONDS = -1  # a shard for every tile
def show(done, total):
    print(done, total, flush=True)
    time.sleep(0.15)
arguments, options = request(block=1)
try:
    entk.write_ntk(sys.argv[1], *arguments, **options, group="world", progress=show).close()
except entk.DistributedError as error:
    print(f"DistributedError: {error}", flush=True)
print("end", flush=True)
import os; os._exit(0)  # without gloo's own goodbye, which may wait for the dead
"""
ALSO = partial(pytest.param, marks=pytest.mark.hosts)


def after(process, lines: int) -> list[str]:
    return [process.stdout.readline().strip() for _ in range(lines)]


def test_a_killed_job_goes_on_with_another_number_of_ranks(tmp_path, one_thread):
    path, straight = tmp_path / "k.h5", tmp_path / "straight.h5"
    arguments, options = request(block=1)
    entk.write_ntk(straight, *arguments, **options).close()
    kept = 0
    for ranks in (4, 2):
        processes = start(SLOW, ranks, path)
        first, *_ = [after(p, 4) for p in processes]
        assert int(first[0].split()[0]) >= kept  # what was there before
        for p in processes:
            p.send_signal(signal.SIGKILL)
        for p in processes:
            p.communicate()
        kept = len(list((tmp_path / "k.h5.parts").glob("shard-*.h5")))
        assert not path.exists()
    assert 45 > kept >= 4 + 2
    told = []
    entk.write_ntk(path, *arguments, progress=lambda done, total: told.append(done)).close()
    assert told[0] == kept
    assert path.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize(
    ("victim", "how", "expected"),
    [
        (1, signal.SIGKILL, "rank 1 stopped giving signs of life"),
        ALSO(0, signal.SIGKILL, "the group's store is gone, with its host"),
        ALSO(2, signal.SIGSTOP, "rank 2 stopped giving signs of life"),
        ALSO(0, signal.SIGSTOP, "has not heard from the group's store for"),
    ],
)
def test_when_one_rank_is_lost_the_others_end(tmp_path, victim, how, expected):
    """Here within 4 s of silence; LOST_SECONDS otherwise."""
    path = tmp_path / "k.h5"
    processes = start(SLOW.replace("0.15", "0.7"), 3, path)  # some ten seconds of tiles
    try:
        for p in processes:
            after(p, 2)
        processes[victim].send_signal(how)
        begun = time.monotonic()
        others = [p for p in processes if p is not processes[victim]]
        told = [p.communicate(timeout=60)[0] for p in others]
        spent = time.monotonic() - begun
    finally:
        for p in processes:
            p.kill()
            p.wait()
    assert spent < 20
    for out in told:
        assert "DistributedError" in out
        assert "make the call again" in out
        assert out.strip().endswith("end")
    assert any(expected in out for out in told), told
    assert not path.exists()
    assert len(list((tmp_path / "k.h5.parts").glob("shard-*.h5"))) >= 2
