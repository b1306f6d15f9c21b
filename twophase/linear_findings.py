"""What the switched runs say: per variant how late a switch costs nothing, and what costs what."""

from __future__ import annotations

from twophase.tables import Rows, Tables
from twophase.turning import crossing, resolution

GAINED = 0.01  # of test error, what a later switch has to save against the lazy run
ROUNDING = 1e-4  # of the network's largest output, how far its first-order model may be off at t
FROZEN = "nonlinear-frozen"


def linear(tables: Tables, near: float) -> dict:
    """Per variant its test errors, share of the gap closed and verdict; do they agree, what costs.

    The verdict rests on the first variant of the table that is linear; it is None if none is.
    `near`: variants agree if their half-closed steps lie within this factor.
    """
    rows = tables["linear"]
    full = next((r["test_error"] for r in rows if r["variant"] == "nonlinear"), None)
    names = list(dict.fromkeys(r["variant"] for r in rows if r["variant"] != "nonlinear"))
    samples = next((r["test_samples"] for r in rows if r.get("test_samples")), None)
    sample = 1 / samples if samples else 0.0
    first_order = [name for name in names if not name.startswith(FROZEN)]
    variants = {
        name: _variant(
            [r for r in rows if r["variant"] == name], full if name in first_order else None, sample
        )
        for name in names
    }
    chief = next(iter(first_order), None)
    return {
        "variant": chief,
        "verdict": variants[chief]["verdict"] if chief else "not measured",
        "sample": sample,
        "nonlinear": full,
        "variants": variants,
        "agreement": agreement({name: variants[name] for name in first_order}, near),
        "costs": costs(variants, chief, full) if chief else {},
        "at_switch": _at_switch(tables, rows),
        "regression": _regression(tables["regression"]),
        "start_error": max((e for r in rows if (e := r["start_error"]) is not None), default=None),
        "momentum_at_0": _momentum_at_0(rows),
    }


def _variant(rows: Rows, full: float | None, sample: float) -> dict:
    """Test error at the end against the switch step, and the share of the lazy run's gap closed.

    "seen": some later switch beats the lazy run, and none does worse than an earlier one by more
    than one test sample; "seen in part": only the first of these.
    """
    errors = {r["switch_step"]: r["test_error"] for r in rows}
    errors = dict(sorted(errors.items()))
    known = {t: e for t, e in errors.items() if e is not None}
    lazy = errors.get(0)
    gap = lazy - full if lazy is not None and full is not None else None
    closed = {t: (lazy - e) / gap for t, e in known.items()} if gap and gap > 0 else {}
    best = {t: min((s for s in known if s < t), key=known.get) for t in list(known)[1:]}
    rises = [(a, t) for t, a in best.items() if known[t] > known[a] + sample * (1 + 1e-9)]
    gains = [lazy - e for t, e in known.items() if t > 0] if lazy is not None else []
    word = "not measured"
    if gains:
        lost = rises or len(known) < len(errors)
        word = "seen in part" if lost else "seen"
        word = word if max(gains) >= max(GAINED, sample) else "not seen"
    return {
        "test_error": errors,
        "lazy": lazy,
        "gap_closed": closed,
        "half": _half_closed(closed),
        "rises": rises,
        "diverged": [t for t, e in errors.items() if e is None],
        "verdict": word,
    }


def _half_closed(closed: dict[int, float]) -> float | None:
    if len(closed) < 2:
        return None
    return crossing(list(closed), [1 - share for share in closed.values()], 0.5)


def agreement(variants: dict[str, dict], near: float) -> dict | None:
    """Whether the first-order variants tell the same: one verdict, and halves within a factor.

    The factor is (s + latest half) / (s + earliest), s the resolution of the grid; None where one
    of them has no half. spread: largest difference of their test errors at one t. None where
    fewer than two were measured.
    """
    told = {name: v for name, v in variants.items() if v["verdict"] != "not measured"}
    if len(told) < 2:
        return None
    errors = [v["test_error"] for v in told.values()]
    shared = [t for t in errors[0] if all(e.get(t) is not None for e in errors)]
    spread = {t: max(e[t] for e in errors) - min(e[t] for e in errors) for t in shared}
    halves = [v["half"] for v in told.values()]
    factor = None
    if None not in halves:
        s = resolution(list(errors[0]))
        factor = (s + max(halves)) / (s + min(halves))
    same = len({v["verdict"] for v in told.values()}) == 1
    without = all(half is None for half in halves)
    return {
        "variants": list(told),
        "words": [v["verdict"] for v in told.values()],
        "spread": spread,
        "factor": factor,
        "agree": same and (without or (factor is not None and factor <= near)),
    }


def costs(variants: dict[str, dict], chief: str, full: float | None) -> dict[int, dict]:
    """{t: test error that freezing batch norm costs, and that linearising costs on top of it}.

    Their sum is what the switch costs against the run that was never switched. The network that
    is trained on with batch norm frozen has the momentum and statistics of the chief variant.
    """
    control = variants.get("-".join([FROZEN, *chief.split("-")[1:]]))
    if control is None or full is None:
        return {}
    found = {}
    for t, error in variants[chief]["test_error"].items():
        frozen = control["test_error"].get(t)
        if error is not None and frozen is not None:
            found[t] = {"freezing": frozen - full, "linearising": error - frozen}
    return found


def _at_switch(tables: Tables, rows: Rows) -> dict[int, float]:
    """Test error of the network at each switch step: what training after it starts from."""
    places = {(r["arm"], r["switch_step"]) for r in rows if r["variant"] != "nonlinear"}
    scores = {(r["arm"], r["step"]): r["test_error"] for r in tables["train"]}
    return {t: scores[arm, t] for arm, t in sorted(places) if scores.get((arm, t)) is not None}


def _regression(rows: Rows) -> dict | None:
    """{mean: {t: test error}} and how many samples it saw."""
    if not rows:
        return None
    errors: dict[str, dict] = {}
    for row in rows:
        errors.setdefault(row["mean"], {})[row["switch_step"]] = row["test_error"]
    return {"samples": rows[0]["samples"], "test_error": errors}


def _momentum_at_0(rows: Rows) -> bool | None:
    """Whether keeping momentum at step 0, where there is none, gives the same scores exactly."""
    scores = ("train_loss", "train_error", "test_loss", "test_error")
    lazy = {r["variant"]: [r.get(k) for k in scores] for r in rows if r["switch_step"] == 0}
    pairs = [(name, name.replace("-keep", "")) for name in lazy if "-keep" in name]
    equal = [lazy[a] == lazy[b] for a, b in pairs if b in lazy]
    return all(equal) if equal else None
