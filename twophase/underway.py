"""States of a job that trains for long, kept while it is under way: a kill costs little of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twophase.disk import remove_folder
from twophase.rundir import RunDir
from twophase.train import State

Train = Callable[[list[State], int, tuple[int, ...]], list[dict[int, State]]]


class Underway:
    """A folder of states that only its own job reads, and that goes when the job has its results.

    Training is cut into stretches of at most `training.save_every` steps. A job that is called
    again after a kill goes on from the last state with the bits of one that was never stopped.
    Nothing is written where all of it is one stretch.
    """

    def __init__(self, run: RunDir, stage: str, job: str):
        self.run = run
        self.folder = _folder(run, stage) / job

    def advance(
        self, train: Train, label: str, states: list[State], start: int, stops: tuple[int, ...]
    ) -> list[dict[int, State]]:
        """train(states, start, stops): {stop: state} of each network, in stretches.

        `label` tells apart the trainings of one job.
        """
        every, end = self.run.config.training.save_every, max(stops, default=start)
        if end - start <= every:
            return train(states, start, stops)
        between = set(range(every, end, every)) - set(stops)
        marks = sorted(mark for mark in between.union(stops) if mark > start)
        last = max((mark for mark in marks if self._file(label, mark).exists()), default=start)
        found = [{start: state} if start in stops else {} for state in states]
        at = start
        for mark in marks:
            file = self._file(label, mark)
            if mark < last and mark in between:
                continue
            if mark <= last:
                states = self._load(file, len(states))
            else:
                states = [lane[mark] for lane in train(states, at, (mark,))]
                self._save(file, states, label, mark)
                for old in between - {mark}:
                    self._file(label, old).unlink(missing_ok=True)
            at = mark
            for lane, state in zip(found, states, strict=True):
                lane |= {mark: state} if mark in stops else {}
        return found

    def done(self) -> None:
        remove_folder(self.folder)

    def _file(self, label: str, step: int) -> Path:
        return self.folder / f"{label}-{step:06d}.safetensors"

    def _save(self, file: Path, states: list[State], label: str, step: int) -> None:
        stacked = {f"{lane}.{k}": v for lane, s in enumerate(states) for k, v in s.items()}
        arms = self.run.config.arms
        self.run.save_state(file, stacked, arm=label if label in arms else arms[0], step=step)

    def _load(self, file: Path, count: int) -> list[State]:
        stacked = self.run.load_state(file)
        states: list[State] = [{} for _ in range(count)]
        for key, value in stacked.items():
            lane, _, name = key.partition(".")
            states[int(lane)][name] = value
        return states


def clear(run: RunDir, stage: str) -> None:
    """Remove what jobs that were killed just after their results have left behind."""
    remove_folder(_folder(run, stage))


def _folder(run: RunDir, stage: str) -> Path:
    return run.path / "underway" / stage
