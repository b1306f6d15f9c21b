import random
from copy import deepcopy

import pytest
import torch

from twophase import config, metrics, train
from twophase.errors import DivergedError
from twophase.rundir import RunDir


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def files(run):
    found = (run.path / "checkpoints").rglob("*")
    return {p.relative_to(run.path): p.read_bytes() for p in found if p.is_file()}


class Stop(Exception):
    """An interruption in the middle of a step's bookkeeping."""


def test_one_step_is_sgd_with_momentum_by_hand(tiny, dataset):
    """v = 0.9 v + (gradient + wd w), w = w - rate v; from torch's autograd, not its optimizer."""
    states = train.advance(tiny, dataset, "constant", train.initial(tiny, dataset), 0, (1, 2))
    t = tiny.training
    model = train.network(tiny, dataset, states[1]).train()
    rows = train.batch_indices(len(dataset.x_train), t.batch, tiny.seed, 1)
    x = train.augment(dataset.x_train[rows], tiny.data, tiny.seed, 1)
    torch.nn.functional.cross_entropy(model(x), dataset.y_train[rows]).backward()
    for name, p in model.named_parameters():
        old = states[1][f"momentum.{name}"]
        v = t.momentum * old + p.grad + t.weight_decay * p.detach()
        torch.testing.assert_close(states[2][f"momentum.{name}"], v)
        torch.testing.assert_close(states[2][f"model.{name}"], p.detach() - t.rate * v)


def test_in_pieces_or_at_once_is_the_same(tiny, dataset):
    start = train.initial(tiny, dataset)
    straight = train.advance(tiny, dataset, "schedule", start, 0, (20,))[20]
    state, at = start, 0
    for stop in (1, 2, 7, 12, 13, 20):
        state, at = train.advance(tiny, dataset, "schedule", state, at, (stop,))[stop], stop
    assert same(state, straight)


@pytest.mark.parametrize("lost", ["momentum", "statistics", "step"])
def test_a_state_with_a_part_missing_goes_elsewhere(tiny, dataset, lost):
    """The control of the test above: it would notice."""
    start = train.initial(tiny, dataset)
    states = train.advance(tiny, dataset, "constant", start, 0, (7, 20))
    broken, at = deepcopy(states[7]), 7
    if lost == "momentum":
        broken = {k: v for k, v in broken.items() if not k.startswith("momentum.")}
    elif lost == "statistics":
        broken["model.bn.running_mean"] += 1e-3
    else:
        at = 6
    end = train.advance(tiny, dataset, "constant", broken, at, (20 - 7 + at,))[20 - 7 + at]
    assert not same(end, states[20])


def test_advance_leaves_its_start_alone(tiny, dataset):
    start = train.initial(tiny, dataset)
    before = deepcopy(start)
    train.advance(tiny, dataset, "constant", start, 0, (3,))
    assert same(start, before)


def test_threads_outside_do_not_change_the_noise(tiny, dataset):
    start = train.initial(tiny, dataset)
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        ends.append(train.advance(tiny, dataset, "constant", start, 0, (3,))[3])
    assert same(*ends)


def test_dropout_masks_belong_to_the_step(dataset, values):
    built = config.build(values, ["model.name=mlp"])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(64, 4))
    models = [deepcopy(model) for _ in range(2)]
    for m in models:
        list(train.run_sgd(m, built, dataset, "constant", {}, 3, 6))
    assert torch.equal(models[0][2].weight, models[1][2].weight)
    masks = []
    for step in (3, 4, 3):  # what a network would draw in that step
        train.step_batch(built, dataset, step)
        masks.append(torch.rand(9))
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


def test_rate_of_the_step_is_the_schedules(tiny, dataset):
    state, seen = train.initial(tiny, dataset), {}
    model = train.network(tiny, dataset, state).train()
    for step, optimizer in train.run_sgd(model, tiny, dataset, "schedule", {}, 10, 14, 0.5):
        seen[step] = optimizer.param_groups[0]["lr"]
    assert seen == pytest.approx({11: 0.05, 12: 0.05, 13: 0.005, 14: 0.005})


def test_divergence_names_step_and_rate(dataset, values):
    built = config.build(values, ["training.rate=1e30"])
    with pytest.raises(DivergedError, match=r"at step \d+ with rate 1e\+30; lower training.rate"):
        train.advance(built, dataset, "constant", train.initial(built, dataset), 0, (20,))


def test_overflow_in_the_last_step_is_noticed(dataset, values):
    built = config.build(values, ["training.rate=1e38", "training.weight_decay=1e5"])
    with pytest.raises(DivergedError, match="weights overflowed by step 1"):
        train.advance(built, dataset, "constant", train.initial(built, dataset), 0, (1,))


@pytest.mark.parametrize("case", range(4))
def test_interrupted_stage_ends_with_the_same_bits(tiny, dataset, finished, tmp_path, case):
    """Stopped at random steps again and again, then left to finish."""
    run, chance = RunDir.create(tmp_path / "run", tiny), random.Random(case)
    interruptions = 0
    while True:
        left = chance.randint(3, 14)

        def tick(step, left=[left]):  # noqa: B006 - a counter of its own for each try
            left[0] -= 1
            if left[0] < 0:
                raise Stop

        try:
            train.stage(run, dataset, tick)
            break
        except Stop:
            interruptions += 1
    assert interruptions >= 2
    assert files(run) == files(finished)
    assert run.table("train").read_bytes() == finished.table("train").read_bytes()


def test_long_stretches_are_saved_halfway(values, dataset, tmp_path):
    sets = ["training.save_every=3", "chaos.t0=[0]", "chaos.t1=[]", "kernels.steps=[0]"]
    sets += ["cone.tau=[0]", "cone.lags=[]", "linear.switch=[]", "training.milestones=[]"]
    sets += ['arms=["schedule"]']
    built = config.build(values, sets)
    run, seen = RunDir.create(tmp_path / "run", built), []

    def tick(step):
        seen.append(step)
        if len(seen) == 11:
            raise Stop

    with pytest.raises(Stop):
        train.stage(run, dataset, tick)
    assert [p.name for p in sorted(files(run))] == [
        "halfway-000009.safetensors",
        "step-000000.safetensors",
    ]
    assert train.progress(run) == (9, 20)
    left = run.halfway("schedule", 9).read_bytes()
    train.stage(run, dataset, seen.append)
    assert seen == [*range(1, 12), *range(10, 21)]
    run.halfway("schedule", 9).write_bytes(left)  # killed just before it would have gone
    train.stage(run, dataset, seen.append)
    assert [p.name for p in sorted(files(run))] == [
        "step-000000.safetensors",
        "step-000020.safetensors",
    ]
    straight = train.advance(built, dataset, "schedule", train.initial(built, dataset), 0, (20,))
    assert same(run.load_state(run.checkpoint("schedule", 20)), straight[20])


def test_arms_are_one_up_to_the_drop_and_part_after_it(finished):
    run, states = finished, {}
    for step in run.config.checkpoints:
        pair = [run.load_state(run.checkpoint(arm, step)) for arm in run.config.arms]
        states[step] = same(*pair)
    assert states == {step: step <= 12 for step in run.config.checkpoints}


def test_train_table(finished, dataset):
    rows = finished.load_table("train")
    assert [tuple(rows[0])] == [train.COLUMNS]
    assert len(rows) == 2 * len(finished.config.checkpoints)
    row = next(r for r in rows if r["arm"] == "constant" and r["step"] == "20")
    state = finished.load_state(finished.checkpoint("constant", 20))
    model = train.evaluated(finished.config, dataset, state)
    loss = metrics.score(metrics.logits(model, dataset.x_test), dataset.y_test).loss
    assert float(row["test_loss"]) == loss
    assert float(row["epoch"]) == pytest.approx(20 * 16 / 40)
