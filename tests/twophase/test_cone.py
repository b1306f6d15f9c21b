import math

import pytest
import torch

import entk
from twophase import cone, config, kernels, train
from twophase.rundir import RunDir


def test_matrix_is_the_distance_of_each_pair_of_files(finished):
    rows = finished.load_table("cone_matrix")
    steps = finished.config.kernels.steps
    assert len(rows) == 2 * len(steps) ** 2
    for row in rows:
        i, j = (finished.kernel(row["arm"], int(row[k])) for k in ("step_i", "step_j"))
        assert float(row["distance"]) == pytest.approx(entk.kernel_distance(i, j), rel=1e-6)
    assert any(float(r["distance"]) > 1e-3 for r in rows)


def test_reference_and_lagged_are_rows_of_the_matrix(finished):
    matrix = {
        (r["arm"], r["step_i"], r["step_j"]): r["distance"]
        for r in finished.load_table("cone_matrix")
    }
    reference = finished.load_table("cone_reference")
    assert {(r["tau"], r["step"]) for r in reference} == {
        (str(tau), str(t)) for tau in (0, 5) for t in (0, 5, 10, 20) if t >= tau
    }
    assert all(r["distance"] == matrix[r["arm"], r["tau"], r["step"]] for r in reference)
    lagged = finished.load_table("cone_lagged")
    assert {(r["step"], r["lag"]) for r in lagged} == {("0", "5"), ("5", "5")}
    for r in lagged:
        assert r["distance"] == matrix[r["arm"], r["step"], str(int(r["step"]) + 5)]
    for r in (*reference, *lagged):
        degrees = math.degrees(math.acos(1 - float(r["distance"])))
        assert float(r["angle_deg"]) == pytest.approx(degrees, abs=1e-5)
    assert [tuple(reference[0]), tuple(lagged[0])] == [cone.REFERENCE, cone.LAGGED]


def test_speed_is_what_is_turned_per_step(finished):
    rows = finished.load_table("cone_neighbours")
    grid = [(r["arm"], r["step"], r["lag"]) for r in rows]
    per_arm = [("0", "5"), ("5", "5"), ("10", "10")]
    assert grid == [(arm, *pair) for arm in finished.config.arms for pair in per_arm]
    for r in (*rows, *finished.load_table("cone_lagged")):
        distance, lag = float(r["distance"]), int(r["lag"])
        assert float(r["velocity"]) == pytest.approx(distance / lag)
        degrees = math.degrees(math.acos(1 - distance)) / lag
        assert float(r["deg_per_step"]) == pytest.approx(degrees, abs=1e-5)


def test_layers_are_those_of_the_model_and_turn_as_their_own_kernels(
    values, dataset, tmp_path, perform
):
    sets = ["kernels.by_layer=true", "kernels.steps=[0, 5, 10]", 'arms=["schedule"]']
    run = RunDir.create(tmp_path / "run", config.build(values, [*sets, "cone.lags=[5, 10]"]))
    perform(run, "cone")
    rows = run.load_table("cone_layers")
    assert {(r["step"], r["lag"]) for r in rows} == {("0", "5"), ("5", "5")}
    kernels_of = {}
    for step in (5, 10):
        state = run.load_state(run.checkpoint("schedule", step))
        model = train.evaluated(run.config, dataset, state)
        kernels_of[step] = entk.ntk(model, kernels.probe(run.config, dataset), by_layer=True)
    layers = {r["layer"]: r for r in rows if r["step"] == "5"}
    assert list(layers) == list(kernels_of[5])
    for name, row in layers.items():
        expected = entk.kernel_distance(kernels_of[5][name], kernels_of[10][name])
        assert float(row["distance"]) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert len({r["distance"] for r in layers.values()}) == len(layers)


def test_without_by_layer_there_are_no_layers(finished):
    assert finished.load_table("cone_layers") == []


def test_a_layer_that_nothing_flows_through_has_no_distance(values, tmp_path):
    sets = ["kernels.by_layer=true", "kernels.steps=[0, 5]", "cone.tau=[]"]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    torch.nn.init.constant_(model[0].bias, -100.0)  # every unit is dead
    for step in (0, 5):
        path = run.kernel("constant", step)
        path.parent.mkdir(parents=True, exist_ok=True)
        entk.write_ntk(path, model, torch.randn(4, 2), by_layer=True).close()
    found = {r["layer"]: r["distance"] for r in cone._layers(run, "constant")}
    assert found == {"0": None, "2": 0.0}
