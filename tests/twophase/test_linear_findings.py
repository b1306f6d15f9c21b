import math

import pytest

from tests.twophase import synthetic
from twophase import controls, phases, plots_linear, tables, wording_linear
from twophase.config import Config, build
from twophase.linear_findings import linear
from twophase.phases import NEAR

FULL = 0.14
ERRORS = {0: 0.25, 50: 0.16, 400: 0.18}


def found(variants: dict, samples: int = 100, regression=(), train=(), **changes) -> dict:
    """Findings of test errors {variant: {t: error}} beside a run with FULL that never switched."""
    rows = [
        {"arm": "schedule", "variant": v, "switch_step": t, "test_error": e, "start_error": 1e-7}
        | {"test_samples": samples}
        | changes
        for v, errors in {**variants, "nonlinear": {900: FULL}}.items()
        for t, e in errors.items()
    ]
    return linear({"linear": rows, "regression": list(regression), "train": list(train)}, NEAR)


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
def test_word_and_rises_of_a_variant(errors, samples, word, rises):
    whole = found({"taylor": errors}, samples)
    variant = whole["variants"]["taylor"]
    assert (whole["verdict"], variant["verdict"], variant["rises"]) == (word, word, rises)
    assert variant["diverged"] == [t for t, e in errors.items() if e is None]


def test_share_of_the_gap_by_hand():
    """0.25 -> 0.14: 0.16 closes 9 of 11, and half (0.195) lies between 0 and 50."""
    variant = found({"taylor": ERRORS})["variants"]["taylor"]
    shares = {0: 0, 50: 9 / 11, 400: 7 / 11}
    assert variant["gap_closed"] == pytest.approx(shares)
    assert 0 < variant["half"] < 50


def test_verdict_rests_on_the_first_linear_variant():
    whole = found({"nonlinear-frozen": ERRORS, "tangent": {0: 0.2, 50: 0.2}, "taylor": ERRORS})
    assert (whole["variant"], whole["verdict"]) == ("tangent", "not seen")
    alone = found({"nonlinear-frozen": ERRORS})
    assert (alone["variant"], alone["verdict"]) == (None, "not measured")
    assert alone["variants"]["nonlinear-frozen"]["gap_closed"] == {}
    assert wording_linear.answer(alone).word == "not measured"


@pytest.mark.parametrize(
    ("tangent", "agree"),
    [
        ({0: 0.27, 50: 0.17, 400: 0.19}, True),
        ({0: 0.25, 50: 0.24, 400: 0.15}, False),  # another verdict
        ({0: 0.30, 50: 0.27, 100: 0.27, 400: 0.15}, False),  # steady, late
    ],
)
def test_agreement_of_variants(tangent, agree):
    part = found({"taylor": ERRORS, "tangent": tangent, "nonlinear-frozen": ERRORS})["agreement"]
    assert part["variants"] == ["taylor", "tangent"]
    assert part["agree"] is agree
    assert part["spread"] == pytest.approx({t: abs(tangent[t] - e) for t, e in ERRORS.items()})


def test_variants_of_one_verdict_agree_only_if_their_halves_are_near():
    early, late = {0: 0.3, 10: 0.15, 100: 0.15}, {0: 0.3, 10: 0.28, 100: 0.15}
    part = found({"taylor": early, "tangent": late})["agreement"]
    assert part["factor"] > NEAR
    assert not part["agree"]
    near = found({"taylor": early, "tangent": early})["agreement"]
    assert (near["factor"], near["agree"]) == (1.0, True)
    assert found({"taylor": early})["agreement"] is None


def test_costs_add_up_to_the_whole():
    frozen = {0: 0.2, 50: 0.15, 400: None}
    parts = found({"taylor-keep": ERRORS, "nonlinear-frozen-keep": frozen})["costs"]
    assert parts.keys() == {0, 50}
    assert parts[0] == pytest.approx({"freezing": 0.06, "linearising": 0.05})
    for t, cost in parts.items():
        assert sum(cost.values()) == pytest.approx(ERRORS[t] - FULL)
    other = found({"taylor": ERRORS, "nonlinear-frozen-keep": frozen})
    assert other["costs"] == {}  # momentum differs: no control of this variant


def results(findings: dict) -> dict[str, str]:
    """Of the controls, where nothing but the linear switch was measured."""
    nothing = {name: [] for name in tables.STAGE}
    found = {"chaos": None, "cone": None, "linear": findings}
    return {c.name: c.result for c in controls.controls(nothing, found, Config())}


def test_controls():
    kept = "At t = 0 keeping momentum changes nothing"
    start = "The linear model equals the network at t"
    frozen = "Frozen batch norm told apart from linearisation"
    alone = results(found({"taylor": ERRORS}))
    assert (alone[kept], alone[start], alone[frozen]) == ("not run", "pass", "not run")
    assert results(found({"taylor": ERRORS, "taylor-keep": ERRORS}))[kept] == "pass"
    assert results(found({"taylor": ERRORS, "taylor-keep": {**ERRORS, 0: 0.26}}))[kept] == "fail"
    assert results(found({"taylor": ERRORS}, start_error=0.01))[start] == "fail"
    assert results(found({"taylor": ERRORS}, start_error=None))[start] == "not run"
    assert results(found({"taylor": ERRORS, "nonlinear-frozen": ERRORS}))[frozen] == "run"


def test_sentences():
    train = [{"arm": "schedule", "step": t, "test_error": 0.5} for t in (0, 50, 400, 900)]
    regression = [
        {"mean": "zero", "switch_step": t, "samples": 64, "test_error": 0.6 - t / 1000}
        for t in ERRORS
    ]
    frozen = {0: 0.15, 50: 0.13, 400: 0.14}
    variants = {"taylor": ERRORS, "tangent": ERRORS, "nonlinear-frozen": frozen}
    answer = wording_linear.answer(found(variants, 100, regression, train))
    assert answer.word == "better than lazy, but not steadily"
    assert "25\u202f% from step 0, 16\u202f% from step 50, 18\u202f% from step 400" in answer.reason
    assert (
        "rises again by 2 points from step 50 to 400 (one test sample is 1\u202f%)."
        in answer.reason
    )
    text = "\n".join(answer.points)
    assert "Network, batch norm frozen: 15\u202f% from step 0, 13\u202f%" in text
    assert "The 2 first-order variants agree: half-closed steps within a factor of 1" in text
    assert "1 and 10 (t = 0), −1 and 3 (t = 50), 0 and 4 (t = 400)" in text
    assert (
        "Regression on 64 labels with the kernel of step t: around zero 60\u202f% (0), 55" in text
    )
    assert "the network at t itself: 50\u202f% (0), 50\u202f% (50), 50\u202f% (400)" in text


def test_caption_says_what_was_trained_and_how():
    text = wording_linear.caption(Config(), "float32", normed=True)
    assert "as the first-order Taylor model of step t; stepped rate arm" in text
    assert "statistics re-estimated at t, momentum reset, rate times 1, float32." in text
    assert "Regression" not in text
    sets = ['linear.variants=["taylor", "tangent-keep-running"]', "linear.regression=64"]
    text = wording_linear.caption(build({}, sets), "float32", normed=True)
    assert "its tangent alone" in text
    assert "re-estimated at t or the running ones, momentum reset or kept" in text
    assert "Regression: 64 training inputs, ridge by leave-one-out, outputs = “all”." in text


def test_figure_has_a_line_for_each_variant_and_what_stands_beside_it(tmp_path):
    run = synthetic.build(tmp_path / "run")
    loaded = tables.load(run)[0]
    summary = phases.summary(loaded, 1600, (1200, 1400))
    errors, losses = plots_linear.linear(loaded, summary, (1200, 1400))
    labels = [line.get_label() for line in errors.figure.axes[0].lines]
    variants = ["taylor", "tangent", "nonlinear-frozen", "never switched"]
    beside = ["regression, mean zero", "regression, mean network", "network at t"]
    assert labels == variants + beside
    assert [line.get_label() for line in losses.figure.axes[0].lines] == variants
    drawn = dict(zip(labels, errors.figure.axes[0].lines, strict=True))
    expected = summary["linear"]["variants"]["tangent"]["test_error"]
    assert dict(zip(*drawn["tangent"].get_data(), strict=True)) == expected
    assert set(drawn["never switched"].get_ydata()) == {summary["linear"]["nonlinear"]}


def test_a_run_that_diverged_is_a_gap_in_its_line(tmp_path):
    loaded = tables.load(synthetic.build(tmp_path / "run"))[0]
    row = next(r for r in loaded["linear"] if (r["variant"], r["switch_step"]) == ("taylor", 100))
    row["test_error"] = None
    errors, _ = plots_linear.linear(loaded, phases.summary(loaded, 1600, ()), ())
    drawn = errors.figure.axes[0].lines[0]
    assert list(drawn.get_xdata()) == [0, 100, 400, 800]
    assert [math.isnan(y) for y in drawn.get_ydata()] == [False, True, False, False]
