"""Real processes, killed at random times and started again until they are done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.points import Count
from tests.torture.subjects import contents

KERNEL = """
import sys
from pathlib import Path
from tests.torture import subjects
subjects.deterministic()
subjects.kernel(Path(sys.argv[1]))
"""
SKIPPED = ("environment.json", "report.html", "report.json")  # hold times


def _ended(command: list[str], seconds: float | None) -> bool:
    """Start it; after so long kill it and all its processes. Whether it ended by itself."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def _kept(folder: Path) -> dict[str, bytes]:
    return {n: c for n, c in contents(folder).items() if Path(n).name not in SKIPPED}


def restarts(name: str, command: Callable[[Path], list[str]], home: Path, kills: int) -> Count:
    """`kills` at times spread over an undisturbed run, anew each time that it gets to the end."""
    chance, count = random.Random(0), Count()
    straight, folder = home / f"{name}-straight", home / f"{name}-killed"
    straight.mkdir(parents=True)
    begun = time.monotonic()
    assert _ended(command(straight), None)
    seconds, expected, round_ = time.monotonic() - begun, _kept(straight), 0
    while count.tried < kills:
        place = folder / str(round_)
        place.mkdir(parents=True, exist_ok=True)
        if not _ended(command(place), chance.random() * seconds):
            count.add(f"{name}, killed {count.tried}", [])
            continue
        if (found := _kept(place)) != expected:
            count.wrong.append(f"{name}, round {round_}: {sorted(found.keys() ^ expected.keys())}")
        round_ += 1
    if not _ended(command(folder / str(round_)), None) or _kept(folder / str(round_)) != expected:
        count.wrong.append(f"{name}: the last round differs")
    count.survived = count.tried - len(count.wrong)
    return count


def commands(home: Path) -> dict[str, Callable[[Path], list[str]]]:
    """One command a subject, for a folder of its results; home / tiny.toml is there."""
    twophase = [sys.executable, "-m", "twophase"]
    file = str(home / "tiny.toml")
    return {
        "kernel": lambda folder: [sys.executable, "-c", KERNEL, str(folder)],
        "run": lambda folder: [*twophase, "run", file, "--out", f"{folder}/run", "--workers", "2"],
        "sweep": lambda folder: [
            *(*twophase, "sweep", file, "--grid", "seed=0,1", "--out", f"{folder}/sweep"),
            *("--workers", "2"),
        ],
    }
