"""README.md and docs/: each block runs, each link leads somewhere, what is generated is fresh."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
import pkgutil
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import tyro

import entk
import twophase
from twophase import cli, config
from twophase.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# what has no paper: the project's own ways of keeping and planning
ENGINEERING = {"exclusive", "backends", "jacobian", "open_kernel", "plan_ntk", "write_ntk"}
INHERITED = {"extra_repr"}  # described by torch.nn.Module
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# what a plan expects of the passes through the model was taken with a stopwatch
STOPWATCH = re.compile(r"^(expected |forward and backward passes +|total(?: +\S+){2} +)\S+")
DECIMAL = re.compile(r"\d+\.\d+(?:e[-+]\d+)?")
# kind, content and, if a block of text comes right after it, that
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.M | re.S)
BLOCKS = [match.groups() for match in BLOCK.finditer(README)]


def blocks(kind: str) -> list[str]:
    found = [content for name, content, _ in BLOCKS if name == kind]
    assert found, f"README.md has no block of {kind}"
    return found


def assert_agree(printed: str, shown: str) -> None:
    """Equal up to blanks at line ends and measured times; decimals may differ by 5 %."""
    pair = [
        [STOPWATCH.sub(r"\1", line.rstrip()) for line in text.strip().splitlines()]
        for text in (printed, shown)
    ]
    assert [DECIMAL.sub("#", line) for line in pair[0]] == [
        DECIMAL.sub("#", line) for line in pair[1]
    ]
    numbers = [[float(n) for n in DECIMAL.findall("\n".join(lines))] for lines in pair]
    for one, two in zip(*numbers, strict=True):
        assert math.isclose(one, two, rel_tol=0.05), f"printed {one}, shown {two}"


COMMANDS = [shlex.split(line, comments=True) for line in "".join(blocks("sh")).splitlines()]


@pytest.mark.parametrize("printed", ["a 1.70e+03, 2", "a 1.50e+03, 3", "b 1.50e+03, 2", "a 1.50"])
def test_output_that_differs_is_noticed(printed):
    assert_agree("a 1.51e+03, 2 \n", "a 1.50e+03, 2")
    with pytest.raises(AssertionError):
        assert_agree(printed, "a 1.50e+03, 2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with the README's TOML files; the number of threads is restored."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    for text in blocks("toml"):
        Path(re.match(r"# (\S+\.toml)\n", text)[1]).write_text(text)
    yield tmp_path
    torch.set_num_threads(threads)


def test_python(here, capsys):
    """In order, in one namespace; what they print is what the README shows."""
    names: dict = {"__name__": "readme"}
    programs = [(code, shown) for kind, code, shown in BLOCKS if kind == "python"]
    assert len(programs) > 1
    for number, (code, shown) in enumerate(programs):
        exec(compile(code, f"README.md, python block {number}", "exec"), names)
        assert_agree(capsys.readouterr().out, shown or "")


def run(arguments: list[str], capsys) -> str:
    """What the command prints, or the error that it ends with."""
    try:
        cli.main(arguments)
    except SystemExit as end:
        if end.code:
            return capsys.readouterr().err
    return capsys.readouterr().out


def test_console(here, capsys):
    """Each command runs here and now, and prints what the README shows."""
    for text in blocks("console"):
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "twophase"
            assert_agree(run(arguments, capsys), shown)
    finished = [c for c in COMMANDS if c[0] == "twophase" and c[-1].startswith("runs/")]
    assert finished
    for _, *arguments in finished:
        cli.main(arguments)
    listed = re.search(r"^\| in `runs/NAME/` .*?\n\n", README, re.M | re.S)[0].splitlines()[2:]
    for name in re.findall(r"`(.+?)`", " ".join(line.split(" | ")[0] for line in listed)):
        assert list((here / "runs" / "mine").glob(name.replace("ARM", "*"))), name


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_exist(here, command, capsys):
    """Most are too long to run here, so only: the target, the arguments and the files are real."""
    match command:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        case ["pip", "install", "."]:
            assert "def test_install(" in (ROOT / "tests" / "test_packaging.py").read_text()
        case ["python", "-m", "pytest", *paths]:
            assert all((ROOT / path).is_file() for path in paths)
        case ["twophase", "--help"]:
            assert run(["--help"], capsys).startswith("usage: twophase")
        case ["twophase", *arguments]:
            tyro.cli(cli.Command, prog="twophase", args=arguments)
            assert arguments[1] in PRESETS or arguments[1].startswith("runs/")
        case _:
            pytest.fail(f"no check for {command}")


def test_toml(here):
    for text in blocks("toml"):
        config.build(tomllib.loads(text))


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_references_to_code(page):
    """`path/file.py: name` is a definition in that file; `make target` is one in the Makefile."""
    text = prose(page)
    for file, name in re.findall(r"`(\w[\w/]*\.py):\s(\w+)`", text):
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), re.M), (file, name)
    for target in re.findall(r"`make\s(\w+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target


def test_generated_pages_are_fresh(tmp_path):
    """`python docs/generate.py` writes them; a page that is not what it says would be named."""
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    stale = made["stale"]
    assert stale() == []
    assert {p.name for p in (ROOT / "docs" / "api").iterdir()} == {
        Path(name).name for name in made["PAGES"] if name.startswith("api/")
    }
    (tmp_path / "cli.md").write_text((ROOT / "docs" / "cli.md").read_text() + "\n")
    stale.__globals__["HERE"] = tmp_path
    assert stale() == list(made["PAGES"])


def test_every_public_name_is_on_one_page():
    titles = [
        name
        for page in sorted((ROOT / "docs" / "api").glob("*.md"))
        if page.name != "README.md"
        for name in re.findall(r"^## (\w+)$", page.read_text(), re.M)
    ]
    assert sorted(titles) == sorted(entk.__all__)


PUBLIC = {name: getattr(entk, name) for name in entk.__all__}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_have_an_example(name):
    """Of at most six lines; `test_docstring_examples` runs it."""
    (example,) = doctest.DocTestFinder().find(FUNCTIONS[name], name)
    assert example.examples
    assert sum(e.source.count("\n") for e in example.examples) <= 6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_say_what_they_raise_and_after_whom(name):
    doc = FUNCTIONS[name].__doc__
    takes_nothing = not inspect.signature(FUNCTIONS[name]).parameters
    assert "Raises" in doc or takes_nothing
    assert "Source" in doc or name in ENGINEERING


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_are_described(name):
    kind = CLASSES[name]
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{name}(")  # a dataclass's own
    made = (property, classmethod, type(test_toml))
    for member, value in vars(kind).items():
        if isinstance(value, made) and not member.startswith("_") and member not in INHERITED:
            assert (inspect.getdoc(value) or "").strip(), member


@pytest.mark.parametrize("package", [entk, twophase], ids=lambda package: package.__name__)
def test_docstring_examples(package):
    examples = 0
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(("._native", ".__main__")):
            done = doctest.testmod(importlib.import_module(module.name))
            assert done.failed == 0, module.name
            examples += done.attempted
    assert examples > 0
