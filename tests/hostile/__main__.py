"""Bad input, counted, and mutants through every reader: `python -m tests.hostile`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from tests.hostile.fuzz import MEANING, WORDS, Outcome, run
from tests.hostile.seeds import KINDS

FORBIDDEN = ("wrong", "untyped")


def bad_inputs() -> dict[str, int]:
    """How many hand-made ones there are in each table."""
    from tests.entk import test_bad_input as entk_table
    from tests.entk import test_hostile_files as files
    from tests.entk import test_hostile_shards as shards
    from tests.twophase import test_bad_calls as calls
    from tests.twophase import test_bad_commands as lines

    tables = {
        "tests/entk/test_bad_input.py": entk_table.CALLS,
        "tests/entk/test_hostile_files.py": files.EDITS | files.CHANGES,
        "tests/entk/test_hostile_shards.py": shards.SHARDS | shards.REQUESTS,
        "tests/twophase/test_bad_commands.py": lines.LINES,
        "tests/twophase/test_bad_calls.py": calls.CALLS,
    }
    return {name: len(table) for name, table in tables.items()}


def table(outcomes: list[Outcome]) -> str:
    """A line for each kind of file, a column for each outcome."""
    counts = Counter((o.kind, o.word) for o in outcomes)
    rows = [["file", "mutants", *WORDS]]
    for kind in [*KINDS, "all"]:
        each = [
            sum(n for (k, w), n in counts.items() if kind in (k, "all") and w == word)
            for word in WORDS
        ]
        rows.append([kind, str(sum(each)), *map(str, each)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, *(f"{word}: {text}" for word, text in MEANING.items())])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(".fuzz.json"), help="where to write")
    options = parser.parse_args()
    bad = bad_inputs()
    for name, count in bad.items():
        print(f"{name}: {count} bad inputs")
    print(f"together: {sum(bad.values())}")
    start = time.monotonic()
    outcomes = run(options.mutants, options.seed)
    print(table(outcomes))
    print(f"{time.monotonic() - start:.0f} s, seed {options.seed}")
    shown = [o for o in outcomes if o.detail]
    record = {"seed": options.seed, "mutants": len(outcomes), "bad_inputs": bad}
    record["counts"] = {kind: Counter(o.word for o in outcomes if o.kind == kind) for kind in KINDS}
    record["shown"] = [o._asdict() for o in shown]
    options.json.write_text(json.dumps(record, indent=1))
    for o in [o for o in shown if o.word in FORBIDDEN][:5]:
        print(f"{o.kind}, {o.mutation}: {o.word}\n{o.detail}", file=sys.stderr)
    return 1 if any(o.word in FORBIDDEN for o in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
