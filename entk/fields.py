"""Dataclasses from JSON: every value of the type that its field has, nothing unknown."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_json(kind: type[T], text: str) -> T:
    """Raises ValueError: not JSON, or a value that its field cannot have."""
    return restored(kind, loads(text), kind.__name__)


def loads(text: str) -> Any:
    """JSON without NaN and Infinity. Raises ValueError, also where it is nested too deep."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def restored(kind: Any, value: Any, name: str) -> Any:
    """A value of JSON as the type `kind`; lists become tuples, objects dataclasses."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        return None if value is None else restored(inner[0], value, name)
    if is_dataclass(kind):
        return _dataclass(kind, value, name)
    if get_origin(kind) is tuple:
        kinds = inner[:1] * len(value) if inner[-1] is ... and type(value) is list else inner
        if type(value) is not list or len(value) != len(kinds):
            raise ValueError(f"{name} is {value!r:.60}, expected a list")
        return tuple(restored(k, v, name) for k, v in zip(kinds, value, strict=True))
    if kind is float and type(value) is int and abs(value) < 2**53:
        return value  # and no float: what is written again is the same text
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{name} is {value!r:.60}, expected {kind.__name__}")
    return value


def _dataclass(kind: Any, value: Any, name: str) -> Any:
    if type(value) is not dict:
        raise ValueError(f"{name} is {value!r:.60}, expected an object")
    known = {f.name: f for f in fields(kind)}
    strange = next((key for key in value if key not in known), None)
    needed = (n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING)
    missing = next((n for n in needed if n not in value), None)
    if strange is not None or missing is not None:
        what = f"the field {strange!r:.60}" if missing is None else f"no field {missing!r}"
        raise ValueError(f"{name} has {what}")
    hints = get_type_hints(kind)
    return kind(**{key: restored(hints[key], v, key) for key, v in value.items()})
