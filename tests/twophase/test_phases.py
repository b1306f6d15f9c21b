import math

import numpy
import pytest

from tests.twophase import synthetic
from twophase import config, phases, tables
from twophase.cone_findings import walked
from twophase.presets import PRESETS
from twophase.turning import bootstrap, change, crossing, slope_ratio, split


def test_crossing_is_linear_in_the_logarithm_of_the_grid():
    # s = 10: half way from log 2 to log 3, so 1 + t/s = sqrt(6)
    found = crossing([0, 10, 20], [1.0, 0.75, 0.25], 0.5)
    assert found == pytest.approx(10 * (math.sqrt(6) - 1))


@pytest.mark.parametrize(
    ("levels", "between"),
    [
        ((1.0, 0.4, 0.8, 0.3), (20, 40)),  # only the last way down counts
        ((1.0, 0.4, 0.4, 0.6), None),  # does not stay down
        ((1.0, 0.9, 0.8, 0.7), None),
        ((0.0, 0.0, 0.0, 0.0), None),
    ],
)
def test_crossing_is_for_good(levels, between):
    found = crossing([0, 10, 20, 40], list(levels), 0.5)
    assert found is None if between is None else between[0] < found < between[1]


def test_split_by_hand():
    i, r2 = split([5.0, 5.0, 1.0, 1.0, 1.0])
    assert (i, r2) == (2, 1.0)
    assert split([3.0, 3.0, 3.0]) == (1, 0.0)


def test_split_is_the_best_of_all_cuts():
    generator = numpy.random.default_rng(0)
    for scale, offset in ((1, 0), (1e-9, 1), (1e-12, 0), (1e4, -3)):
        for _ in range(50):
            n = int(generator.integers(2, 10))
            levels = scale * generator.normal(size=n) + offset
            cost = [levels[:k].var() * k + levels[k:].var() * (n - k) for k in range(1, n)]
            i, r2 = split(levels.tolist())
            assert i == 1 + int(numpy.argmin(cost))
            assert r2 == pytest.approx(1 - cost[i - 1] / (n * levels.var()), abs=1e-5)


def test_change_is_as_wide_as_the_draws_leave_open_and_never_narrower_than_the_grid():
    sure = change([0, 10, 20, 40], [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert sure == {"after": 10, "before": 20, "r2": 1.0, "low": 10, "high": 20}
    open_ = change([0, 10, 20, 40], [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert (open_["low"], open_["high"]) == (0, 20)
    single = change([0, 10, 20], [[1.0], [0.1], [0.0]])
    assert (single["low"], single["high"]) == (0, 10)


def test_the_two_methods_agree_where_their_intervals_meet():
    steep = {0: [1.0, 1.0], 10: [1.0, 1.0], 20: [0.0, 0.0], 40: [0.0, 0.0]}
    assert phases.fall("disagreement", steep, 0.0)["methods_agree"] is True
    # half of the level is lost after 160; the largest change lies before it
    slow = {0: [10.0] * 2, 10: [5.2] * 2, 20: [5.1] * 2, 160: [5.1] * 2, 320: [4.0] * 2}
    found = phases.fall("disagreement", slow, 0.0)
    assert found["half"] > found["change"]["high"]
    assert found["methods_agree"] is False
    flat = {0: [1.0, 1.0], 10: [1.0, 1.0], 20: [1.0, 1.0]}
    assert phases.fall("disagreement", flat, 0.0)["methods_agree"] is None


def test_bootstrap_of_equal_draws_has_no_width():
    grid, levels = [0, 10, 20], [1.0, 0.75, 0.25]
    found = bootstrap(grid, [[v, v] for v in levels], 0.5)
    assert found.low == found.high == pytest.approx(crossing(grid, levels, 0.5))
    assert found.found == 1.0


def test_bootstrap_covers_the_draws_and_is_open_beyond_the_grid():
    found = bootstrap([0, 10, 20], [[1.0, 1.0], [0.9, 0.7], [0.1, 0.9]], 0.5)
    assert found.low is not None
    assert found.high is None
    assert 0.5 < found.found < 0.95
    assert bootstrap([0, 10], [[1.0], [0.2]], 0.5) is None


def test_slope_ratio_of_a_free_walk_is_not_flat():
    grid = list(range(0, 1001, 100))
    walk = [1 - 0.999**t for t in grid]
    assert slope_ratio(grid, walk, 0, 1000) > 1.3
    assert slope_ratio(grid, [0.3] * 11, 0, 1000) == 1.0
    assert slope_ratio([0, 1000], [0.0, 0.3], 0, 1000) is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({0: [0.2, 0.22], 10: [0.2, 0.2], 20: [0.1, 0.1]}, "falls"),
        ({0: [0.2, 0.22], 10: [0.2, 0.2], 20: [0.16, 0.15]}, "falls in part"),
        ({0: [0.2, 0.22], 10: [0.2, 0.2], 20: [0.19, 0.18]}, "not seen"),
        ({0: [0.3, 0.1], 10: [0.2, 0.2], 20: [0.05, 0.15]}, "not seen"),  # draws overlap
        ({0: [0.2, 0.2], 10: [0.2, 0.2], 20: [0.4, 0.4]}, "not seen"),  # rises
        ({0: [9e-3, 9e-3], 10: [0.0, 0.0], 20: [0.0, 0.0]}, "too small"),
        ({0: [0.0, 0.0], 10: [0.0, 0.0], 20: [0.0, 0.0]}, "too small"),
        ({0: [0.2, 0.2], 20: [0.0, 0.0]}, "too few t₀"),
    ],
)
def test_word_for_a_fall(values, word):
    assert phases.fall("disagreement", values, 0.0)["verdict"] == word


def test_a_fall_within_ten_times_the_control_is_too_small():
    values = {0: [0.2, 0.2], 10: [0.1, 0.1], 20: [0.0, 0.0]}
    assert phases.fall("disagreement", values, 0.019)["verdict"] == "falls"
    assert phases.fall("disagreement", values, 0.021)["verdict"] == "too small"


@pytest.mark.parametrize(
    ("constant", "schedule", "share"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 0.5), (1.2, 0.1, 1.0), (0.1, 0.4, 0.0)],
)
def test_share_of_the_schedule(constant, schedule, share):
    arms = {
        "constant": {"measures": {"disagreement": {"kept": constant, "verdict": "falls"}}},
        "schedule": {"measures": {"disagreement": {"kept": schedule, "verdict": "falls"}}},
    }
    assert phases.schedule_share(arms, "disagreement") == pytest.approx(share)
    arms["schedule"]["measures"]["disagreement"]["verdict"] = "not seen"
    assert phases.schedule_share(arms, "disagreement") is None
    assert phases.schedule_share({"constant": arms["constant"]}, "disagreement") is None


def test_walk_multiplies_cosines():
    table = {(0, 1): 0.5, (1, 2): 0.2}
    assert walked(table, [0, 1, 2]) == pytest.approx(1 - 0.5 * 0.8)
    assert walked(table, [0, 2]) is None


def summary(path, **options):
    run = synthetic.build(path, **options)
    training = run.config.training
    return phases.summary(tables.load(run)[0], training.steps, training.milestones)


def test_both_effects_are_found_where_they_are(tmp_path):
    found = summary(tmp_path / "run")
    assert found["chaos"]["verdict"] == "seen"
    assert found["chaos"]["arm"] == "constant"
    assert found["chaos"]["controls"]["exact"] is True
    assert found["cone"]["verdict"] == "seen"
    assert found["cone"]["arms"]["constant"]["floor"]["deg"] == pytest.approx(18.2, abs=0.1)
    assert found["cone"]["arms"]["schedule"]["after_drop_deg"] == pytest.approx(8.1, abs=0.1)
    assert found["linear"]["verdict"] == "seen"
    assert 100 < found["linear"]["half"] < 400


def test_nothing_is_claimed_where_nothing_is(tmp_path):
    found = summary(tmp_path / "run", effect=False)
    assert found["chaos"]["verdict"] == "not seen"
    assert all(v is None for v in found["chaos"]["schedule_share"].values())
    assert all(a["agreement"] is None for a in found["chaos"]["arms"].values())
    cone = found["cone"]["arms"]["constant"]
    assert (cone["slowed"], cone["flattens"], cone["confined"]) == (False, False, False)
    assert cone["confinement"] == pytest.approx(1.0)
    assert found["cone"]["verdict"] == "not seen"
    assert found["cone"]["schedule_share"] is None
    assert found["linear"]["verdict"] == "not seen"


def test_fall_at_equal_time_left(tmp_path):
    found = summary(tmp_path / "run")["chaos"]["same_horizon"]
    horizons = [t1 - t0 for t0, t1 in found["t1"].items()]
    assert len(horizons) >= 3
    assert max(horizons) <= 1.1 * found["horizon"]
    assert min(horizons) >= 0.9 * found["horizon"]


def test_seen_only_if_it_is_there_at_equal_time_left(tmp_path):
    found = summary(tmp_path / "run", overrides=["chaos.t1=[400]"])["chaos"]
    arm = found["arms"]["constant"]
    assert all(f["verdict"] == "falls" for f in phases.core(arm["measures"]).values())
    assert arm["same_horizon"]["measures"]["disagreement"]["verdict"] == "falls in part"
    assert found["verdict"] == "seen in part"


@pytest.mark.parametrize(
    ("words", "equal", "word"),
    [
        (("falls", "falls"), None, "seen"),
        (("falls", "falls"), ("falls", "falls"), "seen"),
        (("falls", "falls"), ("falls", "falls in part"), "seen in part"),
        (("falls", "falls"), ("not seen", "too small"), "seen in part"),
        (("falls", "not seen"), ("falls", "falls"), "seen in part"),
        (("not seen", "not seen"), ("falls", "falls"), "not seen"),
        (("too few t₀", "too few t₀"), None, "not measured"),
    ],
)
def test_word_for_the_chaos_effect(words, equal, word):
    def falls(pair):
        return {
            m: {"verdict": v} for m, v in zip(("dissimilarity", "disagreement"), pair, strict=True)
        }

    assert phases.verdict(falls(words), equal and {"measures": falls(equal)}) == word


def test_equal_time_left_for_less_than_half_of_the_grid_is_none():
    values = {"arm": "constant", "kind": "perturbed", "dissimilarity": 1.0, "t1": 1000}
    rows = [{**values, "t0": t0} for t0 in (0, 10, 20, 300, 500, 700)]
    assert list(phases.same_horizon(rows, "constant", {})["t1"]) == [0, 10, 20]
    rows.append({**values, "t0": 800})
    assert phases.same_horizon(rows, "constant", {}) is None


def test_quick_start_has_equal_time_left_for_seven_t0():
    c = config.build(PRESETS["quickstart"])
    rows = [
        {"arm": "constant", "kind": "perturbed", "t0": t0, "t1": t1, "dissimilarity": 1.0}
        for t0 in c.chaos.t0
        for t1 in c.measured
        if t1 > t0
    ]
    found = phases.same_horizon(rows, "constant", {})
    assert found["t1"] == {t0: t0 + 450 for t0 in (0, 25, 50, 100, 200, 300, 450)}


@pytest.mark.parametrize(
    ("errors", "samples", "word", "rises"),
    [
        ({0: 0.25, 50: 0.16, 400: 0.15}, 100, "seen", []),
        ({0: 0.25, 50: 0.16, 400: 0.17}, 100, "seen", []),  # a single sample
        ({0: 0.25, 50: 0.16, 400: 0.18}, 100, "seen in part", [(50, 400)]),
        ({0: 0.25, 50: 0.16, 100: 0.17, 400: 0.18}, 100, "seen in part", [(50, 400)]),  # creeps
        ({0: 0.25, 50: 0.16, 400: 0.17}, 450, "seen in part", [(50, 400)]),
        ({0: 0.25, 50: 0.27, 400: 0.15}, 100, "seen in part", [(0, 50)]),
        ({0: 0.25, 50: 0.16, 400: None}, 100, "seen in part", []),  # diverged
        ({0: 0.25, 50: 0.245, 400: 0.245}, 1000, "not seen", []),
        ({0: 0.25, 50: 0.26, 400: 0.3}, 100, "not seen", [(0, 400)]),
        ({0: 0.25}, 100, "not measured", []),
        ({50: 0.25, 400: 0.2}, 100, "not measured", []),  # no lazy run
    ],
)
def test_word_for_the_linear_switch(errors, samples, word, rises):
    kinds = {t: "linearised" if t else "lazy" for t in errors} | {900: "nonlinear"}
    rows = [
        {"switch_step": t, "kind": kinds[t], "test_error": e, "test_samples": samples}
        for t, e in {**errors, 900: 0.14}.items()
    ]
    found = phases.linear(rows)
    assert (found["verdict"], found["rises"]) == (word, rises)


def test_one_arm_alone_is_judged_but_not_compared(tmp_path):
    found = summary(tmp_path / "run", overrides=['arms=["schedule"]'])
    assert found["chaos"]["arm"] == "schedule"
    assert found["chaos"]["verdict"] == "seen"
    assert all(v is None for v in found["chaos"]["schedule_share"].values())
    assert found["cone"]["schedule_share"] is None
