"""Names that would like to be markup, formulas or paths: text, on every page that we write."""

from __future__ import annotations

import json
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from docs import results
from tests.twophase import synthetic
from tests.twophase.page import Page
from twophase import plots, plots_sweep, report, report_sweep

EVIL = '</title></svg></script><script>alert("x")</script>&amp;\'$\\frac{$]]>-->\u202eabc'
PATH = "a b'&\"<i>%20#?\u202e$x$"


class Text(Page):
    """A page and all that can be read on it."""

    def __init__(self, text):
        self.text = ""
        super().__init__(text)

    def handle_data(self, data):
        super().handle_data(data)
        self.text += data


def rows_with(run, table, **values):
    rows = [{**row, **values} for row in run.load_table(table)]
    run.save_table(table, tuple(rows[0]), rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose name, folder, layers, machine and command want to be something else."""
    folder = tmp_path_factory.mktemp("names") / PATH
    run = synthetic.build(folder, overrides=[f"name={json.dumps(EVIL, ensure_ascii=False)}"])
    for table in ("features", "cone_layers"):
        rows_with(run, table, layer=EVIL)
    environment = run.load_json(run.path / "environment.json")
    environment |= {"command": f"twophase run {EVIL}", EVIL: EVIL, "kernel_plan": [EVIL]}
    environment["machine"] |= {"processor": EVIL, "device": EVIL}
    run.save_json(run.path / "environment.json", environment)
    panels = ("overview", "features", "layers")
    with pytest.MonkeyPatch.context() as patch:  # the others have no names in them
        kept = {k: v if k in panels else (lambda *_: []) for k, v in plots.FIGURES.items()}
        patch.setattr(plots, "FIGURES", kept)
        report.write(run)
    return run


def test_the_report_shows_them_as_text(run):
    text = run.report.read_text()
    page = Text(text)
    assert page.open == []
    assert page.title == EVIL
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.text.count(EVIL) >= 5  # title, command, machine, key, plan
    assert "<script" not in text
    assert str(run.path) in page.text


def test_drawings_are_xml_with_them_as_text(run):
    drawings = sorted((run.path / "figures").glob("*.svg"))
    assert {"features-schedule.svg", "layers-schedule.svg"} <= {p.name for p in drawings}
    shown = EVIL.replace("\u202e", "\ufffd")
    for path in drawings:
        root = ElementTree.fromstring(path.read_bytes())
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        if path.name.startswith(("features", "layers")):
            assert shown in [e.text for e in root.iter() if e.text]


def test_the_comparison_shows_them_and_its_links_lead_there(run, tmp_path):
    other = synthetic.build(
        tmp_path / "other", overrides=["seed=3", "data.source=" + json.dumps(EVIL)]
    )
    with pytest.MonkeyPatch.context() as patch:
        nothing = dict.fromkeys(plots_sweep.FIGURES, lambda *_: [])
        patch.setattr(plots_sweep, "FIGURES", nothing)
        report_sweep.of_runs([run.path, other.path], tmp_path / "out")
    page = Text((tmp_path / "out" / "report.html").read_text())
    assert page.open == []
    assert not {"script", "i"} & set(page.tags)
    assert EVIL in page.text
    (link,) = [v for v in page.links if v.endswith("report.html")]
    assert (tmp_path / "out" / unquote(link)).resolve() == run.report.resolve()


def test_the_page_of_results_shows_them(run):
    text = results._section(run.path)
    assert "<script" not in text.replace(f"    twophase run {EVIL}", "")  # that line stands as code
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table[:3]}) == 1
    assert results.plain("a|b\n`c` [d](e) <f>") == "a\\|b \\`c\\` \\[d\\](e) &lt;f&gt;"
