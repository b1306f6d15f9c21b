import math
from copy import deepcopy

import pytest
import torch
from torch import nn

import entk
from twophase import predictions

A = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 9.0]])
B = torch.tensor([[9.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


def test_disagreement_counts_predicted_classes():
    assert predictions.disagreement(A, B) == 0.5


def test_independent_errors_disagree_as_often_as_drawn():
    """1e5 samples of two classifiers that err by coins of their own, uniformly over 5 classes."""
    generator = torch.Generator().manual_seed(0)
    n, classes = 100_000, 5
    y = torch.randint(classes, (n,), generator=generator)

    def noisy(rate):
        wrong = (y + torch.randint(1, classes, (n,), generator=generator)) % classes
        chosen = torch.rand(n, generator=generator) < rate
        return nn.functional.one_hot(torch.where(chosen, wrong, y), classes).float()

    a, b = noisy(0.3), noisy(0.1)
    expected = predictions.independent_disagreement(a, b, y)
    assert predictions.disagreement(a, b) == pytest.approx(expected, abs=5 * 0.5 / n**0.5)
    assert predictions.independent_disagreement(a, a, a.argmax(1)) == 0


def test_distances_of_predictions_by_hand():
    a, b = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, math.log(3)]])
    # softmax (3/4, 1/4) and (1/4, 3/4)
    assert predictions.divergence(a, b) == pytest.approx(0.5 * math.log(3), rel=1e-6)
    assert predictions.softmax_distance(a, b) == pytest.approx(0.5 * 2**0.5, rel=1e-6)
    assert predictions.prediction_distance(a, b) == pytest.approx(1, rel=1e-6)
    assert predictions.prediction_distance(a, 5 * a) == pytest.approx(0, abs=1e-15)
    for f in (predictions.divergence, predictions.softmax_distance):
        assert f(a, b) == pytest.approx(f(b, a))
        assert f(a, a + 7) == pytest.approx(0, abs=1e-6)  # float32 rounds a + 7


def test_distances_keep_the_digits_of_small_differences():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(50, 10, generator=generator, dtype=torch.float64)
    step = torch.randn(50, 10, generator=generator, dtype=torch.float64)
    for f, order in (
        (predictions.divergence, 2),
        (predictions.softmax_distance, 1),
        (predictions.prediction_distance, 2),
    ):
        small, tiny = f(a, a + 1e-5 * step), f(a, a + 1e-6 * step)
        assert small / tiny == pytest.approx(10**order, rel=1e-3)


def test_feature_distance_is_one_minus_cka(dataset):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4))
    two = deepcopy(one)
    with torch.no_grad():
        two[1].weight.add_(0.3 * torch.randn(5, 64))
    x = dataset.x_train
    found = predictions.feature_distances(one, two, x)
    assert list(found) == ["1", "3"]
    with torch.no_grad():
        f, g = (m[1](x.flatten(1)).double() for m in (one, two))
    assert found["1"] == pytest.approx(1 - entk.cka(f @ f.mT, g @ g.mT), abs=1e-12)
    assert found["1"] > 1e-3
    assert set(predictions.feature_distances(one, deepcopy(one), x).values()) == {0.0}


def test_features_are_blind_to_the_names_of_units(dataset):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4))
    two = deepcopy(one)
    order = torch.tensor([3, 0, 4, 1, 2])
    two[1].weight.data, two[1].bias.data = one[1].weight[order], one[1].bias[order]
    two[3].weight.data = one[3].weight[:, order]
    found = predictions.feature_distances(one, two, dataset.x_train)
    assert max(found.values()) < 1e-12


def test_a_layer_that_says_the_same_of_all_is_left_out(dataset):
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4))
    two = deepcopy(one)
    nn.init.zeros_(two[1].weight)
    assert list(predictions.feature_distances(one, two, dataset.x_train)) == []
    assert not one[1]._forward_hooks
