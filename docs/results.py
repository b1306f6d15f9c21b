"""docs/results: runs that were made, kept with tables and reports, and a page that sets them out.

python -m docs.results quickstart=runs/quickstart tabular=runs/tabular-seeds

Each NAME=PATH is a run or a sweep; it replaces docs/results/NAME. What is not
named stays. The page's generated part is made of all that is there; the text around it is not.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path

HERE = Path(__file__).parent / "results"
PAGE = HERE / "README.md"
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
KEPT = (
    "config.toml",
    "environment.json",
    "report.json",
    "report.html",
    "tables",
    "figures/all.pdf",
)
SWEPT = ("sweep.toml", "sweep.csv", "report.json", "report.html", "figures")


def keep(name: str, path: Path) -> None:
    """Copy what a reader of a run or sweep needs; no checkpoints, no kernels."""
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    if not (path / "sweep.toml").exists():
        _copy(path, target, KEPT)
        return
    _copy(path, target, SWEPT)
    for point in sorted(path.glob("*/config.toml")):
        _copy(point.parent, target / point.parent.name, KEPT)


def _copy(path: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (path / name).exists():
            sys.exit(f"{path / name} is not there: docs/results keeps finished runs only")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (path / name).is_dir() else shutil.copy2
        copy(path / name, target / name)


def render() -> str:
    """A section for each run or sweep: what it was, its words, its numbers beside the paper's."""
    kept = sorted({p.parent for p in HERE.glob("*/report.json")})
    return "\n\n".join(_section(path) for path in kept)


def _section(path: Path) -> str:
    swept = (path / "sweep.toml").exists()
    runs = sorted(p.parent for p in path.glob("*/config.toml")) if swept else [path]
    facts = [json.loads((run / "report.json").read_text()) for run in runs]
    keys = list(tomllib.loads((path / "sweep.toml").read_text())["grid"]) if swept else ["seed"]
    about = [_about(run, keys) for run in runs]
    seconds = sum(sum(f["environment"]["stage_seconds"].values()) for f in facts)
    machine = facts[0]["environment"]["machine"]
    count = f"{len(runs)} {'seeds' if keys == ['seed'] else 'points'}" if swept else "one run"
    lines = [
        f"## {path.name}",
        f"[Report]({path.name}/report.html), {count}; "
        f"{plain(machine['processor'])}, {plain(machine['cores'])} cores, "
        f"{plain(machine['device'])}; {seconds / 60:.0f} minutes of stages; commit "
        f"{plain(facts[0]['environment']['commit'])}:",
        f"    {_command(path, facts)}",
        _table(["", *about], [[w, *row] for w, row in _words(facts).items()]),
    ]
    lines += [_over_seeds(path)] if swept and keys == ["seed"] else []
    head = ["", "paper, VGG-16", "paper, ResNet-20", *about]
    rows = [
        [row["quantity"], row["vgg16"], row["resnet20"], *(f["paper"][i]["run"] for f in facts)]
        for i, row in enumerate(facts[0]["paper"])
    ]
    return "\n\n".join([*lines, _table(head, rows)])


def _about(run: Path, keys: list[str]) -> str:
    config = tomllib.loads((run / "config.toml").read_text())
    return ", ".join(
        plain(f"{key.split('.')[-1]} {reduce(getitem, key.split('.'), config)}") for key in keys
    )


def _command(path: Path, facts: list[dict]) -> str:
    return " ".join(str(facts[0]["environment"]["command"]).split())  # stands as code


def _words(facts: list[dict]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for f in facts:
        for answer in f["answers"]:
            found.setdefault(answer["question"], []).append(answer["word"])
    return {question: words for question, words in found.items() if len(words) == len(facts)}


def _over_seeds(path: Path) -> str:
    """Half-fall points of the measures, medians over seeds with intervals, from the sweep."""
    found = json.loads((path / "report.json").read_text())["found"]
    rows = []
    for measure, m in found["groups"][0]["measures"].items():
        half, interval = m["half"], m["interval"] or {"low": None, "high": None}
        text = (
            "–"
            if half is None
            else f"{half:.0f} [{_step(interval['low'])}, {_step(interval['high'])}]"
        )
        first, last = m["levels"][0], m["levels"][-1]
        bands = m["bands"]
        rows.append(
            [
                measure.replace("_", " "),
                f"{first:.3g} [{bands[0][0]:.3g}, {bands[0][1]:.3g}]",
                f"{last:.3g} [{bands[-1][0]:.3g}, {bands[-1][1]:.3g}]",
                text,
                ", ".join(f"{count} {word}" for word, count in m["words"].items()),
            ]
        )
    head = ["medians over seeds, 95 %", "at the first t0", "at the last t0", "half by t0", "seeds"]
    return _table(head, rows)


def _step(value: float | None) -> str:
    return "beyond" if value is None else f"{value:.0f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(plain, line))} |" for line in lines)


def plain(value: object) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def main(arguments: list[str]) -> None:
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or not name.replace("-", "").isalnum():
            sys.exit(f"{argument!r}: expected NAME=PATH, for example quickstart=runs/quickstart")
        keep(name, Path(path))
    text = PAGE.read_text()
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{render()}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
