import math
from itertools import pairwise, permutations

import numpy as np
import pytest

from tests.twophase.test_geometry import distances, unit_vectors
from twophase import nulls
from twophase.geometry import mean_direction


@pytest.mark.parametrize("dimension", [2, 3, 30])
def test_walks_have_their_steps_and_the_closed_form_on_average(dimension):
    steps = np.array([0.3, 0.02, 0.1, 0.0, 0.2])
    s = nulls.walks(steps, dimension, 4000)
    assert np.diagonal(s, 1, 1, 2) == pytest.approx(np.tile(steps, (4000, 1)), abs=1e-9)
    reached = s[:, 0, -1]
    error = reached.std() / math.sqrt(len(reached))
    assert abs(reached.mean() - (1 - math.prod(1 - steps))) < 4 * error


def test_walks_scatter_less_in_more_dimensions():
    steps = np.full(10, 0.1)
    spread = [nulls.walks(steps, d)[:, 0, -1].std() for d in (4, 16, 64)]
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.2)
    assert spread[1] / spread[2] == pytest.approx(2, rel=0.2)


def test_a_long_walk_in_many_dimensions_has_the_dimension_5_2():
    # Antognini and Sohl-Dickstein 2018: explained shares of a walk are (6/π²) / k²
    s = nulls.walks(np.full(60, 1e-4), 2000, 20)
    assert np.mean([mean_direction(one).dimension for one in s]) == pytest.approx(2.5, rel=0.05)


def test_a_free_walk_is_not_confined_and_a_jitter_is():
    walk = nulls.free_walk(nulls.walks(np.full(12, 0.05), 200, 1)[0])
    assert walk.low < walk.value < walk.high
    assert walk.p > 0.05
    jitter = nulls.free_walk(distances(unit_vectors(12, 200, spread=0.3)))
    assert jitter.value < 0.3
    assert jitter.p == pytest.approx(1 / (1 + nulls.WALKS))


def test_reached_is_the_median_of_pairs_half_the_path_apart():
    s = distances(unit_vectors(5, 6))
    walked = lambda a, b: 1 - math.prod(1 - s[k, k + 1] for k in range(a, b))  # noqa: E731
    pairs = [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)]
    ratios = [s[a, b] / walked(a, b) for a, b in pairs]
    assert nulls.reached(s) == pytest.approx(np.median(ratios))
    assert nulls.reached(s[:2, :2]) is None
    assert nulls.free_walk(np.zeros((5, 5))) is None


def test_p_is_that_of_all_orders():
    s = distances(unit_vectors(6, 4, seed=2))
    times = [0, 1, 2, 4, 8, 16]
    found = nulls.shuffled(s, times)
    lags = np.abs(np.subtract.outer(times, times))
    pairs = np.triu_indices(6, 1)

    def correlation(order):
        return np.corrcoef(s[np.ix_(order, order)][pairs], lags[pairs])[0, 1]

    def neighbours(order):
        return np.mean([s[a, b] for a, b in pairwise(order)])

    own = list(range(6))
    orders = [list(o) for o in permutations(range(6))]
    assert found["order"].value == pytest.approx(correlation(own))
    assert found["neighbours"].value == pytest.approx(neighbours(own))
    exact = np.mean([correlation(o) >= correlation(own) - 1e-12 for o in orders])
    assert found["order"].p == pytest.approx(exact, abs=0.05)
    exact = np.mean([neighbours(o) <= neighbours(own) + 1e-12 for o in orders])
    assert found["neighbours"].p == pytest.approx(exact, abs=0.05)


def test_a_walk_has_an_order_and_a_jitter_has_none():
    times = list(range(0, 900, 100))
    walk = nulls.shuffled(nulls.walks(np.full(8, 0.1), 50, 1)[0], times)
    assert walk["order"].p < 0.01
    assert walk["neighbours"].p < 0.01
    p = [
        nulls.shuffled(distances(unit_vectors(9, 40, 0.5, seed)), times)["order"].p
        for seed in range(40)
    ]
    assert 2 <= sum(value <= 0.25 for value in p) <= 18  # about uniform: 10 expected


def test_too_few_directions_have_no_order():
    assert nulls.shuffled(distances(unit_vectors(4, 4)), [0, 1, 2, 3]) is None
    assert nulls.shuffled(1 - np.eye(6), list(range(6))) is None  # all pairs alike
