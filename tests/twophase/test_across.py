import itertools
import random

import pytest
from scipy import stats

from twophase import across


def group(rate, seed_free, half, low=None, high=None):
    interval = None if low is None else {"low": low, "high": high}
    fall = {"half": half, "interval": interval, "t0": [0, 100]}
    return {"values": {"training.rate": rate, "model.blocks": seed_free}, "measures": {"C": fall}}


@pytest.mark.parametrize("n", [5, 7, 12])
def test_spearman_is_scipys_with_ties(n):
    generator = random.Random(n)
    x = [generator.randrange(6) for _ in range(n)]
    y = [generator.randrange(6) for _ in range(n)]
    assert across.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_p_is_the_share_of_all_orders():
    x, y = [1, 2, 3, 5, 4], [2, 1, 4, 3, 3]
    reached = abs(stats.spearmanr(x, y).statistic)
    orders = list(itertools.permutations(y))
    count = sum(abs(stats.spearmanr(x, o).statistic) >= reached - 1e-9 for o in orders)
    assert across.permutation_p(x, y) == count / len(orders)


def test_p_of_perfect_order_is_two_orders_of_all():
    assert across.permutation_p([1, 2, 3, 4, 5], [9, 7, 5, 3, 1]) == 2 / 120


def test_p_of_many_points_is_near_that_of_the_t_distribution():
    generator = random.Random(2)
    x = [generator.random() for _ in range(30)]
    y = [v + generator.random() * 2 for v in x]
    expected = stats.spearmanr(x, y).pvalue
    assert 0.01 < expected < 0.5
    assert across.permutation_p(x, y) == pytest.approx(expected, rel=0.25)


def test_nothing_goes_with_what_does_not_vary():
    assert across.spearman([1, 1, 1], [1, 2, 3]) is None


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        ([group(0.3, 1, 20, 10, 30), group(0.1, 1, 80, 60, 90)], "earlier"),
        ([group(0.1, 1, 20, 10, 30), group(0.3, 1, 80, 60, None)], "later"),
        ([group(0.1, 1, 20, 10, 70), group(0.3, 1, 80, 60, 90)], "not told apart"),
        ([group(0.1, 1, 20, 10, None), group(0.3, 1, 80, 60, 90)], "not told apart"),
        ([group(0.1, 1, 20), group(0.3, 1, 80)], "later, without an interval"),
        ([group(0.1, 1, 20), group(0.3, 1, None)], "not comparable"),
        ([group(0.1, 1, 20), group(0.3, 2, 80)], "not comparable"),
        ([group(0.1, 1, 20)], "not told apart"),
        (
            [group(r, b, h, h, h) for r, b, h in ((1, 1, 5), (2, 1, 9), (1, 2, 5), (2, 2, 3))],
            "not told apart",
        ),
        (
            [group(r, b, h, h, h) for r, b, h in ((1, 1, 5), (2, 1, 9), (1, 2, 50), (2, 2, 70))],
            "later",
        ),
    ],
)
def test_a_shift_needs_intervals_apart_and_one_direction(groups, word):
    assert across.shift(groups, "training.rate", "C")["word"] == word


def test_numbers_are_in_order_and_names_as_they_come():
    assert across.ordered([3, 1.5, 3, 2]) == [1.5, 2, 3]
    assert across.ordered(["b", "a", "b"]) == ["b", "a"]
    assert across.ordered([[8], [4]]) == [[8], [4]]


def test_short_names_stay_unambiguous():
    assert across.short(["training.rate", "seed"]) == {"training.rate": "rate", "seed": "seed"}
    assert set(across.short(["kernels.steps", "training.steps"]).values()) == {
        "kernels.steps",
        "training.steps",
    }
