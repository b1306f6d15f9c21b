"""Progress of long work: a line on a terminal's stderr, or a function of the caller's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from entk.errors import InputError


class Progress:
    """Counts steps; `show` is False, True (a line on stderr if it is a terminal) or a function."""

    def __init__(self, show: bool | Callable[[int, int], None], total: int, label: str):
        if not (isinstance(show, bool) or callable(show)):
            raise InputError(f"progress={show!r}, expected True, False or a function(done, total)")
        self.report = show if callable(show) else None
        self.line = show is True and sys.stderr.isatty()
        self.total, self.label, self.done = total, label, 0
        self.start = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc) -> None:
        if self.line and self.done:
            sys.stderr.write("\n")

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.report is not None:
            self.report(self.done, self.total)
        if self.line:
            spent = time.monotonic() - self.start
            left = spent / self.done * (self.total - self.done)
            text = f"{self.label} {self.done}/{self.total} tiles, {spent:.0f} s, {left:.0f} s left"
            sys.stderr.write(f"\r{text:<60}")
            sys.stderr.flush()
