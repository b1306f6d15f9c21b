"""Writes docs/cli.md, docs/config.md and docs/api/ from the code; `--check` names stale pages."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from unittest.mock import patch

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from entk import cli as kernels
from twophase import cli
from twophase.config import Config
from twophase.presets import PRESETS

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from reference import TOPICS, api_page, index_page  # noqa: E402  # beside this file

NOTE = "<!-- Written by docs/generate.py; change twophase/{} and run it. -->"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def help_of(main: Callable, *verb: str) -> str:
    """What `PROGRAM VERB --help` prints into a pipe of a fixed width."""
    text = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with patch.dict(os.environ, COLUMNS="100"), contextlib.redirect_stdout(text):
        with contextlib.suppress(SystemExit):
            main([*verb, "--help"])
    text.seek(0)
    return "\n".join(line.rstrip() for line in text.read().strip().splitlines())


def cli_page() -> str:
    parts = ["# Command line", NOTE.format("cli.py or entk/cli.py"), cli.main.__doc__]
    for program, module in (("twophase", cli), ("entk", kernels)):
        verbs = [kind.__name__.lower() for kind in get_args(module.Command)]
        for verb in ((), *((v,) for v in verbs)):
            command = " ".join((program, *verb))
            shown = help_of(module.main, *verb)
            parts += [f"## {command}", f"```text\n$ {command} --help\n{shown}\n```"]
    return "\n\n".join(parts) + "\n"


def type_of(schema: dict) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:  # only "or left out" occurs
        return type_of(next(s for s in schema["anyOf"] if s["type"] != "null"))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        many = "at least one, " if schema.get("minItems") else ""
        return f"list, {many}each {type_of(schema['items'])}"
    bounds = [f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema]
    bounds += [f"matching `{schema['pattern']}`"] if "pattern" in schema else []
    return ", ".join([schema["type"], *bounds]).replace("|", "\\|")


def row(key: str, field: FieldInfo, schema: dict) -> str:
    default = "left out" if field.default is None else f"`{json.dumps(field.default)}`"
    meaning = " ".join(schema["description"].split())
    return f"| `{key}` | {type_of(schema)} | {default} | {meaning} |"


def as_toml(values: dict) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def table(prefix: str, section: type[BaseModel]) -> str:
    """One line for each key that is a value."""
    schemas = section.model_json_schema()["properties"]
    values = {k: f for k, f in section.model_fields.items() if not is_section(f)}
    rows = [row(prefix + key, field, schemas[key]) for key, field in values.items()]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def preset(name: str) -> str:
    """What a preset sets, as the TOML file that would do the same."""
    values = PRESETS[name]
    lines = as_toml({k: v for k, v in values.items() if not isinstance(v, dict)})
    for section, content in values.items():
        if isinstance(content, dict):
            lines += ["", f"[{section}]", *as_toml(content)]
    return "\n".join([f"### {name}", "", "```toml", *lines, "```"])


def config_page() -> str:
    intro = (
        "An unknown key, a value of another type or out of its range is an error.\n"
        "`--set training.steps=500` overrides a key; a run's own config.toml has every key."
    )
    parts = ["# Configuration", NOTE.format("sections.py or presets.py"), Config.__doc__, intro]
    parts += ["## Top level", table("", Config)]
    for name, field in Config.model_fields.items():
        if is_section(field):
            about = field.annotation.__doc__
            parts += [f"## [{name}]", about, table(f"{name}.", field.annotation)]
    parts += ["## Presets", "What is not named has its default.", *map(preset, PRESETS)]
    return "\n\n".join(parts) + "\n"


PAGES = {"cli.md": cli_page, "config.md": config_page, "api/README.md": index_page}
PAGES |= {f"api/{topic}.md": functools.partial(api_page, topic) for topic in TOPICS}


def stale() -> list[str]:
    """Pages that are not what the code says."""
    files = {name: HERE / name for name in PAGES}
    return [n for n, file in files.items() if not file.exists() or file.read_text() != PAGES[n]()]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(" and ".join(stale()) + ": run python docs/generate.py" if stale() else 0)
    (HERE / "api").mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
