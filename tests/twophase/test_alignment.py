import copy
from itertools import permutations

import numpy as np
import pytest
import torch

from twophase import alignment, config, metrics, models, train
from twophase.errors import UserError

NETWORKS = {
    "mlp": {"name": "mlp", "widths": [12, 9]},
    "thin-resnet": {"name": "thin-resnet", "widths": [4, 6], "blocks": 2},
    "resnet20": {"name": "resnet20"},
    "vgg16": {"name": "vgg16"},
    "vgg16-dropout": {"name": "vgg16-dropout"},
}
SIZES = {"vgg16": 16, "vgg16-dropout": 16}


def network(name):
    """A network whose statistics and norm layers tell its units apart."""
    c = config.build({"model": NETWORKS[name]})
    size = SIZES.get(name, 8)
    model = models.build(c, torch.zeros(3, size, size), 4).eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        assert value.is_floating_point() or key.endswith("num_batches_tracked")
    return model, torch.randn(3, 3, size, size, generator=generator)


def shuffled(model):
    """Its state with all units renamed at random."""
    generator = torch.Generator().manual_seed(2)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for part in alignment.groups(model):
        order = torch.randperm(state[part[0][0]].shape[part[0][1]], generator=generator)
        for name, axis in part:
            state[name] = state[name].index_select(axis, order)
    return state


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "vgg16-dropout"])  # minutes
def test_renamed_network_is_the_same_function_and_is_named_back(name):
    model, x = network(name)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    other = shuffled(model)
    assert any(not torch.equal(state[k], other[k]) for k in state)
    with torch.no_grad():
        before = model(x)
        model.load_state_dict(other)
        after = model(x)
    assert (after - before).norm() < 1e-5 * before.norm()
    found, moved = alignment.match_weights(model, state, other, torch.Generator().manual_seed(0))
    assert all(torch.equal(found[k], state[k]) for k in state)
    assert moved > 0.5
    same, none = alignment.match_weights(model, state, state, torch.Generator().manual_seed(0))
    assert none == 0
    assert all(torch.equal(same[k], state[k]) for k in state)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_hidden_unit_belongs_to_one_group(name):
    """Each axis of a parameter is in one group, but for what sees pixels or gives logits."""
    model, _ = network(name)
    axes = [m for part in alignment.groups(model) for m in part]
    assert len(set(axes)) == len(axes)
    free = set()
    for key, value in model.state_dict().items():
        missing = {(key, axis) for axis in range(min(value.dim(), 2))} - set(axes)
        free |= missing
    first, *_, last = (k for k, v in model.state_dict().items() if v.dim() > 1)
    assert free == {(first, 1), (last, 0), (last.replace("weight", "bias"), 0)}


def test_barrier_of_renamed_units_goes_away(tiny, dataset):
    """A trained network and itself under other names: a barrier that the names alone make."""
    state = train.advance(tiny, dataset, "constant", train.initial(tiny, dataset), 0, (20,))[20]
    model = train.evaluated(tiny, dataset, state)
    one, two = train.weights(state), shuffled(train.network(tiny, dataset, state))
    c = config.build({"chaos": {"alphas": 5}})

    def height(other):
        line = metrics.straight_line(model, one, other, dataset, c)
        return metrics.barrier(line.alphas, [s.loss for s in line.train], "linear")

    renamed, _ = alignment.match_weights(model, one, two, torch.Generator().manual_seed(0))
    assert height(two) > 0.05
    assert height(renamed) == 0


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "vgg16-dropout"])
def test_activations_name_back_as_well(name):
    model, _ = network(name)
    size = SIZES.get(name, 8)
    x = torch.randn(40, 3, size, size, generator=torch.Generator().manual_seed(3))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    renamed = copy.deepcopy(model)
    renamed.load_state_dict(shuffled(model))
    found, moved = alignment.match_activations(model, renamed, shuffled(model), x)
    assert all(torch.equal(found[k], state[k]) for k in state)
    assert moved > 0.5


def test_activations_match_what_a_loop_over_units_matches():
    """Two independent networks of one hidden layer; all 24 orders of its units are tried."""
    c = config.build({"model": {"name": "mlp", "widths": [4]}})
    nets = []
    for seed in (0, 1):
        c = c.model_copy(update={"seed": seed})
        nets.append(models.build(c, torch.zeros(6), 3).eval())
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    hidden = [(x @ n.layers[1].weight.T + n.layers[1].bias).detach().double().numpy() for n in nets]
    like = np.corrcoef(hidden[0].T, hidden[1].T)[:4, 4:]
    best = max(permutations(range(4)), key=lambda p: sum(like[i, p[i]] for i in range(4)))
    state = nets[1].state_dict()
    found, _ = alignment.match_activations(*nets, state, x)
    assert torch.equal(found["layers.1.weight"], state["layers.1.weight"][list(best)])
    assert torch.equal(found["layers.3.weight"], state["layers.3.weight"][:, list(best)])


def test_matching_never_moves_the_weights_apart():
    """Two independent networks; the result may be a local optimum, never worse than the names."""
    one, _ = network("thin-resnet")
    c = config.build({"model": NETWORKS["thin-resnet"], "seed": 5})
    two = models.build(c, torch.zeros(3, 8, 8), 4)
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in (one, two)]
    found, moved = alignment.match_weights(one, *states, torch.Generator().manual_seed(0))

    def apart(other):
        return sum((states[0][n] - other[n]).square().sum() for n, _ in one.named_parameters())

    assert moved > 0
    assert apart(found) < apart(states[1])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            models.build(config.build({"model": {"shortcut": "pad"}}), torch.zeros(3, 8, 8), 4),
            "shortcuts that pad channels tie units",
        ),
        (torch.nn.Linear(3, 4), "does not for Linear; use chaos.align=none"),
    ],
)
def test_networks_whose_units_have_places_are_refused(model, said):
    with pytest.raises(UserError, match=said):
        alignment.groups(model)
