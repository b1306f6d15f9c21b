"""Networks of the caller's with what twophase's own do not have."""

import pytest
import torch
from torch import nn

import twophase
from twophase import cli
from twophase.errors import UserError

SETTINGS = ["kernels.probe=8", "chaos.t0=[0, 20]", "chaos.alphas=3"]
SAMPLES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


class Net(nn.Module):
    """With a mask, an empty buffer, and the address of a function in its text."""

    def __init__(self):
        super().__init__()
        self.one, self.bn, self.two = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)
        self.register_buffer("mask", torch.ones(7, dtype=torch.bool))
        self.register_buffer("empty", torch.empty(0))
        self.activation = lambda x: x.relu()

    def forward(self, x):
        return self.two(self.activation(self.bn(self.one(x)) * self.mask))

    def extra_repr(self):
        return f"activation={self.activation}"


@pytest.fixture
def study(tmp_path):
    """study(*settings): of three networks as they were made."""
    torch.manual_seed(0)
    recorder = twophase.Recorder(tmp_path / "checkpoints", (0, 20, 40))
    for step in recorder.steps:
        recorder(step, Net())

    def study(*settings):
        parts = {"train": SAMPLES, "test": SAMPLES, "settings": [*SETTINGS, *settings]}
        return twophase.Study(tmp_path / "mine", tmp_path / "checkpoints", Net, **parts)

    return study


def stay(state, start, stop):
    return state


def test_a_text_with_an_address_is_the_same_when_the_network_is_made_again(study):
    assert study().run.config == study().run.config


def test_the_command_line_knows_what_a_study_has_and_leaves_it_as_it_is(study, capsys):
    found = study()
    found.cone()
    found.twins(stay)
    before = {p: p.read_bytes() for p in found.run.path.rglob("*") if p.is_file()}
    cli.main(["status", str(found.run.path)])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line[0] in "│|"]
    shown = {line[1]: line[3] for line in lines}
    assert shown == dict.fromkeys(("train", "chaos", "kernels", "cone"), "yes") | {"report": "no"}
    with pytest.raises(SystemExit):
        cli.main(["report", str(found.run.path)])
    assert "trained elsewhere; use twophase.Study" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in found.run.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["gaussian", "gradient"])
def test_the_callers_generator_stays_where_it_was(study, kind):
    before = torch.get_rng_state()
    found = study(f"chaos.kind={kind}")
    assert torch.equal(torch.get_rng_state(), before)
    found.cone()
    assert torch.equal(torch.get_rng_state(), before)
    found.twins(stay)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"one.bias": torch.zeros(3)}, {"three": torch.zeros(3)}])
def test_a_state_of_another_network_from_advance_is_one_line(study, change):
    said = f"advance returned has another '{next(iter(change))}', or none, than the checkpoint"
    with pytest.raises(UserError, match=said):
        study().twins(lambda state, start, stop: {**state, "model": {**state["model"], **change}})


def test_a_device_that_is_not_there_is_one_line(study, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="sees no CUDA device; use device=cpu"):
        study("device=cuda")


def test_masks_and_empty_buffers_are_compared_too(study):
    found = study()
    found.twins(stay)
    assert len(found.run.load_table("chaos")) == 6
