"""The sentences of a page on several runs."""

from __future__ import annotations

from statistics import median
from typing import Any

from twophase.across import FEWEST, LEVEL
from twophase.formats import Answer, interval, number, step
from twophase.grid import shown
from twophase.phases import MEASURES
from twophase.points import Point
from twophase.wording_chaos import LETTER


def answers(found: dict[str, Any], points: list[Point]) -> list[Answer]:
    """The opening: when the transition comes, whether it goes away, what goes with it."""
    return [
        *(_transition(key, found) for key in found["varied"]),
        *([] if found["varied"] else [_seeds(found)]),
        _gone(found, points),
        _accuracy(found),
        _cone(points),
        _twins(points),
    ]


def name(measure: str) -> str:
    """The measure's label as the beginning of a sentence."""
    return MEASURES[measure][0].upper() + MEASURES[measure][1:]


def _transition(key: str, found: dict) -> Answer:
    shifts = found["shifts"][key]
    question = f"When it comes, against {key}"
    if not shifts:
        return Answer(question, "not measured", "No run has a table of twins yet.")
    values = next(iter(shifts.values()))["values"]
    first, last = shown(values[0]), shown(values[-1])
    told = {s["word"] for s in shifts.values()}
    word = told.pop() if len(told) == 1 else "differs between measures"
    reason = (
        f"Half-fall points at {key} = {last} beside those at {first}, all other keys equal; told "
        "apart if no two intervals overlap and all comparisons point one way."
    )
    return Answer(question, word, reason, tuple(_along(m, s) for m, s in shifts.items()))


def _along(measure: str, shift: dict) -> str:
    """The half-fall points of one measure at each value of a key, and the word."""
    parts = []
    for i, value in enumerate(shift["values"]):
        known = [row[i] for row in shift["found"] if row[i]]
        seen = [e for e in known if e["half"] is not None]
        if len(shift["found"]) == 1 and seen:
            text = interval(seen[0])
        elif seen:
            text = f"{step(median(e['half'] for e in seen))} ({len(seen)} of {len(known)} settings)"
        else:
            text = "no fall" if known else "not measured"
        parts.append(f"{text} at {shown(value)}")
    total = len(shift["found"])
    compared = f" ({shift['compared']} of {total} pairs compared)" if total > 1 else ""
    return f"{name(measure)}: half by t₀ ≈ {'; '.join(parts)}: {shift['word']}{compared}"


def _seeds(found: dict) -> Answer:
    group = found["groups"][0]
    count = group["finished"]
    points = tuple(
        f"{name(m)}: half by t₀ ≈ {interval(f)}" if f["half"] is not None else f"{name(m)}: no fall"
        for m, f in group["measures"].items()
    )
    what = "the seed" if "seed" in found["keys"] else "no key that matters"
    return Answer(
        "When it comes", f"over {count} runs", f"The runs differ in {what} alone.", points
    )


def _gone(found: dict, points: list[Point]) -> Answer:
    question = "Does it go away?"
    if not found["words"]:
        return Answer(question, "not measured", "No run has a table of twins yet.")
    lines, gone = [], False
    for measure, words in found["words"].items():
        runs = {word: sum(where.values()) for word, where in words.items()}
        total, fell = sum(runs.values()), runs.get("falls", 0)
        gone |= any(not word.startswith("falls") for word in words)
        rest = "".join(
            f"; {word} in {runs[word]} ({_listed(list(where))})"
            for word, where in words.items()
            if word != "falls"
        )
        lines.append(f"{name(measure)} falls in {fell} of {total} runs{rest}")
    word = "in some runs" if gone else "no"
    reason = (
        "Gone means: the level at the first t₀ is too small to speak of, or it does not fall "
        f"along t₀. Finished runs: {sum(p.state == 'finished' for p in points)} of {len(points)}."
    )
    return Answer(question, word, reason, tuple(lines))


def _listed(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + rest


def _accuracy(found: dict) -> Answer:
    question = "Does it go with the final test error?"
    tested = {m: a for m, a in found["accuracy"].items() if a["rho"] is not None}
    lines = tuple(_correlation(m, a) for m, a in found["accuracy"].items())
    if not tested:
        few = max((a["n"] for a in found["accuracy"].values()), default=0)
        reason = (
            f"At most {few} runs have a half-fall point of one measure and a test error; below "
            f"{FEWEST} no correlation is computed."
            if few < FEWEST
            else "All half-fall points or all test errors are equal."
        )
        return Answer(question, "too few runs" if few < FEWEST else "not known", reason, lines)
    seen = [LETTER[m] for m, a in tested.items() if a["p"] <= LEVEL]
    word = f"with that of {', '.join(seen)}" if seen else "not seen"
    reason = (
        "Spearman’s correlation of half-fall point and final test error over runs, with a "
        f"permutation p for each of {len(tested)} measures, not corrected for their number. It "
        "takes runs as independent, which those that share a setting or a seed are not, and says "
        "nothing of causes."
    )
    return Answer(question, word, reason, lines)


def _correlation(measure: str, found: dict) -> str:
    left = f" ({found['left_out']} without a half-fall point)" if found["left_out"] else ""
    if found["rho"] is None:
        why = "too few" if found["n"] < FEWEST else "all equal"
        return f"{name(measure)}: n = {found['n']}{left}, {why}"
    # n and p as they are: a correlation of few points is large by chance
    return (
        f"{name(measure)}: ρ = {found['rho']:.2f}, n = {found['n']}{left}, p = {number(found['p'])}"
    )


def _cone(points: list[Point]) -> Answer:
    words = [p.cone["verdict"] for p in points if p.cone]
    if not words:
        return Answer("Cone effect", "not measured", "No run has kernel distances yet.")
    counts = ", ".join(f"{w} in {words.count(w)}" for w in dict.fromkeys(words))
    seen = words.count("seen")
    word = f"seen in {seen} of {len(words)}"
    return Answer("Cone effect", word, f"Of {len(words)} runs: {counts}.")


def _twins(points: list[Point]) -> Answer:
    exact = {p.name: e for p in points if (e := control(p)) is not None}
    if not exact:
        return Answer("ε = 0 twins", "not measured", "No run has a twin with ε = 0.")
    wrong = [n for n, e in exact.items() if not e]
    if wrong:
        return Answer("ε = 0 twins", "not 0", f"They differ from the main run in {_listed(wrong)}.")
    total = sum(p.findings["chaos"]["controls"]["count"] for p in points if p.name in exact)
    return Answer("ε = 0 twins", "exactly 0", f"{total} comparisons in {len(exact)} runs.")


def control(point: Point) -> bool | None:
    """Whether the eps = 0 twins of a run are the main run; None without any."""
    return point.findings["chaos"] and point.findings["chaos"]["controls"]["exact"]


def warnings(points: list[Point]) -> list[str]:
    """What a reader has to know before comparing runs."""
    lines = [
        f"{p.name}: the ε = 0 twins differ from the main run; small divergences mean nothing."
        for p in points
        if control(p) is False
    ]
    lines += [f"{p.name} {p.state}: {p.reason}." for p in points if p.state != "finished"]
    for p in points:
        lost = (p.findings["linear"] or {}).get("diverged", ())
        lines += [f"{p.name}: the run linearised at step {t} diverged." for t in lost]
    return lines
