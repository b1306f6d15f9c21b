"""The model of one kernel over several processes: seconds from the costs of one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from entk.distribute import assign, captured, difference_cover
from entk.plan import Plan


@dataclass(frozen=True)
class Costs:
    """Of one process with one thread."""

    start: float  # seconds before the first tile: the survey, hashes, the plan
    capture: float  # seconds of one block through the model
    tile: float  # seconds of the products of one tile
    join: float  # seconds to join all shards, which rank 0 does alone


def expected(costs: Costs, plan: Plan, ranks: int) -> float:
    """Seconds of the slowest rank, then the join.

    time(R) = start + max over ranks (capture * captured blocks + tile * tiles) + join. Nothing
    else of any size is said between ranks; what ranks on one machine take from one another is not
    in it.
    """
    work = [
        costs.capture * captured(plan, tiles) + costs.tile * len(tiles)
        for tiles in assign(plan, ranks)
    ]
    return costs.start + max(work) + costs.join


def limits(costs: Costs, blocks: int, ranks: int) -> dict[str, float]:
    """The parts of time(R) for a symmetric kernel of many more blocks than ranks, in seconds."""
    share = len(difference_cover(ranks)) / ranks
    return {
        "captures": costs.capture * blocks * share,
        "products": costs.tile * blocks * (blocks + 1) / 2 / ranks,
        "start": costs.start,
        "join": costs.join,
    }


def larger(costs: Costs, times: float, join: float) -> Costs:
    """Those of blocks with `times` as many samples, and of a kernel whose join takes so long."""
    block = {"capture": costs.capture * times, "tile": costs.tile * times**2}
    return replace(costs, join=join, **block)
