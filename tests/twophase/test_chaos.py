import pytest
import torch

import entk
from twophase import chaos, config, data, kernels, metrics, train
from twophase.errors import UserError
from twophase.perturb import perturb
from twophase.rundir import RunDir

MEASURES = (
    *("dissimilarity", "l2", "relative_l2", "largest_difference", "disagreement", "divergence"),
    *("softmax_distance", "prediction_distance", "feature_distance"),
    *("loss_barrier_train", "loss_barrier_test", "error_barrier_train", "error_barrier_test"),
)
AT_END = ("kernel_distance", "aligned_barrier_train", "aligned_barrier_test", "renamed_fraction")


@pytest.fixture
def rows(finished):
    return finished.load_table("chaos")


def test_every_twin_is_measured_at_every_later_t1_in_every_arm(rows, finished):
    found = [(r["arm"], int(r["t0"]), int(r["t1"]), int(r["draw"])) for r in rows]
    c = finished.config
    expected = {
        (arm, t0, t1, d)
        for arm in c.arms
        for t0 in c.chaos.t0
        for t1 in (8, 14, 20)
        for d in (0, 1)
        if t1 > t0
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [tuple(rows[0])] == [chaos.COLUMNS]


def test_control_is_the_main_run_bit_for_bit(rows, finished):
    """Also where t0 lies after the drop, and the arms have parted."""
    controls = [r for r in rows if r["kind"] == "control"]
    assert {r["t0"] for r in controls} == {"0", "6", "16"}
    zero = (*MEASURES, "eps", "realised_l2", "realised_largest", "changed_fraction")
    for row in controls:
        assert {k: float(row[k]) for k in zero} == dict.fromkeys(zero, 0.0)
        at_end = "0.0" if row["t1"] == "20" else ""
        assert {k: row[k] for k in AT_END} == dict.fromkeys(AT_END, at_end)
    for name in ("features", "growth"):
        rows = [r for r in finished.load_table(name) if r["kind"] == "control"]
        column = {"features": "distance", "growth": "l2"}[name]
        assert {r["t0"] for r in rows} == {"0", "6", "16"}
        assert {float(r[column]) for r in rows} == {0.0}


def test_perturbed_twins_part_and_say_by_how_much_they_were_moved(rows):
    for row in rows:
        if row["kind"] != "perturbed":
            continue
        assert all(float(row[k]) > 0 for k in ("dissimilarity", "l2", "largest_difference"))
        assert float(row["realised_l2"]) == pytest.approx(1e-3, rel=1e-3)
        assert 0.9 < float(row["changed_fraction"]) <= 1
        assert float(row["dissimilarity"]) == pytest.approx(
            float(row["relative_l2"]) ** 2 / 2, rel=0.5
        )


def test_rounding_of_a_small_perturbation_is_recorded(values, samples, tmp_path, perform):
    built = config.build(values, ["chaos.eps=1e-8", "chaos.t0=[6]", 'arms=["schedule"]'])
    run = RunDir.create(tmp_path / "run", built)
    perform(run, "chaos")
    row = next(r for r in run.load_table("chaos") if r["kind"] == "perturbed")
    assert 0 < float(row["changed_fraction"]) < 0.5
    assert float(row["realised_l2"]) != pytest.approx(1e-8, rel=0.01)


def test_numbers_are_those_of_a_twin_made_by_hand(finished, dataset, rows):
    c, t0, arm = finished.config, 16, "constant"
    start = finished.load_state(finished.checkpoint(arm, t0))
    names = [f"model.{n}" for n, _ in train.network(c, dataset, start).named_parameters()]
    twin = train.advance(c, dataset, arm, perturb(c, dataset, start, t0, 1), t0, (20,))[20]
    main = finished.load_state(finished.checkpoint(arm, 20))
    u, v = (torch.cat([s[n].double().flatten() for n in names]) for s in (main, twin))
    a, b = (train.evaluated(c, dataset, s) for s in (main, twin))
    x = kernels.probe(c, dataset)
    row = next(r for r in rows if (r["arm"], r["t0"], r["t1"], r["draw"]) == (arm, "16", "20", "1"))
    cosine = torch.nn.functional.cosine_similarity(u, v, dim=0).item()
    assert float(row["dissimilarity"]) == pytest.approx(1 - cosine, rel=1e-3)
    assert float(row["l2"]) == (u - v).norm().item()
    different = a(dataset.x_test).argmax(1) != b(dataset.x_test).argmax(1)
    assert float(row["disagreement"]) == different.double().mean().item()
    distance = entk.kernel_distance(entk.ntk(a, x), entk.ntk(b, x))
    assert float(row["kernel_distance"]) == pytest.approx(distance, rel=1e-6)


def test_barrier_table_is_the_path_behind_the_barriers(finished, rows):
    points = finished.load_table("barrier")
    assert [tuple(points[0])] == [chaos.PATH_COLUMNS]
    at_end = [r for r in rows if r["t1"] == "20"]
    assert len(points) == finished.config.chaos.alphas * len(at_end)
    for row in at_end:
        key = ("arm", "t0", "draw")
        path = [p for p in points if all(p[k] == row[k] for k in key)]
        alphas = [float(p["alpha"]) for p in path]
        assert alphas == [0.0, 0.5, 1.0]
        for name in ("train_loss", "train_error", "test_loss", "test_error"):
            part, what = name.split("_")
            height = metrics.barrier(alphas, [float(p[name]) for p in path], "linear")
            assert float(row[f"{what}_barrier_{part}"]) == height


def test_one_file_a_twin_and_finished_ones_are_kept(finished, tiny, tmp_path, perform):
    run = RunDir.create(tmp_path / "run", tiny)
    for source in (*finished.path.rglob("*.safetensors"), *finished.path.glob("chaos/*.json")):
        target = run.path / source.relative_to(finished.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    run.save_table("train", ("arm",), [])
    lost, kept = run.twin(6, 1), run.twin(0, 1)
    lost.unlink()
    before = kept.stat().st_mtime_ns
    bar = perform(run, "chaos")
    assert (bar.totals["chaos"], bar.counts["chaos"]) == (6, 6)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == finished.twin(6, 1).read_bytes()
    assert run.table("chaos").read_bytes() == finished.table("chaos").read_bytes()


def test_arm_alone_gives_the_same_twins(finished, values, tmp_path, rows, perform):
    """The shortcut that arms share what lies before the drop changes no bit."""
    sets = ['arms=["constant"]', "linear.switch=[]", "training.milestones=[]", "chaos.t0=[6]"]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "chaos")
    wanted = [r for r in rows if r["arm"] == "constant" and r["t0"] == "6"]
    assert run.load_table("chaos") == wanted


def test_too_few_samples_for_the_probe_is_said_before_training(values):
    with pytest.raises(UserError, match="probe=41: there are only 40"):
        data.load(config.build(values, ["kernels.probe=41"]))


def test_fresh_noise_parts_twins_that_were_not_moved(values, tmp_path, perform):
    """eps = 0 and another order of samples; the control still ends where the run does."""
    sets = ["chaos.eps=0.0", "chaos.noise=fresh", "chaos.t0=[6]", 'arms=["schedule"]']
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "chaos")
    for row in run.load_table("chaos"):
        assert float(row["realised_l2"]) == 0
        assert (float(row["l2"]) > 1e-3) == (row["kind"] == "perturbed")


def test_horizons_are_compared_as_long_after_each_t0(values, tmp_path, perform):
    sets = ["chaos.horizons=[5, 11]", "chaos.t1=[]", 'arms=["schedule"]', "chaos.align=none"]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    assert [run.config.compared(t0) for t0 in (0, 6, 16)] == [(5, 11, 20), (11, 17, 20), (20,)]
    perform(run, "chaos")
    found = {(int(r["t0"]), int(r["t1"])) for r in run.load_table("chaos")}
    assert found == {(0, 5), (0, 11), (0, 20), (6, 11), (6, 17), (6, 20), (16, 20)}


def test_growth_is_recorded_in_every_arm(finished):
    rows = finished.load_table("growth")
    steps = {(r["arm"], int(r["t0"]), int(r["draw"]), int(r["step"])) for r in rows}
    assert len(steps) == len(rows) == 2 * 3 * 2 * 5
    assert {s - t0 for _, t0, _, s in steps} == {0, 1, 2, 3, 4}
    for row in rows:
        assert (float(row["tangent"]) > 0) == (row["kind"] == "perturbed")


def test_features_are_measured_in_every_layer(finished, rows):
    found = finished.load_table("features")
    layers = list(dict.fromkeys(r["layer"] for r in found))
    assert (layers[0], layers[-1]) == ("conv", "fc")
    for row in (r for r in rows if r["t1"] == "20"):
        key = ("arm", "t0", "t1", "draw")
        own = [r for r in found if all(r[k] == row[k] for k in key)]
        assert [r["layer"] for r in own] == layers
        assert own[-2]["distance"] == row["feature_distance"]
