"""What several runs say together: when the transition comes, where it is gone, and what with it."""

from __future__ import annotations

import itertools
import json
import math
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import rankdata

from twophase import aggregate
from twophase.grid import shown
from twophase.points import Point, half
from twophase.wording_chaos import SPOKEN

FEWEST = 5  # points below which a rank correlation is not spoken of: 4! orders have p >= 1/12
EXACT = 8  # up to so many points all orders are gone over
ORDERS = 9999  # random orders otherwise
LEVEL = 0.05  # p below which a correlation is spoken of


def summary(points: list[Point], keys: list[str]) -> dict[str, Any]:
    """All findings over several runs whose configs differ in `keys`."""
    measures = core(points)
    groups = aggregate.groups(points, measures)
    label = short(keys)
    for group in groups:
        group["label"] = named(group["values"], label)
    varied = [k for k in keys if k != "seed"]
    return {
        "keys": keys,
        "varied": varied,
        "short": label,
        "measures": measures,
        "groups": groups,
        "shifts": {k: {m: shift(groups, k, m) for m in measures} for k in varied},
        "words": {m: words(groups, m) for m in measures},
        "accuracy": {m: accuracy(points, m) for m in measures},
    }


def core(points: list[Point]) -> tuple[str, ...]:
    """C, B and D as far as measured; B is the loss barrier, train or test, larger at the first t0.

    One for all runs, so that they can be compared: by the median over runs.
    """
    first = {m: [p.chaos[m]["early"] for p in points if m in p.chaos] for m in SPOKEN}
    known = {m: median(levels) for m, levels in first.items() if levels}
    barriers = sorted((m for m in known if "barrier" in m), key=known.get, reverse=True)
    return tuple(m for m in known if m not in barriers[1:])


def short(keys: list[str]) -> dict[str, str]:
    """{key: its last part}, or all of it where two keys share that."""
    last = [key.rpartition(".")[2] for key in keys]
    return {k: part if last.count(part) == 1 else k for k, part in zip(keys, last, strict=True)}


def named(values: dict[str, Any], label: dict[str, str]) -> str:
    return ", ".join(f"{label[k]} = {shown(v)}" for k, v in values.items()) or "all runs"


def ordered(values: list) -> list:
    """Each value once: numbers by size, others as they come."""
    found = [v for i, v in enumerate(values) if v not in values[:i]]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    return sorted(found) if numbers else found


def cells(groups: list[dict], key: str) -> list[dict[str, dict]]:
    """The groups that agree in all keys but this one: {value as JSON: group} for each such set."""
    found: dict[str, dict] = {}
    for group in groups:
        rest = json.dumps({k: v for k, v in group["values"].items() if k != key})
        found.setdefault(rest, {})[json.dumps(group["values"][key])] = group
    return list(found.values())


def shift(groups: list[dict], key: str, measure: str) -> dict[str, Any]:
    """Half-fall points along a key; whether they come later at its last value than at its first.

    Compared with all other keys equal. "later" and "earlier" need every such comparison to point
    the same way and no interval to overlap; without intervals they are called so with a caveat.
    """
    values = ordered([g["values"][key] for g in groups])
    rows = [[cell.get(json.dumps(v)) for v in values] for cell in cells(groups, key)]
    found = [[g and g["measures"].get(measure) for g in row] for row in rows]
    ends = [(r[0], r[-1]) for r in found if all(e and e["half"] is not None for e in (r[0], r[-1]))]
    signs = {(b["half"] > a["half"]) - (b["half"] < a["half"]) for a, b in ends}
    apart = [_apart(a, b) for a, b in ends]
    word = "not comparable"
    if ends:
        word = {frozenset({1}): "later", frozenset({-1}): "earlier"}.get(frozenset(signs), "")
        word = word if word and False not in apart else "not told apart"
        if word != "not told apart" and None in apart:
            word += ", without an interval"
    return {
        "values": values,
        "found": [[e and {k: e[k] for k in ("half", "interval", "t0")} for e in r] for r in found],
        "compared": len(ends),
        "word": word,
    }


def _apart(a: dict, b: dict) -> bool | None:
    """Whether two intervals do not overlap; None where one is not known."""
    if not a["interval"] or not b["interval"]:
        return None
    (low, high), (start, end) = (
        [math.inf if e["interval"][k] is None else e["interval"][k] for k in ("low", "high")]
        for e in (a, b)
    )
    return high < start or end < low


def words(groups: list[dict], measure: str) -> dict[str, dict[str, int]]:
    """{word: {setting: runs}} of finished runs: where the fall is gone, or too small."""
    found: dict[str, dict[str, int]] = {}
    for group in groups:
        for word, count in group["measures"].get(measure, {"words": {}})["words"].items():
            found.setdefault(word, {})[group["label"]] = count
    return found


def accuracy(points: list[Point], measure: str) -> dict[str, Any]:
    """Spearman's rank correlation of half-fall point and final test error over finished runs.

    left_out: runs whose measure does not fall, so that there is no such point.
    """
    done = [p for p in points if p.state == "finished" and p.scores.get("test_error") is not None]
    known = {p.name: half(p.chaos.get(measure)) for p in done}
    pairs = [(h, p.scores["test_error"]) for p in done if (h := known[p.name]) is not None]
    found = {"n": len(pairs), "left_out": len(done) - len(pairs), "rho": None, "p": None}
    if len(pairs) >= FEWEST:
        x, y = zip(*pairs, strict=True)
        found["rho"] = spearman(x, y)
        found["p"] = None if found["rho"] is None else permutation_p(x, y)
    return found


def spearman(x: tuple[float, ...], y: tuple[float, ...]) -> float | None:
    """Pearson's correlation of the ranks, ties sharing their mean; None if all x or y are equal."""
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    norm = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else None


def permutation_p(x: tuple[float, ...], y: tuple[float, ...]) -> float:
    """Two-sided: the share of orders of y with a rank correlation at least as far from 0.

    All orders up to EXACT points; else (1 + such orders) / (1 + ORDERS) over random ones.
    """
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    reached = abs(a @ b) * (1 - 1e-12)
    if len(a) <= EXACT:
        orders = np.array(list(itertools.permutations(range(len(a)))))
        return float((abs(b[orders] @ a) >= reached).mean())
    generator = np.random.default_rng(0)  # the same runs give the same p
    orders = np.argsort(generator.random((ORDERS, len(a))), axis=1)
    return float((1 + (abs(b[orders] @ a) >= reached).sum()) / (1 + ORDERS))
