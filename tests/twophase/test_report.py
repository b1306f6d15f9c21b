import csv
import json
import re
from statistics import median

import pytest

from tests.twophase import synthetic
from tests.twophase.page import EVIL, Page
from twophase import report, tables
from twophase.errors import UserError

KEPT = ("linear", "regression", "train")


def numbers(run):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((run.path / "report.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = synthetic.build(tmp_path_factory.mktemp("report") / "run", overrides=[f"name={EVIL}"])
    environment = run.load_json(run.path / "environment.json")
    run.save_json(run.path / "environment.json", {**environment, "note": EVIL})
    report.write(run)
    return run


@pytest.fixture
def bare(tmp_path):
    """A run whose tables can be taken away; without the figures of all others it is quick."""
    run = synthetic.build(tmp_path / "run")
    for name in tables.STAGE:
        if name not in KEPT:
            run.table(name).unlink()
    return run


def test_page_is_well_formed_and_its_contents_lead_somewhere(whole):
    page = Page(whole.report.read_text())
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert {"found", "phases", "chaos", "cone", "linear", "controls", "glossary"} <= set(inside)
    assert set(inside) <= set(page.ids)
    assert page.tags.count("svg") == len(list((whole.path / "figures").glob("*.svg"))) > 25


def test_page_needs_nothing_from_elsewhere(whole):
    text = whole.report.read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    for link in page.links:
        kind = link.split(":")[0] if ":" in link.split("/")[0] else "relative"
        assert kind in ("relative", "data")
        if kind == "relative" and not link.startswith("#"):
            assert (whole.path / link).exists()


def test_names_are_text_not_markup(whole):
    page = Page(whole.report.read_text())
    assert page.title == EVIL
    assert "script" not in page.tags


def test_numbers_are_those_of_the_tables(whole):
    with whole.table("chaos").open() as file:
        rows = [r for r in csv.DictReader(file) if r["arm"] == "constant" and r["t1"] == "1600"]
    perturbed = [r for r in rows if r["kind"] == "perturbed"]
    early, late = (
        median(float(r["dissimilarity"]) for r in perturbed if r["t0"] == t0) for t0 in ("0", "800")
    )
    found = numbers(whole)
    fall = found["findings"]["chaos"]["arms"]["constant"]["measures"]["dissimilarity"]
    assert (fall["early"], fall["late"], fall["kept"]) == (early, late, late / early)
    data = found["data"]["chaos"]
    line = next(r for r in data["rows"] if r[:2] == ["dissimilarity", "constant"])
    assert dict(zip(data["head"], line, strict=True))["t0 800"] == late
    assert f"{early:.3g}" in whole.report.read_text()
    with whole.table("kernel").open() as file:
        norms = [float(r["frobenius_norm"]) for r in csv.DictReader(file)]
    assert found["tables"]["kernel"]["columns"]["frobenius_norm"]["max"] == max(norms)


def test_words_of_the_opening(whole):
    words = {a["question"]: a["word"] for a in numbers(whole)["answers"]}
    assert words["Chaos effect"] == "seen"
    assert words["Cone effect"] == "seen"
    assert words["ε = 0 twins"] == "exactly 0"
    assert words["Linear switch"] == "later is better"
    results = {c["name"]: c["result"] for c in numbers(whole)["controls"]}
    assert results["ε = 0 twins equal the main run"] == "pass"
    assert results["S is symmetric, and 0 on its diagonal"] == "pass"
    assert results["Arms are equal up to the first drop"] == "pass"
    assert results["Kernel computed again in float64"] == "pass"
    assert results["Late kernels against shuffled time"] == "run"
    assert results["More than one training seed"] == "not run"


def test_written_again_it_is_the_same(whole):
    files = [whole.report, *(whole.path / "figures").iterdir(), whole.path / "report.json"]
    before = {file: file.read_bytes() for file in files}
    report.write(whole)
    assert {file: file.read_bytes() for file in files} == before


def test_absent_effects_are_reported_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", {})  # words only: drawing has its own tests
    monkeypatch.setattr(report, "SECTIONS", {"phases": "When the phases change"})
    run = synthetic.build(tmp_path / "run", effect=False)
    report.write(run)
    answers = {a["question"]: a for a in numbers(run)["answers"]}
    assert answers["Chaos effect"]["word"] == "not seen"
    assert answers["Cone effect"]["word"] == "not seen"
    assert answers["Linear switch"]["word"] == "no gain seen"
    assert answers["Explained by the rate’s drops"]["word"] == "not known"
    assert "narrow" not in json.dumps(answers)
    assert "half by" not in json.dumps(answers)


def test_missing_tables_are_named_and_the_report_is_written(bare):
    report.write(bare)
    text, found = bare.report.read_text(), numbers(bare)
    for name in ("chaos", "barrier", "kernel", "cone_matrix", "cone_reference", "cone_lagged"):
        assert any(line.startswith(f"{name}.csv is not there") for line in found["warnings"])
        assert f"{name}.csv is not there" in text
    assert found["figures"]["chaos"] == []
    assert len(found["figures"]["training"]) == 2
    words = {a["question"]: a["word"] for a in found["answers"]}
    assert words["Chaos effect"] == words["Cone effect"] == "not measured"
    Page(text)


def test_a_run_without_any_table_still_has_a_report(bare):
    for name in KEPT:
        bare.table(name).unlink()
    (bare.path / "environment.json").unlink()
    report.write(bare)
    assert len(numbers(bare)["warnings"]) == len(tables.STAGE)
    assert "environment.json is not there" in bare.report.read_text()


def test_values_that_are_not_finite_are_left_out_and_counted(bare):
    rows = bare.load_table("train")
    rows[0]["train_loss"], rows[1]["train_loss"], rows[1]["test_error"] = "nan", "inf", "-inf"
    bare.save_table("train", tuple(rows[0]), rows)
    report.write(bare)
    warnings = numbers(bare)["warnings"]
    assert (
        "train.csv: values that are not finite are left out: test_error (1), train_loss (2)."
        in (warnings)
    )


def test_a_linearised_run_that_diverged_is_named(bare):
    rows = bare.load_table("linear")
    rows[1] |= dict.fromkeys(("train_loss", "train_error", "test_loss", "test_error"), "")
    bare.save_table("linear", tuple(rows[0]), rows)
    report.write(bare)
    warnings = numbers(bare)["warnings"]
    assert "The run switched to “taylor” at step 100 diverged; it has no scores." in warnings
    assert "diverged" in bare.report.read_text()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("step", "12x", "column step has '12x'"), ("arm", "<b>", "arm '<b>', expected one of")],
)
def test_a_damaged_table_says_where(bare, column, value, message):
    rows = bare.load_table("train")
    rows[0][column] = value
    bare.save_table("train", tuple(rows[0]), rows)
    with pytest.raises(UserError, match=re.escape(message)):
        report.write(bare)
