import json
import math

import pytest
import torch
from torch import nn

from twophase import chaos, config, data, lockstep, models, train
from twophase.errors import DivergedError, UserError
from twophase.perturb import perturb
from twophase.rundir import RunDir

STEPS = 4


class Masked(nn.Module):
    """Every kind of layer whose state or noise the lanes could mix up."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(), nn.Linear(64, 4)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
        return self.fc(self.drop(x.flatten(1)))


MODELS = {
    "mlp": {"name": "mlp", "widths": [5, 7]},
    "thin-resnet": {"widths": [3, 8]},
    "wider": {"widths": [8, 16], "blocks": 2, "shortcut": "pad"},
    "masked": {},
}


@pytest.fixture(params=MODELS)
def built(request, values, monkeypatch):
    """A config of each network; "masked" has dropout, which ours have in a large one only."""
    if request.param == "masked":
        build = models.build

        def masked(*arguments):
            build(*arguments)
            torch.manual_seed(0)
            return Masked()

        monkeypatch.setattr(models, "build", masked)
    return config.build({**values, "model": MODELS[request.param]}, ["chaos.align=none"])


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def apart(a, b):
    """Largest difference of any entry of two states."""
    assert list(a) == list(b)
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def twins(c, samples, count, step=0):
    """The state at a step with momentum, and so many perturbed ones."""
    start = train.initial(c, samples)
    start = train.advance(c, samples, "constant", start, 0, (step,))[step]
    return start, [perturb(c, samples, start, step, draw) for draw in range(1, count + 1)]


def rounds_by_place() -> bool:
    """Whether torch's own product of equal lanes differs, as MKL's does on some AMD processors."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b = (torch.randn(16, n, generator=generator).expand(3, 16, n) for n in (7, 5))
        product = torch.bmm(a.contiguous().mT, b.contiguous())
        if not torch.equal(product[0], product[1]):
            return True
    return False


@pytest.mark.parametrize("lanes", [2, 3, 8])
def test_copies_are_equal_bit_for_bit_wherever_they_lie(built, dataset, lanes):
    if built.model.name == "mlp" and rounds_by_place():
        pytest.skip("torch's batched product rounds by the place of a lane on this processor")
    start, others = twins(built, dataset, lanes)
    for place in {1, lanes // 2, lanes - 1}:
        states = [start, *others[1:]]
        states[place] = {k: v.clone() for k, v in start.items()}
        found = lockstep.advance(built, dataset, "constant", states, 0, (STEPS, 9))
        for step in (STEPS, 9):
            assert same(found[place][step], found[0][step])
            assert [same(lane[step], found[0][step]) for lane in found].count(True) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lanes_are_the_runs_one_after_another_to_rounding(built, dataset, monkeypatch, dtype):
    """Rounding of a step moves a state about as far as a move of each weight by one float does.

    Such moves at each of the steps, by each of a few dozen operations of a step, are allowed for.
    """
    build = models.build
    monkeypatch.setattr(models, "build", lambda *a: build(*a).to(dtype))
    parts = (dataset.x_train.to(dtype), dataset.y_train, dataset.x_test.to(dtype), dataset.y_test)
    samples = data.Dataset(*parts, dataset.classes, dataset.flipped)
    start, others = twins(built, samples, 2, step=3)
    states, end = [start, *others], 3 + STEPS
    together = lockstep.advance(built, samples, "schedule", states, 3, (end,))
    moved = config.build(built.model_dump(mode="json"), ["chaos.kind=ulp"])
    for state, lane in zip(states, together, strict=True):
        alone = train.advance(built, samples, "schedule", state, 3, (end,))[end]
        ulp = perturb(moved, samples, state, 3, 1)
        reach = apart(train.advance(built, samples, "schedule", ulp, 3, (end,))[end], alone)
        assert 0 < reach < 1e3 * torch.finfo(dtype).eps
        assert apart(lane[end], alone) <= 30 * STEPS * reach
        assert lane[end]["model." + names(built, samples)[0]].dtype == dtype
    assert apart(together[1][end], together[2][end]) > 1e-5


def names(c, samples):
    return [n for n, _ in models.build(c, samples.x_train[0], samples.classes).named_parameters()]


def test_in_pieces_or_at_once_is_the_same(built, dataset):
    """Also where the rate drops, at step 12, and where an epoch ends with a short batch."""
    start, others = twins(built, dataset, 2)
    states, at = [start, *others], 0
    straight = lockstep.advance(built, dataset, "schedule", states, 0, (0, 20))
    assert all(same(lane[0], state) for lane, state in zip(straight, states, strict=True))
    for stop in (1, 3, 12, 13, 20):
        states = [
            s[stop] for s in lockstep.advance(built, dataset, "schedule", states, at, (stop,))
        ]
        at = stop
    assert all(same(state, lane[20]) for state, lane in zip(states, straight, strict=True))
    constant = lockstep.advance(built, dataset, "constant", [start], 0, (12, 20))[0]
    assert not same(constant[20], straight[0][20])


def test_states_that_are_given_are_left_alone(tiny, dataset):
    start, others = twins(tiny, dataset, 1, step=2)
    before = {k: v.clone() for k, v in start.items()}
    lockstep.advance(tiny, dataset, "constant", [start, *others], 2, (4,))
    assert same(start, before)


def test_one_lane_that_diverges_is_said(tiny, dataset):
    start, (other,) = twins(tiny, dataset, 1)
    other = other | {"model.fc.weight": other["model.fc.weight"] * math.inf}
    with pytest.raises(DivergedError, match=r"the loss is nan at step 0 with rate 0\.1"):
        lockstep.advance(tiny, dataset, "constant", [start, other], 0, (2,))


@pytest.fixture(scope="module")
def together(values, tmp_path_factory, perform, finished):
    """The tiny run with its twins in lockstep, from the checkpoints of the finished one."""
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "lockstep", on(values))
    copy(finished, run, "checkpoints/*/*", "tables/train.csv")
    threads = torch.get_num_threads()
    perform(run, "chaos")
    torch.set_num_threads(threads)
    return run


def on(values):
    return config.build(values, ["chaos.lockstep=on", "chaos.draws=2"])


def copy(source, run, *patterns):
    for path in (p for pattern in patterns for p in source.path.glob(pattern)):
        target = run.path / path.relative_to(source.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def test_controls_are_exactly_zero_in_every_measure(together):
    rows = [r for r in together.load_table("chaos") if r["kind"] == "control"]
    assert {r["t0"] for r in rows} == {"0", "6", "16"}
    measures = set(chaos.comparison.COLUMNS) - {"independent_disagreement"}
    assert {float(r[k] or 0) for r in rows for k in measures} == {0.0}


def test_tables_are_those_of_processes_to_rounding(together, finished):
    """A perturbation of 1e-3 is far above rounding, and 20 steps are few."""
    for name in chaos.TABLES:
        ours, theirs = (run.load_table(name) for run in (together, finished))
        key = [
            k for k in ("arm", "t0", "t1", "draw", "kind", "step", "layer", "alpha") if k in ours[0]
        ]
        found = {tuple(r[k] for k in key): r for r in ours if r["draw"] != "2"}
        assert list(found) == [tuple(r[k] for k in key) for r in theirs]
        assert len(ours) == len(theirs) * 3 / 2
    pairs = {(r["arm"], r["t0"], r["t1"], r["draw"]): r for r in together.load_table("chaos")}
    for row in finished.load_table("chaos"):
        own = pairs[row["arm"], row["t0"], row["t1"], row["draw"]]
        assert float(own["l2"]) == pytest.approx(float(row["l2"]), rel=1e-3)
        assert own["realised_l2"] == row["realised_l2"]


def test_numbers_are_the_distance_of_two_lanes(together, dataset):
    c, t0 = together.config, 6
    start = together.load_state(together.checkpoint("schedule", t0))
    states = [start, *(perturb(c, dataset, start, t0, d) for d in range(3))]
    main, _, one, _ = lockstep.advance(c, dataset, "schedule", states, t0, (12,))
    main, _, one, _ = lockstep.advance(
        c, dataset, "constant", [s[12] for s in (main, main, one, one)], 12, (20,)
    )
    trained = [f"model.{n}" for n in names(c, dataset)]
    u, v = (torch.cat([s[20][n].double().flatten() for n in trained]) for s in (main, one))
    rows = together.load_table("chaos")
    key = {"arm": "constant", "t0": "6", "t1": "20", "draw": "1"}
    (row,) = [r for r in rows if key.items() <= r.items()]
    assert float(row["l2"]) == pytest.approx((u - v).norm().item(), rel=1e-12)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_job_a_start_and_lost_files_come_back_the_same(
    values, together, tmp_path, perform, workers
):
    run = RunDir.create(tmp_path / "run", on(values))
    copy(together, run, "checkpoints/*/*", "tables/*", "chaos/*")
    lost = [run.twin(0, 1), run.twin(16, 0), run.twin(16, 2)]
    for path in (*lost, run.table("chaos")):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in run.path.glob("chaos/*")}
    bar = perform(run, "chaos", workers=workers)
    assert bar.totals["chaos"] == bar.counts["chaos"] == len(chaos.jobs(run.config)) == 3
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    for path in (*lost, run.table("chaos")):
        assert path.read_bytes() == (together.path / path.relative_to(run.path)).read_bytes()


def test_who_is_in_lockstep(values):
    def choice(*sets):
        return config.build(values, sets).in_lockstep

    assert [choice(f"chaos.lockstep={k}") for k in ("off", "auto", "on")] == [False, False, True]
    assert choice("chaos.lockstep=auto", "device=cuda")
    assert not choice("chaos.lockstep=auto", "device=cuda", "chaos.noise=fresh")
    with pytest.raises(UserError, match=r"chaos.lockstep: 'on' trains .*; use chaos.lockstep=off"):
        choice("chaos.lockstep=on", "chaos.noise=fresh")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_cuda_is_one_line(values, tmp_path, perform, workers):
    run = RunDir.create(tmp_path / "run", config.build(values, ["device=cuda"]))
    with pytest.raises(
        UserError, match=r"device='cuda': torch .* sees no CUDA device; use device=cpu"
    ):
        perform(run, "train", workers=workers)
    assert not run.checkpoint("schedule", 0).exists()


def test_environment_names_the_device(together):
    found = json.loads((together.path / "environment.json").read_text())
    assert found["machine"]["device"] == "cpu"
