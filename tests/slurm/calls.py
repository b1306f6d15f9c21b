"""Commands for tests of jobs, and questions to the queue."""

import subprocess
import sys
import time

from tests.twophase.launched import TOML
from twophase import jobs

LONGER = TOML.replace("steps = 12", "steps = 2400").replace("[0, 4, 8]", "[0, 800, 1600]")
# 6 jobs of twins as 2 + 4, 2 switched runs by themselves, 4 kernels in one
OPTIONS = ("--launcher", "slurm", "--step-seconds", 0.5, "--job-minutes", 33)
MEMORY = ("--slurm", "mem=1500MB")
STARTED = []


def start(*arguments):
    command = [sys.executable, "-m", "twophase", *map(str, arguments)]
    pipe = subprocess.PIPE
    STARTED.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
    return STARTED[-1]


def twophase(*arguments, seconds=400):
    return ended(start(*arguments), seconds)


def ended(process, seconds=400):
    """Its status and what it has said, once it has ended."""
    said, error = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, said, error)


def queue():
    """A line for each job that is queued or runs, as in "12_1 twophase-chaos RUNNING n1"."""
    command = ["squeue", "--noheader", "--array", "--format=%i %j %T %N"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, queue()
        time.sleep(0.02)


def of_part(path, name):
    """The jobs of a part of the last submission."""
    return [job for found, job in jobs.recorded(path) if found == name]


def logs(job):
    files = (job.paths.stderr, job.paths.stdout)
    return "".join(file.read_text() for file in files if file.exists())
