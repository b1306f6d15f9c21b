"""Numbers and answers as the report prints them."""

from __future__ import annotations

from typing import NamedTuple

THIN = "\u202f"
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Answer(NamedTuple):
    """One question of the opening: what, the word for it, and why that word."""

    question: str
    word: str
    reason: str
    points: tuple[str, ...] = ()


def number(value: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", THIN)
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.3g}"
        return f"{value:.0f}" if "e" in text else text
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}{THIN}×{THIN}10{str(int(exponent)).translate(RAISED)}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g}{THIN}%"


def share(value: float | None) -> str:
    """Percent without decimals, for sentences."""
    return "–" if value is None else f"{100 * value:.0f}{THIN}%"


def degrees(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}°"


def step(value: float | None) -> str:
    return "–" if value is None else number(round(value))


def interval(fall: dict) -> str:
    """The half-fall step with its bootstrap interval."""
    if fall["half"] is None:
        return "not reached"
    found = fall["interval"]
    if not found or found["low"] is None:
        return step(fall["half"])
    high = step(found["high"]) if found["high"] is not None else f">{step(fall['t0'][-1])}"
    return f"{step(fall['half'])} [{step(found['low'])}, {high}]"
