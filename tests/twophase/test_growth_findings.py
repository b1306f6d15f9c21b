import math

import pytest

from twophase.growth_findings import growth


def rows(rates, noise=0.0):
    """Tangents of each t0's rate, two draws, and twins that rounding has moved as well."""
    found = []
    for t0, rate in rates.items():
        for draw in (0, 1, 2):
            key = {"arm": "constant", "t0": t0, "draw": draw}
            key["kind"] = "perturbed" if draw else "control"
            for k in range(11):
                size = bool(draw) * draw * 1e-7 * math.exp(rate * k)
                twin = size + bool(draw) * noise * (k > 0)
                found.append({**key, "step": t0 + k, "l2": twin, "tangent": size})
    return found


def test_exponents_are_the_rates_that_were_put_in():
    found = growth(rows({0: 0.3, 100: -0.05}))["arms"]["constant"]
    for t0, rate in ((0, 0.3), (100, -0.05)):
        assert found["t0"][t0]["tangent"] == pytest.approx([rate, rate])
        assert found["t0"][t0]["twin"] == pytest.approx([rate, rate])
        assert found["t0"][t0]["exceeds"] == pytest.approx(1)
        assert found["t0"][t0]["steps"] == 10


def test_rounding_that_outgrows_the_perturbation_is_told_apart():
    found = growth(rows({0: -0.1}, noise=1e-5))["arms"]["constant"]["t0"][0]
    assert min(found["twin"]) > 0 > max(found["tangent"])
    assert found["exceeds"] > 50


@pytest.mark.parametrize(
    ("rates", "word", "since"),
    [
        ({0: 0.3, 10: 0.1, 50: -0.1, 90: -0.1}, "grows at first only", 50),
        ({0: 0.3, 10: -0.1, 50: 0.1, 90: -0.1}, "grows at first only", 90),
        ({0: 0.3, 10: 0.1}, "grows throughout", None),
        ({0: -0.3, 10: -0.1}, "does not grow", 0),
        ({0: -0.3, 10: 0.1}, "grows later only", None),
    ],
)
def test_word_for_the_growth(rates, word, since):
    found = growth(rows(rates))["arms"]["constant"]
    assert (found["verdict"], found["contracts_from"]) == (word, since)


def test_controls_alone_are_no_finding():
    assert growth([r for r in rows({0: 0.3}) if r["kind"] == "control"]) is None
    assert growth([]) is None
