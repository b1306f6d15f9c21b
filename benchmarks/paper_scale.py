"""The paper's runs, in pieces: python -m benchmarks.paper_scale --data cifar10.npz --minutes 9

Each call works for so many minutes, stops like Ctrl-C and goes on from there when it is called
again. Exit status 75: call again; 0: all is done. By default up to step 10 000, which is as far as
the paper's figures go and before the first drop of the rate; --whole trains all 62 560 steps.
What is finished can be kept: python -m docs.results resnet20=runs/paper/resnet20-cifar10
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

MODELS = ("resnet20-cifar10", "vgg16-cifar10", "vgg16-dropout-cifar10")
AGAIN = 75  # EX_TEMPFAIL of sysexits.h
GRACE = 20.0  # seconds that a sweep has to stop in


def command(model: str, options: argparse.Namespace) -> list[str]:
    """The sweep over seeds of one model; the same command goes on with it."""
    steps = [] if options.whole else ["training.steps=10000", "training.milestones=[]"]
    sets = [f"device={options.device}", f"data.source={options.data}", *steps, *options.set]
    return [
        *(sys.executable, "-m", "twophase", "sweep", model),
        *("--grid", f"seed={options.seeds}", "--workers", str(options.workers)),
        *(part for key in sets for part in ("--set", key)),
        *("--out", str(options.out / model)),
    ]


def run(words: list[str], seconds: float) -> int | None:
    """Exit status, or None if the time is up; then the process was asked to stop, and has."""
    process = subprocess.Popen(words, start_new_session=True)
    try:
        return process.wait(timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:  # as good: every file is whole or absent
        process.kill()
        process.wait()
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 as .npz")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=3, help="seeds at once")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--whole", action="store_true", help="all 62 560 steps")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes - GRACE
    for model in options.models.split(","):
        status = run(command(model, options), end - time.monotonic())
        if status is None:
            print(f"{model}: time is up; the same command goes on", file=sys.stderr)
            return AGAIN
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
