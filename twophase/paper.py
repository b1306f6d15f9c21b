"""The numbers of arXiv 2505.13900 beside those of a run.

The paper's are read off its figures by a reader of it, not by us from its text: take them as loose.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from twophase.cone_findings import last_third
from twophase.formats import interval, number, step
from twophase.phases import core, series
from twophase.tables import Rows, Tables


class Row(NamedTuple):
    """One quantity: what the paper has for its two networks, and what the run has."""

    quantity: str
    vgg16: str
    resnet20: str
    run: str


def beside(tables: Tables, findings: dict) -> list[Row]:
    """Every quantity that the paper reports, in its order; a dash where the run has none."""
    chaos, cone, linear = (findings[k] for k in ("chaos", "cone", "linear"))
    arm = chaos and chaos["arm"]
    return [
        Row(
            "Inflection: t₀ of half the first level, C; B; D", "≈ 2500", "≈ 100–500", _turns(chaos)
        ),
        Row(
            "C, largest over t₀ and t₁",
            "8 × 10⁻⁴, t₁ = 2500, t₀ ≤ 1500",
            "0.06, t₁ = 100–200, t₀ = 0",
            _peak(tables["chaos"], arm, "dissimilarity"),
        ),
        Row(
            "B, test loss, first t₀ → last",
            "1–2 (t₀ ≤ 1500) → 0 (t₀ ≥ 2500)",
            "2 (t₀ = 0) → 0 (t₀ > 500)",
            _fall(chaos, "loss_barrier_test"),
        ),
        Row("B, training loss, first t₀ → last", "–", "–", _fall(chaos, "loss_barrier_train")),
        Row(
            "D, largest over t₀ and t₁; at the last t₁, first t₀ → last",
            "0.3; 0.1–0.15",
            "0.5; 0.1–0.2",
            f"{_peak(tables['chaos'], arm, 'disagreement')}; {_fall(chaos, 'disagreement')}",
        ),
        Row("S over a lag, first → late", "≈ 1 → 0.05", "0.25 → 0.02", _lagged(cone)),
        Row(
            "S from τ > 0, late", "0.05–0.1", "0.02–0.03", _plateaus(tables, cone, lambda t: t > 0)
        ),
        Row(
            "S from τ = 0, late", "0.15–0.2", "0.15–0.2", _plateaus(tables, cone, lambda t: t == 0)
        ),
        Row(
            "Test accuracy after the linear switch, first t → last",
            "0.13 (t ≤ 200) → 0.82 (t = 5000)",
            "0.44 → 0.84",
            _switch(linear),
        ),
        Row("Test accuracy without a switch", "not given", "not given", _full(linear)),
    ]


def _turns(chaos: dict | None) -> str:
    falls = core(chaos["arms"][chaos["arm"]]["measures"]) if chaos else {}
    turns = [
        interval(f) if f["verdict"].startswith("falls") else f["verdict"] for f in falls.values()
    ]
    return "; ".join(turns) or "–"


def _peak(rows: Rows, arm: str | None, measure: str) -> str:
    found = {
        (t0, t1): median(draws)
        for t1 in {r["t1"] for r in rows}
        for t0, draws in series(rows, arm, measure, t1).items()
    }
    if not found:
        return "–"
    t0, t1 = max(found, key=found.get)
    return f"{number(found[t0, t1])}, t₁ = {step(t1)}, t₀ = {step(t0)}"


def _fall(chaos: dict | None, measure: str) -> str:
    fall = chaos and chaos["arms"][chaos["arm"]]["measures"].get(measure)
    if not fall:
        return "–"
    first, last = step(fall["t0"][0]), step(fall["t0"][-1])
    return f"{number(fall['early'])} (t₀ = {first}) → {number(fall['late'])} (t₀ = {last})"


def _lagged(cone: dict | None) -> str:
    if not cone:
        return "–"
    arm = cone["arms"][cone["arm"]]
    early, late = arm["early"]["distance"], arm["floor"]["distance"]
    return f"{number(early)} → {number(late)}, Δ = {step(arm['lag'])}"


def _plateaus(tables: Tables, cone: dict | None, wanted) -> str:
    """Median S in the last third of what follows each τ, up to the end of the late window."""
    if not cone:
        return "–"
    name = cone["arm"]
    stop = cone["arms"][name]["window"][1]
    levels = []
    for tau in sorted({r["tau"] for r in tables["cone_reference"] if wanted(r["tau"])}):
        late = last_third(tables["cone_reference"], name, tau, stop)
        levels += [median(late)] if late else []
    if not levels:
        return "–"
    low, high = number(min(levels)), number(max(levels))
    return low if low == high else f"{low}–{high}"


def _switch(linear: dict | None) -> str:
    errors = linear["variants"].get(linear["variant"], {}).get("test_error", {}) if linear else {}
    known = {t: 1 - e for t, e in errors.items() if e is not None}
    if not known:
        return "–"
    first, last = min(known), max(known)
    return f"{number(known[first])} (t = {step(first)}) → {number(known[last])} (t = {step(last)})"


def _full(linear: dict | None) -> str:
    return "–" if not linear or linear["nonlinear"] is None else number(1 - linear["nonlinear"])
