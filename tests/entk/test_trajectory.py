"""Distances over a trajectory: those of the kernels themselves, each pass done once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(36, 3)
        self.seen: list[int] = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


@pytest.fixture
def model():
    return Net().double().eval()


@pytest.fixture
def states(model):
    """Five that move apart, and one a 1e-9th from the last."""
    found = [{k: v.clone() for k, v in model.state_dict().items()}]
    for size in (1e-3, 0.1, 0.5, 1.0, 1e-9):
        found.append({k: moved(v, size) for k, v in found[-1].items()})
    return found


def moved(v, size):
    return v * torch.exp(size * torch.randn_like(v)) if v.is_floating_point() else v


def samples(n: int) -> torch.Tensor:
    return torch.randn(n, 1, 5, 5, dtype=torch.float64)


def kernels(model, states, x, z=None, **options):
    found = []
    for state in states:
        model.load_state_dict(state)
        found.append(entk.ntk(model, x, z, **options))
    return found


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("rectangular", [False, True])
@pytest.mark.parametrize("block", [None, 3])
def test_the_distances_of_the_kernels(model, states, outputs, rectangular, block):
    x, z = samples(7), samples(4) if rectangular else None
    found = entk.trajectory_distances(model, states, x, z, outputs=outputs, block=block)
    expected = entk.kernel_distance_matrix(kernels(model, states, x, z, outputs=outputs))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-20)
    assert torch.equal(found, found.T)
    assert 0 < found[4, 5] < 1e-15  # close pairs keep their digits
    assert found[0, 3] > 1e-4


def test_a_subset_of_the_parameters(model, states):
    x, options = samples(5), {"params": ["conv.weight"], "outputs": "trace"}
    found = entk.trajectory_distances(model, states, x, **options)
    expected = entk.kernel_distance_matrix(kernels(model, states, x, **options))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-20)


def test_each_block_goes_through_the_model_once_a_state(model, states, monkeypatch):
    seen = []
    monkeypatch.setattr(Net, "forward", watched(Net.forward, seen))
    x = samples(12)
    entk.plan_ntk(model, x)
    survey = len(seen)
    seen.clear()
    entk.trajectory_distances(model, states, x, block=4)
    assert seen[survey:] == [4, 4, 4] * len(states)


def watched(forward, seen):
    def call(self, x):
        seen.append(len(x))
        return forward(self, x)

    return call


def test_the_model_is_left_alone_and_states_may_be_loaded_late(model, states):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    asked = []

    class Files:
        def __len__(self):
            return len(states)

        def __getitem__(self, s):
            asked.append(s)
            return states[s]

    entk.trajectory_distances(model, Files(), samples(3))
    assert asked == list(range(len(states)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_scratch_space_is_used_and_given_back(model, states, tmp_path):
    with pytest.raises(entk.InputError, match="does not exist; create it first"):
        entk.trajectory_distances(model, states, samples(3), scratch=tmp_path / "none")
    entk.trajectory_distances(model, states, samples(3), scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_states(model, states):
    told = []
    entk.trajectory_distances(
        model, states, samples(3), progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (6, 6)


def test_one_clear_error(model, states):
    x = samples(3)
    with pytest.raises(entk.InputError, match="states is empty"):
        entk.trajectory_distances(model, [], x)
    with pytest.raises(entk.InputError, match=r"(?s)state 1 does not fit the model: .*head\.bias"):
        entk.trajectory_distances(model, [states[0], {"head.weight": states[0]["head.weight"]}], x)
    with pytest.raises(entk.InputError, match="state 1 does not fit"):
        entk.trajectory_distances(model, [states[0], "step-2.pt"], x)
    broken = {k: v * 0 for k, v in states[0].items()}
    with pytest.raises(entk.UndefinedDistanceError, match="state 1's kernel is zero"):
        entk.trajectory_distances(
            model, [states[0], broken], x, params=["conv.weight", "norm.weight"]
        )
