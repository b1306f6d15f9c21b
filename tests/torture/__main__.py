"""`python -m tests.torture`: faults at every call; a table of counts, also as JSON."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.torture import faults

# points of each subject at most in the long form, by how long one takes; None: every call
MOST = {"kernels": 60, "cone": 60, "linear": 60, "report": 12, "study": 24, "sweep": 8}
SHORT = {"kernel": 8, "recorder": 4, "train": 4}  # subjects of the short form
KILLS = 201  # at random times
DOUBLE = 20  # points that are killed twice


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a sample, in less than a minute")
    parser.add_argument("--only", nargs="*", help="names of subjects")
    parser.add_argument("--most", type=int, help="points of each subject, at most")
    parser.add_argument("--kills", type=int, help="processes killed at random times")
    parser.add_argument("--json", type=Path, help="where the counts go")
    chosen = parser.parse_args(arguments)
    if not faults.preloaded():
        return faults.restart(arguments)
    counts = run(chosen)
    table(counts)
    if chosen.json:
        found = {f"{subject}, {fault}": asdict(c) for (subject, fault), c in counts.items()}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(c.survived < c.tried for c in counts.values()))


def run(chosen: argparse.Namespace) -> dict:
    from tests.torture import (  # torch, in the process with the library only
        lost,
        points,
        restarts,
        subjects,
    )

    subjects.deterministic()
    counts: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        every = subjects.subjects(home)
        wanted = set(chosen.only or (SHORT if chosen.short else [s.name for s in every]))
        last = max(i for i, subject in enumerate(every) if subject.name in wanted)
        for subject in every[: last + 1]:  # those before are what later ones start from
            with points.place(home, "warm") as warm:
                subject.before(warm)
                points.imported(subject, warm)
            torture = points.Torture(subject, home)
            if subject.name not in wanted:
                continue
            most = SHORT[subject.name] if chosen.short else MOST.get(subject.name)
            most = chosen.most or most
            begun = time.monotonic()
            for name, count in faces(torture, most, lost, points):
                counts[subject.name, name] = count
                told(subject.name, name, count)
            print(f"{subject.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        kills = chosen.kills if chosen.kills is not None else 0 if chosen.short else KILLS
        for name, command in restarts.commands(home).items() if kills else ():
            count = restarts.restarts(name, command, home / "restarts", kills // 3)
            counts[name, "random kill"] = count
            told(name, "random kill", count)
    return counts


def told(subject: str, fault: str, count) -> None:
    print(f"{subject}, {fault}: {count.survived} of {count.tried}", flush=True)
    for wrong in count.wrong[:20]:
        print(f"  {wrong}", flush=True)


def faces(torture, most: int | None, lost, points):
    """(what is done, its count) for each kind of fault."""
    every = points.spread(torture.calls, most)
    chance = random.Random(0)
    count = points.Count(calls=torture.calls)
    torture.kill(every, count)
    yield "kill", count
    count = points.Count(calls=torture.calls)
    torture.kill(points.spread(torture.calls, min(most or DOUBLE, DOUBLE)), count, chance)
    yield "kill twice", count
    for number in points.ERRORS:
        count = points.Count(calls=torture.calls)
        torture.fail(every, count, number)
        yield points.errno.errorcode[number], count
    count = points.Count(calls=torture.calls)
    lost.replay(torture, every, count)
    yield "power loss", count


def table(counts: dict) -> None:
    print(f"\n{'subject':<10} {'fault':<12} {'calls':>6} {'tried':>6} {'survived':>9}")
    for (subject, fault), c in counts.items():
        print(f"{subject:<10} {fault:<12} {c.calls:>6} {c.tried:>6} {c.survived:>9}")
    tried, survived = (sum(getattr(c, k) for c in counts.values()) for k in ("tried", "survived"))
    print(f"{'all':<10} {'':<12} {'':>6} {tried:>6} {survived:>9}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
