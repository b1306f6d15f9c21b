import numpy as np
import pytest

from tests.twophase import synthetic
from tests.twophase.test_geometry import distances, unit_vectors
from twophase import config, geometry, nulls, tables
from twophase.cone_findings import _inside, cone, square
from twophase.presets import PRESETS
from twophase.rundir import RunDir


def found(path, values, effect=True):
    run = RunDir.create(path, config.build(values))
    synthetic._cone(run, effect)
    training = run.config.training
    return cone(tables.load(run)[0], training.steps, training.milestones)


@pytest.mark.parametrize("effect", [True, False])
@pytest.mark.parametrize("values", [{}, *PRESETS.values()], ids=["defaults", *PRESETS])
def test_the_kernels_of_each_preset_suffice_for_a_verdict(tmp_path, values, effect):
    arms = found(tmp_path / "run", values, effect)["arms"].values()
    assert {a["verdict"] for a in arms} == {"seen" if effect else "not seen"}


def test_window_ends_at_the_last_kernel_before_the_drop(tmp_path):
    arm = found(tmp_path / "run", PRESETS["vgg16-cifar10"])["arms"]["schedule"]
    assert arm["window"] == [5000, 10000]
    assert arm["lag"] == 500  # 100 is for the first 1000 steps only
    assert arm["after_drop_deg"] is None


def test_too_few_kernels_give_no_findings(tmp_path):
    values = {"kernels": {"steps": [0, 500]}, "cone": {"tau": [], "lags": [500]}}
    assert found(tmp_path / "run", values) is None


def rows_of(s, steps):
    return [
        {"arm": "constant", "step_i": i, "step_j": j, "distance": float(s[a, b])}
        for a, i in enumerate(steps)
        for b, j in enumerate(steps)
    ]


def test_inside_the_cone_is_the_window_of_the_matrix(tmp_path):
    arm = found(tmp_path / "run", synthetic.CONFIG)["arms"]["constant"]
    steps = list(range(800, 1601, 100))
    s = np.array([[synthetic.distance("constant", i, j, True) for j in steps] for i in steps])
    mean = geometry.mean_direction(s)
    inside = arm["inside"]
    assert inside["steps"] == steps
    assert inside["to_mean_deg"] == pytest.approx(mean.angles)
    assert inside["dimension"] == pytest.approx(mean.dimension)
    assert inside["aperture_deg"][-1] == arm["widest_deg"] == max(inside["aperture_deg"])
    assert inside["to_start_deg"][0] == 0
    assert arm["confinement"] == arm["walk"]["value"] == pytest.approx(float(nulls.reached(s)))
    assert arm["path"]["steps"] == sorted(synthetic.CONFIG["kernels"]["steps"])


@pytest.mark.parametrize("word", ["seen", "not seen"])
def test_order_in_time(word):
    walk = nulls.walks(np.full(9, 0.1), 60, 1)[0]
    jitter = distances(unit_vectors(10, 60, 0.5, seed=4))
    steps = list(range(0, 1000, 100))
    inside = _inside(rows_of(walk if word == "seen" else jitter, steps), "constant", (0, 900), 100)
    assert inside["order"] == word
    short = _inside(rows_of(walk[:4, :4], steps[:4]), "constant", (0, 900), 100)
    assert (short["order"], short["shuffled"]) == (None, None)


def test_kernels_without_all_their_distances_are_left_out():
    rows = rows_of(distances(unit_vectors(4, 5)), [0, 10, 20, 30])
    rows = [r for r in rows if (r["step_i"], r["step_j"]) != (20, 10)]
    steps, s = square(rows, "constant")
    assert steps == [0, 10, 30]
    assert s.shape == (3, 3)
    assert square(rows, "schedule")[1].shape == (0, 0)
