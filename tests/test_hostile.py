"""Mutants of files of every kind through their readers; `make fuzz` for twenty times as many."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

from tests.hostile import fuzz
from tests.hostile.__main__ import FORBIDDEN, bad_inputs, table
from tests.hostile.fuzz import WORDS, run
from tests.hostile.seeds import KINDS


def test_no_mutant_is_taken_for_data_or_ends_in_a_traceback():
    found = run(500, seed=1)
    assert len(found) == 500
    assert {o.kind for o in found} == KINDS.keys()
    assert [o for o in found if o.word in FORBIDDEN] == []
    words = Counter(o.word for o in found)
    assert words["refused"] > 350
    assert words["same"] > 10  # bytes that nothing depends on
    assert sum(words[word] for word in WORDS) == 500
    assert table(found).count("\n") > len(KINDS)


def test_a_reader_that_dies_costs_one_mutant(monkeypatch):
    """The children are to be killed and to hang; what is counted stays whole."""
    real, times = fuzz._read, []

    def read(kind, place, expected):
        times.append(kind)
        if len(times) == 3 and not (place.parent / "died").exists():
            (place.parent / "died").touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        if len(times) == 5:
            signal.alarm(1)
            time.sleep(30)
        return real(kind, place, expected)

    monkeypatch.setattr(fuzz, "_read", read)
    words = [o.word for o in run(12)]
    assert len(words) == 12
    assert words[2] == "crashed"
    assert "hung" in words[3:]
    assert set(words) <= {"refused", "same", "other", "crashed", "hung"}


def test_bad_inputs_are_counted():
    assert sum(bad_inputs().values()) > 250
