"""Power loss, replayed: the calls that were recorded, without what no fsync made last.

The disk is taken to keep what POSIX makes it keep and nothing else: the bytes of a file that were
written before its last fsync, and the names that were in a folder at its last fsync. In the other
form every name is kept, also one that no fsync of the folder followed: a renamed file then has
only the bytes that were synced, which is what finds a rename before an fsync.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.torture.disk import Disk
from tests.torture.points import Count, Torture


def replay(torture: Torture, points: Iterable[int], count: Count) -> None:
    """Power lost after each of these calls, in both forms; then the work goes on."""
    disk = Disk(torture.start())
    wanted = set(points)
    for at, call in enumerate(torture.recorded, 1):
        disk.apply(call)
        if at not in wanted:
            continue
        for names_last in (False, True):
            empty = torture.start()
            for path in sorted(empty.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            disk.after_power_loss(empty, names_last)
            form = "names kept" if names_last else "names lost"
            problems = torture.torn(empty) + torture.resumed(empty)
            count.add(f"{torture.subject.name}, power lost after {at}, {form}", problems)
