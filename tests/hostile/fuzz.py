"""Mutants through the readers, in children that may crash: what became of each."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import shutil
import signal
import tempfile
import traceback
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from entk import EntkError
from tests.hostile import mutate
from tests.hostile.seeds import KINDS, as_bytes, write
from twophase.errors import UserError

WORDS = ("refused", "same", "other", "wrong", "untyped", "crashed", "hung")
MEANING = {
    "refused": "refused with a typed error of one line",
    "same": "accepted, and read as the same data",
    "other": "accepted as another valid file, of a kind that carries no checksum",
    "wrong": "wrong data accepted",
    "untyped": "an error that is not ours, or not one line",
    "crashed": "the process died inside a library",
    "hung": "no answer in time",
}
SECONDS, BYTES, LONGEST = 20, 2 << 30, 400  # for a mutant; beyond what is mapped; of a message
HEAVY = {"kernel (HDF5)": 6, "shard (HDF5)": 4, "checkpoint (safetensors)": 2, "data (npz)": 2}


class Mutant(NamedTuple):
    number: int
    kind: str


class Outcome(NamedTuple):
    kind: str
    mutation: str
    word: str
    detail: str  # of what should not be


def mutants(count: int) -> list[Mutant]:
    kinds = [kind for kind in KINDS for _ in range(HEAVY.get(kind, 1))]
    return [Mutant(i, kinds[i % len(kinds)]) for i in range(count)]


def run(count: int, seed: int = 0) -> list[Outcome]:
    """Each mutant in turn, by children of this process; one that dies is followed by another."""
    torch.set_num_threads(1)  # a child has no threads but its own
    todo, found = mutants(count), []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "run")
        while todo:
            done, status = _child(Path(folder), todo, seed)
            found += done
            todo = todo[len(done) :]
            if status and todo:
                died = signal.Signals(os.WTERMSIG(status)).name if status & 127 else str(status)
                word = "crashed" if status & 127 else "untyped"
                word = "hung" if died == "SIGALRM" else word
                found.append(Outcome(todo[0].kind, f"mutant {todo[0].number}", word, died))
                todo = todo[1:]
    return found


def _child(folder: Path, todo: list[Mutant], seed: int) -> tuple[list[Outcome], int]:
    """What a child made of the mutants, up to its end, and how it ended."""
    read, sent = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            _limit()
            with os.fdopen(sent, "w", buffering=1) as out:
                for outcome in _outcomes(folder, todo, seed):
                    out.write(repr(tuple(outcome)) + "\n")
            status = 0
        finally:
            os._exit(status)
    os.close(sent)
    with os.fdopen(read) as lines:
        done = [Outcome(*literal_eval(line)) for line in lines if line.endswith("\n")]
    return done, os.waitpid(child, 0)[1]


def _limit() -> None:
    """Memory, no dumps of it, no handlers of pytest's, no last words on the terminal."""
    faulthandler.disable()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, mapped + BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _outcomes(folder: Path, todo: list[Mutant], seed: int) -> Iterator[Outcome]:
    place = folder / str(os.getpid())
    shutil.copytree(folder / "run", place)
    expected = {kind: as_bytes(KINDS[kind].read(place)) for kind in {m.kind for m in todo}}
    for mutant in todo:
        signal.alarm(SECONDS)
        path = place / KINDS[mutant.kind].file
        original = path.read_bytes()
        mutation = _write(path, original, random.Random(f"{seed} {mutant.number}"))
        word, detail = _read(mutant.kind, place, expected[mutant.kind])
        yield Outcome(mutant.kind, mutation, word, detail)
        path.unlink(missing_ok=True)
        path.write_bytes(original)
    shutil.rmtree(place)


def _write(path: Path, original: bytes, draw: random.Random) -> str:
    """The mutant, as a new file in the place of the old one; which mutation it is."""
    path.unlink()
    if path.suffix == ".h5" and draw.random() < 0.3:
        path.write_bytes(original)
        return mutate.hdf5(path, draw)
    mutation = draw.choice(mutate.BYTES)
    path.write_bytes(mutation(bytearray(original), draw))
    return mutation.__name__


def _read(kind: str, place: Path, expected: bytes) -> tuple[str, str]:
    try:
        found = as_bytes(KINDS[kind].read(place))
    except (EntkError, UserError) as error:
        message = str(error)
        fine = "\n" not in message and len(message) - len(str(place)) < LONGEST
        return ("refused", "") if fine else ("untyped", message)
    except Exception:  # counted: it is none of ours
        return "untyped", traceback.format_exc()
    if found == expected:
        return "same", ""
    return ("wrong", found.decode()[:400]) if KINDS[kind].lossless else ("other", "")
