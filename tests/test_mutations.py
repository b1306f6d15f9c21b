"""The table of `make mutations` fits the source, and its verdicts tell what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import Mutant
from tests.mutations import MUTANTS, ROOT, judge

ENGINE = ("capture", "recorder", "derived", "features", "assemble", "request", "samples", "models")
UNTOUCHED = {"__init__.py"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_text_is_there_once(mutant):
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    assert mutant.tests
    assert all((ROOT / test.split("::")[0]).is_file() for test in mutant.tests)


def test_every_rule_and_the_engine_have_mistakes():
    found = {mutant.file for mutant in MUTANTS}
    rules = (ROOT / "entk" / "rules").glob("*.py")
    wanted = {f"entk/rules/{path.name}" for path in rules if path.name not in UNTOUCHED}
    wanted |= {f"entk/{name}.py" for name in (*ENGINE, "factors", "ops/native")}
    assert found >= wanted
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 220


FILE = "entk/rules/linear.py"
OLD = "-1, g.shape[-1]).sum(2)"
TEST = ("tests/entk/test_jacobian.py::test_linear_by_hand",)


@pytest.mark.slow  # three processes
@pytest.mark.parametrize(
    ("new", "word"),
    [
        ("-1, g.shape[-1]).sum(2) * 2", "killed"),
        ("-1, g.shape[-1]).sum(2) * 1", "survived"),
        ("-1, g.shape[-1]).sum(2) * unknown", "broken"),
    ],
)
def test_verdicts(new, word):
    before = Path(ROOT / FILE).read_bytes()
    assert judge(Mutant(word, FILE, OLD, new, TEST)).word == word
    assert Path(ROOT / FILE).read_bytes() == before
