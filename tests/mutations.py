"""Deliberate mistakes, each of which has to make a test fail: `make mutations`.

Every mistake is made in its own copy of the tree, where the tests that are named beside it run.
A mistake that they let pass, or that stops Python rather than a test, is a survivor. All named
tests pass first without a mistake, so that it is the mistake which fails them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants import MUTANTS as ENGINE
from tests.mutants import Mutant
from tests.mutants_safety import SAFETY

ROOT = Path(__file__).parents[1]
TABLES = {"engine": ENGINE, "safety": SAFETY}
MUTANTS = (*ENGINE, *SAFETY)
COPIED = ("entk", "twophase", "tests", "benchmarks", "docs/results.py", "pyproject.toml")
FAILED, NONE_FAILED = 1, 0  # pytest's exit status; others are collections that failed, crashes, ...
NO_TEST = re.compile(r"^E +(NameError|ImportError|SyntaxError|UnboundLocalError)\b", re.MULTILINE)
SECONDS = 300
HANGS = 100  # seconds of one test, as where a pipe is opened: that is noticed too


class Verdict(NamedTuple):
    mutant: Mutant
    word: str  # "killed", "survived" or "broken"
    detail: str


def copy_tree(folder: Path) -> None:
    """What the tests need of the checkout, the extension among it."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_tests(
    folder: Path, tests: Sequence[str], seconds: int | None = SECONDS
) -> subprocess.CompletedProcess:
    """pytest in `folder`, whose entk and tests come before any that are installed."""
    command = [sys.executable, "-m", "pytest", "-x", "--tb=short", "-p", "no:cacheprovider"]
    command += [f"--timeout={HANGS}", *tests]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def mutate(folder: Path, mutant: Mutant) -> None:
    """Make the mistake in the copy that lies in `folder`."""
    path = folder / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} is not once in {mutant.file}")
    changed = text.replace(mutant.old, mutant.new)
    compile(changed, str(path), "exec")
    path.write_text(changed)


def judge(mutant: Mutant) -> Verdict:
    """Whether a named test fails of the mistake, and what it says."""
    with tempfile.TemporaryDirectory(prefix="entk-mutant-") as name:
        folder = Path(name)
        copy_tree(folder)
        mutate(folder, mutant)
        try:
            done = run_tests(folder, mutant.tests)
        except subprocess.TimeoutExpired:
            return Verdict(mutant, "broken", f"no end within {SECONDS} s")
    reasons = re.findall(r"^E +(.*)$", done.stdout, re.MULTILINE)
    if done.returncode == FAILED and not NO_TEST.search(done.stdout):
        return Verdict(mutant, "killed", reasons[0] if reasons else "")
    if done.returncode == NONE_FAILED:
        return Verdict(mutant, "survived", "")
    said = reasons[0] if reasons else (done.stdout + done.stderr).strip()[-200:]
    return Verdict(mutant, "broken", f"exit status {done.returncode}: {said}")


def main(patterns: Sequence[str]) -> int:
    """Judge the mutants whose table, file or name has a pattern in it, or all; 1: one survives."""
    chosen = [
        mutant
        for table, mutants in TABLES.items()
        for mutant in mutants
        if not patterns or any(p in f"{table} {mutant.file} {mutant.name}" for p in patterns)
    ]
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="entk-mutant-") as name:
        copy_tree(Path(name))
        done = run_tests(Path(name), tests, seconds=None)  # all at once
    if done.returncode != NONE_FAILED:
        print(done.stdout[-4000:], done.stderr[-2000:])
        print("the named tests do not all pass without a mistake")
        return 1
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for verdict in pool.map(judge, chosen):
            found.append(verdict)
            mutant = verdict.mutant
            print(
                f"{verdict.word:9}{mutant.file:26}{mutant.name:54}{verdict.detail[:80]}", flush=True
            )
    killed = sum(verdict.word == "killed" for verdict in found)
    print(f"{killed} killed, {len(found) - killed} survived, of {len(found)}")
    return 0 if killed == len(found) > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
