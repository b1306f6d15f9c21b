"""The tables of a run as typed rows, and what a reader has to know about gaps in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import median
from typing import get_args

from twophase.errors import UserError
from twophase.rundir import RunDir
from twophase.sections import Arm

Row = dict
Rows = list[Row]
Tables = dict[str, Rows]

STAGE = {
    "train": "train",
    "chaos": "chaos",
    "barrier": "chaos",
    "features": "chaos",
    "growth": "chaos",
    "kernel": "kernels",
    "spectrum": "kernels",
    "checks": "kernels",
    "cone_matrix": "cone",
    "cone_reference": "cone",
    "cone_lagged": "cone",
    "cone_neighbours": "cone",
    "cone_layers": "cone",
    "linear": "linear",
    "regression": "linear",
}
OPTIONAL = ("growth", "cone_layers", "regression")  # empty unless the config asks for it
TEXT = ("arm", "kind", "diverged", "layer", "check", "variant", "mean")
WHOLE = (
    "step",
    "t0",
    "t1",
    "draw",
    "tau",
    "lag",
    "step_i",
    "step_j",
    "switch_step",
    "samples",
    "test_samples",
    "rank",
)


def load(run: RunDir) -> tuple[Tables, list[str]]:
    """({name: rows}, warnings); an absent table is an empty list, a value not finite is None."""
    tables: Tables = {}
    warnings = []
    for name, stage in STAGE.items():
        if stage not in run.config.stages:
            tables[name] = []
            continue
        if not run.table(name).exists():
            tables[name] = []
            warnings.append(f"{name}.csv is not there: stage “{stage}” has not run to its end.")
            continue
        lost: Counter = Counter()
        tables[name] = [_typed(name, row, lost) for row in run.load_table(name)]
        if not tables[name] and name not in OPTIONAL:
            warnings.append(f"{name}.csv has no rows.")
        if lost:
            columns = ", ".join(f"{column} ({n})" for column, n in sorted(lost.items()))
            warnings.append(f"{name}.csv: values that are not finite are left out: {columns}.")
    return tables, warnings


def _typed(name: str, row: dict[str, str], lost: Counter) -> Row:
    return {column: _value(name, column, text, lost) for column, text in row.items()}


def _value(name: str, column: str, text: str, lost: Counter) -> str | int | float | None:
    if column == "arm" and text not in get_args(Arm):
        raise UserError(
            f"tables/{name}.csv: arm {text!r}, expected one of {', '.join(get_args(Arm))}"
        )
    if column in TEXT:
        return text
    if text == "":
        return None
    try:
        number = int(text) if column in WHOLE else float(text)
    except (TypeError, ValueError):
        raise UserError(
            f"tables/{name}.csv: column {column} has {text!r}, expected a number; delete the table "
            "and run its stage again"
        ) from None
    if not math.isfinite(number):
        lost[column] += 1
        return None
    return number


def pivot(
    rows: Rows,
    keys: tuple[str, ...],
    across: str,
    value: str | Callable[[Rows], float | None],
) -> dict:
    """A table {"head": [...], "rows": [[...]]}: a line per `keys`, a column per value of `across`.

    Cells are medians of the rows that fall into them, or `value` of these rows.
    """
    cells: dict[tuple, dict] = {}
    for row in rows:
        place = cells.setdefault(tuple(row[k] for k in keys), {})
        place.setdefault(row[across], []).append(row)
    columns = sorted({c for place in cells.values() for c in place})
    reduce = value if callable(value) else lambda found: _median(r[value] for r in found)
    return {
        "keys": len(keys),
        "head": [*keys, *(f"{across} {c}" for c in columns)],
        "rows": [
            [*key, *(reduce(place[c]) if c in place else None for c in columns)]
            for key, place in cells.items()
        ],
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None
