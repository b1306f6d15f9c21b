import csv
import json
import re
from statistics import median
from urllib.parse import unquote

import pytest

from tests.twophase import synthetic
from tests.twophase.page import EVIL, Page
from twophase import plots_sweep, report_sweep
from twophase.errors import UserError
from twophase.rundir import RunDir


def make(folder, rate, seed, effect=True, faster=1, **more):
    """A synthetic run at one point; a rate is the only key, as its effect is in the tables."""
    sets = [f"training.rate={rate}", f"seed={seed}", *(f"{k}={v}" for k, v in more.items())]
    return synthetic.build(folder / f"{rate}-{seed}", effect, sets, faster).path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two rates, three seeds; at the larger rate all falls earlier. One diverged, one not done."""
    folder = tmp_path_factory.mktemp("page")
    paths = [make(folder, r, s, faster=f) for r, f in ((0.1, 1), (0.3, 2)) for s in range(3)]
    stopped = RunDir.open(make(folder, 0.1, 3))
    stopped.table("linear").unlink()
    lost = RunDir.open(make(folder, 0.3, 3))
    lost.save_record(lost.diverged, {"reason": f"the loss is nan {EVIL}"})
    (paths[0] / "report.html").write_text("its own")
    report_sweep.of_runs([*paths, stopped.path, lost.path], folder / "out")
    return folder / "out"


@pytest.fixture
def words_only(monkeypatch):
    """Nothing is drawn: most of the time of a page."""
    monkeypatch.setattr(plots_sweep, "FIGURES", dict.fromkeys(plots_sweep.FIGURES, lambda *_: []))


def facts(out):
    return json.loads((out / "report.json").read_text())


def answers(out):
    return {a["question"]: a for a in facts(out)["answers"]}


def rows(out):
    with (out / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    text = (page / "report.html").read_text()
    found = Page(text)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    inside = [link[1:] for link in found.links if link.startswith("#")]
    assert {"found", "points", "seeds", "figure-half", "figure-curves"} <= set(inside)
    assert set(inside) <= set(found.ids)
    outside = [x for x in found.links if not x.startswith(("#", "data:"))]
    assert all((page / unquote(link)).exists() for link in outside)
    assert outside[0].endswith("0.1-0/report.html")
    assert found.tags.count("svg") == len(list((page / "figures").glob("*.svg"))) == 13


def test_the_transition_is_found_to_come_earlier(page):
    found = answers(page)["When it comes, against training.rate"]
    assert found["word"] == "earlier"
    c = next(p for p in found["points"] if p.startswith("Parameter dissimilarity C"))
    assert re.search(r"\d+ \[\d+, \d+\] at 0.1; \d+ \[\d+, \d+\] at 0.3: earlier$", c)
    assert answers(page)["Does it go away?"]["word"] == "no"
    assert answers(page)["ε = 0 twins"]["word"] == "exactly 0"


def test_accuracy_is_compared_over_finished_runs(page):
    found = facts(page)["found"]["accuracy"]["dissimilarity"]
    done = [r for r in rows(page) if r["state"] == "finished"]
    assert (found["n"], len(done)) == (6, 6)
    # the larger rate has the larger error in the synthetic tables, and the earlier fall
    assert found["rho"] < -0.8
    assert found["p"] == pytest.approx(2 * 36 / 720)  # of 6 ranks with 3 and 3 tied
    assert answers(page)["Does it go with the final test error?"]["word"] == "not seen"


def test_the_table_has_a_row_for_each_run_with_the_numbers_of_its_tables(page):
    found = rows(page)
    assert [(r["training.rate"], r["seed"]) for r in found[:4]] == [
        *(("0.1", s) for s in "012"),
        ("0.3", "0"),
    ]
    run = RunDir.open(page.parent / "0.3-1")
    twins = [
        r
        for r in run.load_table("chaos")
        if r["arm"] == "constant" and r["t1"] == "1600" and r["kind"] == "perturbed"
    ]
    for place, t0 in (("first", "0"), ("last", "800")):
        expected = median(float(r["disagreement"]) for r in twins if r["t0"] == t0)
        assert float(found[4][f"disagreement_{place}"]) == expected
    assert found[4]["controls_exact"] == "True"
    assert float(found[4]["lazy_error"]) == pytest.approx(0.24)
    assert found[4]["dissimilarity_word"] == "falls"
    half = [float(found[4][f"dissimilarity_half{x}"]) for x in ("_low", "", "_high")]
    assert half == sorted(half)


def test_what_is_not_finished_is_said_and_counts_for_nothing(page):
    states = [r["state"] for r in rows(page)]
    assert states == ["finished"] * 6 + ["unfinished", "diverged"]
    said = "\n".join(facts(page)["warnings"])
    assert "training.rate=0.1,seed=3 unfinished: linear.csv not there." in said
    assert "training.rate=0.3,seed=3 diverged: the loss is nan" in said
    groups = facts(page)["found"]["groups"]
    assert [(g["finished"], g["seeds"]) for g in groups] == [(3, 4), (3, 4)]
    assert all(f["seeds"] == 3 for g in groups for f in g["measures"].values())


def test_markup_in_values_and_reasons_is_text(page, tmp_path):
    assert "<script" not in (page / "report.html").read_text()
    paths = [make(tmp_path, 0.1, s, **{"data.source": f"{EVIL}$x_{s}$.npz"}) for s in (0, 1)]
    report_sweep.of_runs(paths, tmp_path / "out")
    found = Page((tmp_path / "out" / "report.html").read_text())
    assert found.open == []
    assert not {"script", "b"} & set(found.tags)


def test_written_again_it_is_the_same(page, tmp_path):
    paths = [page.parent / f"0.1-{s}" for s in range(2)]
    texts = []
    for _ in range(2):
        report_sweep.of_runs(paths, tmp_path)
        texts.append({p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()})
    assert texts[0] == texts[1]


def test_a_twin_that_left_the_main_run_is_a_warning(words_only, tmp_path):
    paths = [make(tmp_path, 0.1, s) for s in (0, 1)]
    run = RunDir.open(paths[1])
    found = run.load_table("chaos")
    next(r for r in found if r["kind"] == "control")["l2"] = "1e-9"
    run.save_table("chaos", tuple(found[0]), found)
    report_sweep.of_runs(paths, tmp_path / "out")
    assert answers(tmp_path / "out")["ε = 0 twins"]["word"] == "not 0"
    assert facts(tmp_path / "out")["warnings"] == [
        "seed=1: the ε = 0 twins differ from the main run; small divergences mean nothing."
    ]


def test_an_effect_that_goes_away_is_named_where(words_only, tmp_path):
    paths = [make(tmp_path, 0.1, 0), make(tmp_path, 0.3, 0, effect=False)]
    report_sweep.of_runs(paths, tmp_path / "out")
    found = answers(tmp_path / "out")
    assert found["Does it go away?"]["word"] == "in some runs"
    assert "not seen in 1 (rate = 0.3)" in found["Does it go away?"]["points"][0]
    assert found["When it comes, against training.rate"]["word"] == "not comparable"
    assert found["Does it go with the final test error?"]["word"] == "too few runs"
    assert (
        "n = 1 (1 without a half-fall point), too few"
        in (found["Does it go with the final test error?"]["points"][0])
    )
    assert found["Cone effect"]["word"] == "seen in 1 of 2"


def test_equal_configs_are_told_apart_by_their_place(words_only, tmp_path):
    paths = [make(tmp_path / name, 0.1, 0) for name in "ab"]
    report_sweep.of_runs(paths, tmp_path / "out")
    assert [r["point"] for r in rows(tmp_path / "out")] == [str(p) for p in paths]


def test_runs_without_tables_have_a_page_too(tmp_path):
    runs = [
        RunDir.create(tmp_path / str(s), RunDir.open(make(tmp_path, 0.1, s)).config) for s in (0, 1)
    ]
    report_sweep.of_runs([r.path for r in runs], tmp_path / "out")
    assert {a["word"] for a in answers(tmp_path / "out").values()} <= {
        "over 0 runs",
        "not measured",
        "too few runs",
    }
    Page((tmp_path / "out" / "report.html").read_text())


def test_mistakes_are_one_line(page, tmp_path):
    one = page.parent / "0.1-0"
    for paths, out, said in (
        ([one, one.parent / "." / "0.1-0"], tmp_path / "x", "is there twice"),
        ([one, tmp_path], tmp_path / "x", "is no run directory"),
        ([one, page.parent / "0.3-0"], one, "holds a run or a sweep with a report of its own"),
    ):
        with pytest.raises(UserError, match=said):
            report_sweep.of_runs(paths, out)
