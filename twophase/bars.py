"""Progress as a person sees it: bars on a terminal, a line for each stage elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """Bars with an estimate on a terminal; one line per stage elsewhere."""

    def __init__(self):
        console = Console(stderr=True)
        columns = (
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
            *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
        )
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.plain = not console.is_terminal
        self.task = None

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *exc) -> None:
        self.progress.stop()

    def start(self, name: str, total: int, done: int) -> None:
        self.task = self.progress.add_task(f"{name:<8}", total=total, completed=done)

    def step(self, count: int = 1) -> None:
        self.progress.advance(self.task, count)

    def finish(self, name: str, seconds: float, skipped: bool) -> None:
        if self.task is not None and not skipped:
            task = self.progress.tasks[-1]
            self.progress.update(self.task, completed=task.total)
        if self.plain:
            print(f"{name}: " + ("exists" if skipped else f"{seconds:.1f} s"), file=sys.stderr)
