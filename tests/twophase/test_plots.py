import json
import random
import re

import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG

from tests.twophase import synthetic
from twophase import phases, plots, plotstyle, tables
from twophase.plots_chaos import excess, spread
from twophase.plots_kernel import free_walk

MILESTONES = (1200, 1400)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    run = synthetic.build(tmp_path_factory.mktemp("plots") / "run")
    found, _ = tables.load(run)
    return found, phases.summary(found, 1600, MILESTONES)


@pytest.fixture(scope="module")
def panels(loaded):
    return {name: plots.draw(name, *loaded, MILESTONES) for name in plots.FIGURES}


def test_every_figure_has_panels_with_a_description(panels):
    names = [panel.name for group in panels.values() for panel in group]
    assert all(panels.values())
    assert len(set(names)) == len(names)
    assert all(panel.alt.endswith(".") for group in panels.values() for panel in group)


def test_chaos_panel_shows_the_medians(loaded, panels):
    _, summary = loaded
    panel = next(p for p in panels["chaos"] if p.name == "chaos-disagreement")
    drawn = {line.get_label(): list(line.get_ydata()) for line in panel.figure.axes[0].lines}
    for arm, part in summary["chaos"]["arms"].items():
        label = plotstyle.ARM_LABEL[arm]
        assert drawn[label] == part["measures"]["disagreement"]["levels"]
    assert drawn["ε = 0 twin"] == [0.0, 0.0]


def test_matrix_panels_share_their_scale_and_hold_every_pair(loaded, panels):
    images = [panel.figure.axes[0].images[0] for panel in panels["matrix"]]
    assert len({image.get_clim() for image in images}) == 1
    steps = sorted({r["step_i"] for r in loaded[0]["cone_matrix"]})
    cells = images[0].get_array()
    for r in loaded[0]["cone_matrix"]:
        if r["arm"] == "schedule":
            assert cells[steps.index(r["step_i"]), steps.index(r["step_j"])] == r["distance"]


def test_drops_are_marked_in_the_stepped_arm_only(panels):
    def dashed(panel):
        lines = panel.figure.axes[0].lines
        return {line.get_xdata()[0] for line in lines if len(set(line.get_xdata())) == 1}

    by_name = {panel.name: panel for panel in panels["cone"]}
    assert set(MILESTONES) <= dashed(by_name["reference-schedule"])
    assert not set(MILESTONES) & dashed(by_name["reference-constant"])


def test_path_shows_the_scaling_with_what_its_axes_explain(loaded, panels):
    path = loaded[1]["cone"]["arms"]["constant"]["path"]
    panel = next(p for p in panels["path"] if p.name == "path-constant")
    flat, side = panel.figure.axes
    assert flat.get_xlabel() == f"axis 1 ({100 * path['explained'][0]:.0f} %)"
    assert side.get_xlabel() == f"axis 3 ({100 * path['explained'][2]:.0f} %)"
    drawn = [line.get_xydata()[0].tolist() for line in flat.lines if line.get_marker() == "o"]
    assert drawn == [point[:2] for point in path["points"]]


def test_speed_is_drawn_between_the_kernels(loaded, panels):
    panel = next(p for p in panels["speed"] if p.name == "speed-deg_per_step")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.figure.axes[0].lines}
    rows = [r for r in loaded[0]["cone_neighbours"] if r["arm"] == "constant"]
    expected = [[r["step"] + r["lag"] / 2, r["deg_per_step"]] for r in rows]
    assert drawn["constant rate"] == expected


def test_layers_hold_every_angle(loaded, panels):
    image = next(p for p in panels["layers"] if p.name == "layers-schedule").figure.axes[0].images
    rows = [r for r in loaded[0]["cone_layers"] if r["arm"] == "schedule"]
    assert sorted(image[0].get_array().ravel()) == sorted(r["angle_deg"] for r in rows)


def test_same_tables_same_bytes(loaded):
    once, again = ([*plots.draw("chaos", *loaded, MILESTONES)][:2] for _ in range(2))
    assert [plotstyle.svg(p) for p in once] == [plotstyle.svg(p) for p in again]
    assert plotstyle.pdf(once) == plotstyle.pdf(again)
    assert b"CreationDate" not in plotstyle.pdf(once)


def test_inline_drawings_follow_the_theme_and_keep_their_ids_apart(panels):
    drawings = [plotstyle.inline(p, plotstyle.svg(p)) for p in panels["training"]]
    ids = [i for text in drawings for i in re.findall(r'\bid="([^"]+)"', text)]
    assert len(set(ids)) == len(ids)
    for text in drawings:
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
        assert "var(--blue)" in text
        assert plotstyle.COLOUR["ink"] not in text
        assert "<metadata" not in text
        assert "http" not in text


def test_excess_is_above_the_line_of_the_ends_and_averaged_over_draws():
    rows = [
        {"draw": draw, "alpha": alpha, "train_loss": loss}
        for draw, losses in ((1, (1.0, 2.5, 3.0)), (2, (1.0, 2.1, 3.0)))
        for alpha, loss in zip((0.0, 0.5, 1.0), losses, strict=True)
    ]
    assert excess(rows, "train_loss") == pytest.approx({0.0: 0.0, 0.5: 0.3, 1.0: 0.0})


def test_free_walk_starts_at_tau(loaded):
    found, _ = loaded
    steps, levels = free_walk(found["cone_matrix"], found["cone_lagged"], "constant", 400)
    s = {(r["step_i"], r["step_j"]): r["distance"] for r in found["cone_matrix"]}
    assert steps[:3] == [400, 500, 600]
    assert levels[:2] == [0.0, pytest.approx(s[400, 500])]
    assert levels[2] == pytest.approx(1 - (1 - s[400, 500]) * (1 - s[500, 600]))


def test_figures_without_their_tables_are_left_out():
    empty = {name: [] for name in tables.STAGE}
    summary = phases.summary(empty, 1600, MILESTONES)
    assert all(plots.draw(name, empty, summary, MILESTONES) == [] for name in plots.FIGURES)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("seed", [0, 1])
def test_tables_with_gaps_are_drawn_as_far_as_they_go(loaded, share, seed):
    generator = random.Random(seed)
    gaps = {
        name: [
            {k: None if blank_cell(k, generator) else v for k, v in row.items()}
            for row in rows
            if generator.random() < share
        ]
        for name, rows in loaded[0].items()
    }
    summary = phases.summary(gaps, 1600, MILESTONES)
    json.dumps(summary, allow_nan=False)
    for name in plots.FIGURES:
        for panel in plots.draw(name, gaps, summary, MILESTONES):
            FigureCanvasSVG(panel.figure)
            panel.figure.draw_without_rendering()


def blank_cell(column, generator):
    """A value that was not finite: steps and names are never lost."""
    free = ("loss", "error", "distance", "deg", "norm", "trace", "dissim", "disagree", "barrier")
    return any(part in column for part in (*free, "l2")) and generator.random() < 0.1


@pytest.mark.parametrize("kind", ["control", "perturbed"])
def test_twins_of_one_kind_alone(loaded, kind):
    only = {name: [] for name in tables.STAGE}
    only["chaos"] = [r for r in loaded[0]["chaos"] if r["kind"] == kind and r["t0"] < 50]
    summary = phases.summary(only, 1600, MILESTONES)
    drawn = plots.draw("overview", only, summary, MILESTONES)
    assert len(drawn) == (0 if kind == "control" else 2)
    assert summary["chaos"]["controls"]["exact"] is (True if kind == "control" else None)


def test_labels_of_close_steps_are_left_out():
    assert spread([450, 475, 500, 550, 650, 750, 900]) == [450, 500, 550, 650, 750, 900]
    assert spread([0, 100, 995, 1000]) == [0, 100, 1000]
    assert spread([7]) == [7]
