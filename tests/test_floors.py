"""The shape of the source: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import entk

ROOT = Path(__file__).parents[1]
LONGEST = 300

# A module of entk imports from lower floors only; the files of ops/ and rules/ know each other.
FLOORS = (
    ("errors", "factors", "fields", "pages"),
    ("hdf5", "ops", "progress", "rules", "samples"),
    ("derived", "inputs", "models"),
    ("backends", "capture", "lock", "precision"),
    ("recorder",),
    ("layouts",),
    ("generic", "rates", "soundness", "tangent"),
    ("linearize", "survey"),
    ("sketch",),
    ("plan",),
    ("features", "shard", "store", "tiling"),
    ("distribute", "operator", "request", "source"),
    ("assemble", "identity"),
    ("peers",),
    ("distance", "kernel", "regression", "shards", "similarity", "spectrum"),
    ("density", "dynamics", "trajectory", "write"),
    ("__init__", "cli"),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
# the extension is touched by one file, and found by all others through entk.backends()
NATIVE = ROOT / "entk" / "ops" / "native.py"


def sources(*folders: str) -> list[Path]:
    found = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def imports(path: Path) -> set[str]:
    """Full names of the modules and names that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_has_one_floor():
    here = {p.stem if p.is_file() else p.name for p in (ROOT / "entk").glob("*.py")}
    here |= {p.parent.name for p in (ROOT / "entk").glob("*/__init__.py")}
    assert here == FLOOR.keys()
    assert len(FLOOR) == sum(map(len, FLOORS))


@pytest.mark.parametrize("path", sources("entk"), ids=label)
def test_imports_go_down(path):
    own = path.relative_to(ROOT / "entk").parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        assert top != "twophase"
        if top == "entk" and rest[0] not in (own, "_native"):
            assert FLOOR[rest[0]] < FLOOR[own], f"{own} imports {rest[0]}, which is not below it"


@pytest.mark.parametrize("path", sources("twophase"), ids=label)
def test_twophase_uses_public_names_only(path):
    for name in imports(path):
        if name.split(".")[0] == "entk" and name != "entk":
            assert name.removeprefix("entk.") in entk.__all__
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "entk" or node.attr in entk.__all__


def test_twophase_has_no_import_cycle():
    modules = {f"twophase.{p.stem}": p for p in sources("twophase")}
    graph = {
        module: {
            target
            for name in imports(path)
            for target in (name, name.rpartition(".")[0])
            if target in modules
        }
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


def test_one_file_touches_the_extension():
    touching = {p for p in sources("entk", "twophase", "benchmarks") if "_native" in _names(p)}
    assert touching == {NATIVE}


def _names(path: Path) -> set[str]:
    return {part for name in imports(path) for part in name.split(".")}


NATIVE_SOURCES = sorted((ROOT / "csrc").iterdir())
PYTHON_SOURCES = [ROOT / "setup.py", *sources("entk", "twophase", "benchmarks", "tests")]


@pytest.mark.parametrize("path", [*PYTHON_SOURCES, *NATIVE_SOURCES], ids=label)
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= LONGEST
