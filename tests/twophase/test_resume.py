"""Stopped at any step and gone on with, training has the same bits; a part left out is noticed.

`python -m pytest tests/twophase/test_resume.py -k stopped_at` counts the points: steps x networks.
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from twophase import config, data, seeds, train
from twophase.config import Config
from twophase.rundir import RunDir

STEPS = 22  # stopped at every one: 21 points, checkpoints and between
VIT = ("model.name=vit", "model.widths=[4]", "model.heads=2", "model.blocks=1", "model.patch=4")
GPT = (*VIT[1:4], "model.name=gpt", "data.source=text", "data.augment=none", "data.context=8")
FORMS = {
    "thin-resnet": ("model.widths=[2,3]",),  # batch norm; images shifted
    "crops": ("model.widths=[2]", "data.augment=crop-flip"),
    "mlp": ("model.name=mlp", "model.widths=[5]"),
    "dropout": (),  # a network of the caller's own, with batch norm as well
    "vit": VIT,
    "gpt": (*GPT, "data.train=40", "data.test=20", "linear.regression=0"),
}


def with_dropout() -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 4))
    return nn.Sequential(nn.Flatten(), *layers)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def through_a_file(state: dict, run: RunDir, step: int) -> dict:
    path = run.halfway("schedule", step)
    run.save_state(path, state, arm="schedule", step=step)
    return run.load_state(path)


@pytest.fixture(scope="module", params=FORMS)
def form(request, values, tmp_path_factory):
    """(run, data, {step: state} of training straight through)."""
    sets = [f"training.steps={STEPS}", *FORMS[request.param]]
    built = config.build(values, sets)
    samples = data.load(built)
    if request.param == "dropout":
        samples = replace(samples, build=with_dropout)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = train.initial(built, samples)
    states = train.advance(built, samples, "schedule", start, 0, tuple(range(STEPS + 1)))
    torch.set_num_threads(threads)
    return RunDir.create(tmp_path_factory.mktemp("resume") / "run", built), samples, states


def end(built: Config, samples, state: dict, at: int) -> dict:
    return train.advance(built, samples, "schedule", state, at, (STEPS,))[STEPS]


@pytest.mark.parametrize("step", range(1, STEPS))
def test_stopped_at_any_step_it_ends_the_same(form, step):
    run, samples, states = form
    torch.manual_seed(step)  # nothing hangs on what torch drew before
    state = through_a_file(states[step], run, step)
    assert same(state, states[step])
    assert same(end(run.config, samples, state, step), states[STEPS])


PARTS = ("momentum", "parameter", "buffer", "seed", "step", "augment", "masks")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_state_that_is_off_is_noticed(form, part, monkeypatch):
    run, samples, states = form
    state, step, built = deepcopy(states[9]), 9, run.config
    if part == "momentum":
        state = {k: v for k, v in state.items() if not k.startswith("momentum.")}
    elif part == "parameter":
        first = next(iter(state))
        state[first] = torch.nextafter(state[first], torch.tensor(9.0))  # its entries, by a bit
    elif part == "buffer":
        names = [k for k in state if k.endswith("running_var")]
        if not names:
            pytest.skip("a network without batch norm has no buffers")
        state[names[0]][0] *= 2
    elif part == "masks":  # the generator of dropout, which the seed and the step give
        if samples.build is None:
            pytest.skip("a network without dropout draws no masks")
        number = seeds.number
        off = lambda seed, use, *at: number(seed + (use == "dropout"), use, *at)  # noqa: E731
        monkeypatch.setattr(seeds, "number", off)
    elif part == "seed":
        built = built.model_copy(update={"seed": 1})
    elif part == "step":
        step = 8
    else:
        if built.data.augment == "none":
            pytest.skip("samples that are not augmented")
        built = built.model_copy(update={"data": built.data.model_copy(update={"augment": "none"})})
    assert not same(end(built, samples, state, step), states[STEPS])
