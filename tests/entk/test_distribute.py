"""Who computes which tiles: each once, in equal shares, few blocks to capture; what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import entk
from benchmarks.scaling import Costs, expected, larger, limits
from entk.distribute import SLACK, assign, captured, difference_cover
from entk.plan import Plan


def plan(n: int, m: int | None = None) -> Plan:
    """Of n blocks, or n by m."""
    model, x = torch.nn.Linear(2, 1), torch.randn(2, 2)
    made = entk.plan_ntk(model, x, x if m else None, block=1, memory="1GB", rates="nominal")
    return replace(made, samples=(n, m or n), shape=(n, 1, m or n, 1))


@pytest.mark.parametrize("done", [0, 0.4])
@pytest.mark.parametrize("m", [None, 7])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8, 13, 40])
def test_each_missing_tile_has_one_rank_and_no_rank_too_many(ranks, m, done):
    made = plan(21, m)
    every = list(made.tiles())
    before = set(every[: int(done * len(every))])
    shares = assign(made, ranks, before)
    assert len(shares) == ranks
    assert sorted(t for share in shares for t in share) == sorted(set(every) - before)
    assert max(map(len, shares)) <= SLACK * (len(every) - len(before)) / ranks + 1
    assert assign(made, ranks, sorted(before)) == shares


@pytest.mark.parametrize("n", range(1, 80))
def test_differences_cover_all_numbers(n):
    cover = difference_cover(n)
    assert {(a - b) % n for a in cover for b in cover} == set(range(n))
    assert len(cover) <= 1.5 * n**0.5 + 1


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 13])
def test_a_rank_captures_the_blocks_of_its_groups(ranks):
    made = plan(ranks * 6)
    shares = assign(made, ranks)
    assert {captured(made, share) for share in shares} == {6 * len(difference_cover(ranks))}
    counts = [len(share) for share in shares]
    assert max(counts) - min(counts) <= 6 * 6 / 2  # an opposite pair of groups, in turn


def test_a_grid_between_two_sets_of_samples():
    shares = assign(plan(12, 6), 6)
    assert [captured(plan(12, 6), s) for s in shares] == [4 + 3] * 6


def test_the_model_of_scaling_by_hand():
    costs = Costs(start=3.0, capture=2.0, tile=0.5, join=1.0)
    assert expected(costs, plan(6), 1) == 3 + 2 * 6 + 0.5 * 21 + 1
    # three ranks: two of three groups of two blocks each; a diagonal group and one pair of groups
    assert expected(costs, plan(6), 3) == 3 + 2 * 4 + 0.5 * 7 + 1
    assert limits(costs, 600, 3)["captures"] == 2 * 600 * 2 / 3
    assert limits(costs, 600, 3)["products"] == 0.5 * 600 * 601 / 2 / 3
    assert larger(costs, 10, 7.0) == replace(costs, capture=20.0, tile=50.0, join=7.0)
