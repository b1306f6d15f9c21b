"""Which process computes which tiles of a kernel: a fixed plan, without a word between them."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache

from entk.plan import Plan

SLACK = 1.1  # tiles move from a process that has more than this times its share

Tiles = list[tuple[int, int]]


def assign(plan: Plan, ranks: int, done: Collection[tuple[int, int]] = ()) -> list[Tiles]:
    """The tiles that each of `ranks` processes computes, of those that are not `done`.

    Blocks of samples go round `ranks` groups. A kernel of x: rank r holds the groups r + d (mod
    ranks) for the d of `difference_cover`, so each pair of groups meets on some rank, in equal
    numbers, and a rank captures about sqrt(2 / ranks) of the blocks or less. A kernel between x
    and z: a grid of ranks over rows and columns. A rank that is left with more than its share, as
    after an interruption, gives its last tiles to those with less.

    Source: Kleinheksel and Somani 2016 (arXiv 1608.05174), cyclic quorums for all pairs.
    """
    home = _triangle(ranks) if plan.symmetric else _grid(plan.blocks, ranks)
    owned: list[Tiles] = [[] for _ in range(ranks)]
    for tile in plan.tiles():
        if tile not in done:
            owned[home(*tile)].append(tile)
    limit = math.ceil(SLACK * sum(map(len, owned)) / ranks)
    surplus = [tile for tiles in owned for tile in tiles[limit:]]
    for tiles in owned:
        del tiles[limit:]
        room = limit - len(tiles)
        tiles += surplus[:room]
        del surplus[:room]
    return owned


def captured(plan: Plan, tiles: Tiles) -> int:
    """Blocks that pass through the model for these tiles, if their features can be kept."""
    rows, columns = {i for i, _ in tiles}, {j for _, j in tiles}
    return len(rows | columns) if plan.symmetric else len(rows) + len(columns)


@lru_cache
def difference_cover(n: int) -> tuple[int, ...]:
    """A few numbers whose differences, either way round, are all numbers mod n.

    Each next one is that which adds most; 4 for n = 8 or 13, 11 for 64, 31 for 512.

    >>> difference_cover(7)
    (0, 1, 3)
    """
    held, missing = [0], set(range(1, n // 2 + 1))

    def adds(candidate: int) -> set[int]:
        return {min((candidate - h) % n, (h - candidate) % n) for h in held} & missing

    while missing:
        best = max((c for c in range(n) if c not in held), key=lambda c: (len(adds(c)), -c))
        missing -= adds(best)
        held.append(best)
    return tuple(held)


def _triangle(ranks: int):
    cover = difference_cover(ranks)
    first = {(b - a) % ranks: a for a in cover for b in cover}  # of two that are so far apart

    def home(i: int, j: int) -> int:
        apart = 2 * ((j - i) % ranks)
        opposite = apart == ranks and (i // ranks + j // ranks) % 2  # either way: in turn
        if apart > ranks or opposite:
            i, j = j, i
        return (i - first[(j - i) % ranks]) % ranks

    return home


def _grid(blocks: tuple[int, int], ranks: int):
    """The grid with the fewest blocks to capture on a rank."""
    sides = [(p, ranks // p) for p in range(1, ranks + 1) if ranks % p == 0]
    p, q = min(sides, key=lambda s: math.ceil(blocks[0] / s[0]) + math.ceil(blocks[1] / s[1]))
    return lambda i, j: (i % p) * q + j % q
