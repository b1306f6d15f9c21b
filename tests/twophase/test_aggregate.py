import itertools
import random
from statistics import median

import numpy as np
import pytest

from tests.twophase import synthetic
from twophase import aggregate
from twophase.points import load
from twophase.turning import crossing


def exactly(draws):
    """Every equally likely outcome of the two-stage bootstrap of one place, by going over all.

    draws: a list of values per seed, the same number in each.
    """
    medians = [
        [median(pick) for pick in itertools.product(values, repeat=len(values))] for values in draws
    ]
    one = [m for per_seed in medians for m in per_seed]  # a seed taken, and its draws resampled
    return sorted(median(pick) for pick in itertools.product(one, repeat=len(draws)))


@pytest.mark.parametrize(
    "draws", [[[1.0, 2.0], [4.0, 9.0], [3.0, 3.5]], [[0.0], [1.0], [5.0], [7.0]], [[2.0, 3.0, 7.0]]]
)
def test_resamples_have_the_exact_distribution(draws):
    expected = exactly(draws)
    found = aggregate.resampled([[values] for values in draws], 20000)
    found = np.median(found, axis=1)[:, 0]
    assert set(np.round(found, 9)) <= set(np.round(expected, 9))
    for value in sorted(set(expected)):
        share = sum(e <= value + 1e-9 for e in expected) / len(expected)
        assert (found <= value + 1e-9).mean() == pytest.approx(share, abs=0.02)  # 5 deviations


def test_bands_of_two_seeds_are_their_range():
    found = aggregate.resampled([[[1.0], [5.0]], [[2.0], [3.0]]])
    assert aggregate.bands(np.median(found, axis=1)) == [[1.0, 2.0], [3.0, 5.0]]


def test_seeds_are_resampled_whole():
    """A resample takes all places of a seed or none: the places stay as dependent as they are."""
    found = aggregate.resampled([[[1.0], [10.0]], [[2.0], [20.0]]])
    assert np.array_equal(found[..., 1], 10 * found[..., 0])
    assert set(found[..., 0].ravel()) == {1.0, 2.0}


def test_draws_of_unequal_number_are_resampled_among_themselves():
    found = aggregate.resampled([[[1.0, 1.0, 1.0], [7.0]], [[1.0], [7.0, 7.0]]])
    assert np.array_equal(found, np.broadcast_to([1.0, 7.0], found.shape))
    found = aggregate.resampled([[[0.0, 10.0], [1.0, 2.0, 3.0]]], 4000)[:, 0, 0]
    assert set(found) == {0.0, 5.0, 10.0}  # of two draws, not three
    assert (found == 5).mean() == pytest.approx(0.5, abs=0.04)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    runs = [synthetic.build(folder / f"{s}", overrides=[f"seed={s}"]) for s in range(3)]
    return [load(run, run.path.name, {"seed": run.config.seed}) for run in runs]


def values(point, measure, t0):
    rows = point.tables["chaos"]
    wanted = {"arm": "constant", "t0": t0, "t1": 1600, "kind": "perturbed"}
    return [r[measure] for r in rows if all(r[k] == v for k, v in wanted.items())]


def test_a_measure_over_seeds_is_that_of_an_independent_loop(seeds):
    name, grid = "dissimilarity", list(synthetic.T0)
    found = aggregate.measure(seeds, name)
    lines = [[median(values(p, name, t)) for t in grid] for p in seeds]
    assert found["levels"] == [median(column) for column in zip(*lines, strict=True)]
    assert found["half"] == median(crossing(grid, line, line[0] / 2) for line in lines)
    assert found["words"] == {"falls": 3}
    generator, halves, levels = random.Random(5), [], []
    for _ in range(4000):
        picked = [generator.choice(seeds) for _ in seeds]
        line = [[median(generator.choices(values(p, name, t), k=2)) for t in grid] for p in picked]
        halves.append(median(crossing(grid, row, row[0] / 2) or 1e9 for row in line))
        levels.append(median(row[0] for row in line))
    for (low, high), loop in (
        ([found["interval"][k] for k in ("low", "high")], sorted(halves)),
        (found["bands"][0], sorted(levels)),
    ):
        assert loop[40] <= low <= loop[200]  # 1 % and 5 %, around 2.5 %
        assert loop[-200] <= high <= loop[-40]


def test_one_seed_has_no_interval_over_seeds(seeds):
    found = aggregate.measure(seeds[:1], "dissimilarity")
    fall = seeds[0].chaos["dissimilarity"]
    assert found["bands"] is None
    assert (found["half"], found["interval"]) == (fall["half"], fall["interval"])
    assert found["levels"] == fall["levels"]


def test_no_half_fall_point_where_most_seeds_do_not_fall(seeds, tmp_path):
    run = [synthetic.build(tmp_path / f"{s}", False, [f"seed={s}"]) for s in (7, 8)]
    flat = [load(r, r.path.name, {"seed": r.config.seed}) for r in run]
    found = aggregate.measure([seeds[0], *flat], "dissimilarity")
    assert (found["half"], found["interval"]) == (None, None)
    assert found["words"] == {"falls": 1, "not seen": 2}
    assert aggregate.measure([*seeds[:2], flat[0]], "dissimilarity")["half"] is not None


def test_turns_over_seeds(seeds):
    found = aggregate.turns(seeds)
    assert found["seeds"] == 3
    assert found["levels"] == found["each"][0]  # the synthetic kernels have no seed
    assert found["bands"] == [[v, v] for v in found["levels"]]
    assert aggregate.turns(seeds[:1])["bands"] is None


def test_groups_are_what_differs_by_seed_alone(seeds):
    points = [
        p.__class__(**{**p.__dict__, "values": {"training.rate": r, **p.values}, "state": state})
        for r, state in ((0.1, "finished"), (0.2, "unfinished"))
        for p in seeds[:2]
    ]
    found = aggregate.groups(points, ("dissimilarity",))
    assert [(g["values"], g["seeds"], g["finished"]) for g in found] == [
        ({"training.rate": 0.1}, 2, 2),
        ({"training.rate": 0.2}, 2, 0),
    ]
    assert found[1]["measures"] == {}
    assert found[1]["test_error"] is None
