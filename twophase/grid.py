"""The grid of a sweep: which keys vary, the points of the product, a name for each."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from twophase import config as configs
from twophase.config import Config
from twophase.errors import UserError

Grid = dict[str, list]  # key: its values, in the order of the command line
NEUTRAL = ("name", "data.root", "kernels.memory", "training.save_every")  # no result depends on it
MOST = 10_000  # points of a sweep
LONGEST = 120  # characters of a name; file systems stop at 255 bytes


def parse(texts: Sequence[str]) -> Grid:
    """{key: values} of `KEY=V1,V2,...`: the right-hand side is the inside of a TOML array.

    >>> parse(["training.rate=0.1,0.3", "model.widths=[8, 16],[16]", "model.name=mlp,vgg16"])
    {'training.rate': [0.1, 0.3], 'model.widths': [[8, 16], [16]], 'model.name': ['mlp', 'vgg16']}
    """
    grid: Grid = {}
    for text in texts:
        key, equals, right = (part.strip() for part in text.partition("="))
        if not equals or not key or not right:
            raise UserError(f"--grid {text!r}: expected KEY=V1,V2,..., for example seed=0,1,2")
        if key in grid:
            raise UserError(f"--grid {text!r}: {key} has a grid already; give all values at once")
        if key == "name":
            raise UserError(f"--grid {text!r}: the points get their names from the other keys")
        values = _values(right)
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            raise UserError(f"--grid {text!r}: {json.dumps(twice[0])} is there twice")
        grid[key] = values
    return grid


def _values(text: str) -> list:
    """As a TOML array; bare words that are none are strings."""
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except (ValueError, RecursionError) as error:
        if re.search(r"[\[\]{}\"']", text):
            raise UserError(f"--grid: {text!r} is no list of TOML values ({error})") from None
        values = [configs.parse(word.strip()) for word in text.split(",")]
    return json.loads(json.dumps(values, default=str))  # a TOML date is a string, as in a config


def points(base: Config, grid: Grid) -> dict[str, Config]:
    """{name: config} of the product, the last key running fastest; an error names its point."""
    count = math.prod(map(len, grid.values()))
    if count > MOST:
        raise UserError(f"the grid has {count} points, expected at most {MOST}; leave some out")
    combinations = [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]
    found: dict[str, Config] = {}
    taken: set[str] = set()
    for values, name in zip(combinations, names(combinations), strict=True):
        nested = base.model_dump(mode="json")
        try:
            for key, value in values.items():
                configs.put(nested, key, value)
            config = configs.build(nested | {"name": f"{base.name}: {name}"})
        except UserError as error:
            raise UserError(f"point {name}: {error}") from None
        content = json.dumps(config.model_dump(mode="json", exclude={"name"}), sort_keys=True)
        if content in taken:
            raise UserError(f"point {name}: the same config as an earlier point; list it once")
        taken.add(content)
        found[name] = config
    return found


def names(combinations: list[dict[str, Any]]) -> list[str]:
    """A name for each that any file system takes and that says what differs.

    One that is too long, or would be that of another, ends in a hash of what it stands for.
    """
    plain = [re.sub(r"[^A-Za-z0-9._=,+-]+", "-", label(values)) for values in combinations]
    folded = [name.casefold() for name in plain]  # some file systems do not tell case
    found = []
    for name, values in zip(plain, combinations, strict=True):
        if len(name) > LONGEST or folded.count(name.casefold()) > 1:
            text = json.dumps(values, sort_keys=True).encode()
            name = f"{name[:LONGEST]}-{hashlib.blake2b(text, digest_size=4).hexdigest()}"
        found.append(name)
    return found


def label(values: dict[str, Any]) -> str:
    """`training.rate=0.1,seed=1`, for people."""
    return ",".join(f"{key}={shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    """A config's value for people: a list as 8-16, what is left out as such."""
    if value is None:
        return "left-out"
    if isinstance(value, list | tuple):
        return "-".join(map(shown, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def lookup(config: Config, key: str) -> Any:
    """The value at a dotted key, lists as lists."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def differing(runs: list[Config]) -> list[str]:
    """Dotted keys in which configs differ and on which results depend; the seed comes last."""
    found = [flat(config.model_dump(mode="json")) for config in runs]
    keys = [k for k, v in found[0].items() if any(f[k] != v for f in found)]
    return sorted((k for k in keys if k not in NEUTRAL), key="seed".__eq__)


def flat(values: dict, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
