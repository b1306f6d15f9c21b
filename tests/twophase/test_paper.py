import pytest

from tests.twophase import synthetic
from twophase import paper, phases, tables


def rows(path, *overrides):
    run = synthetic.build(path, overrides=list(overrides))
    training = run.config.training
    found = tables.load(run)[0]
    findings = phases.summary(found, training.steps, training.milestones)
    return {r.quantity.split(",")[0].split(":")[0]: r.run for r in paper.beside(found, findings)}, (
        found,
        findings,
    )


def test_numbers_are_those_of_the_tables(tmp_path):
    said, (found, findings) = rows(tmp_path / "run")
    draws = [
        [r["dissimilarity"] for r in found["chaos"] if key(r) == ("constant", t0, 1600)]
        for t0 in (0, 20)
    ]
    levels = [sum(pair) / 2 for pair in draws]  # of two draws, and these grow with t1
    first = max(range(2), key=lambda i: levels[i])
    expected = f"{levels[first]:.3g}, t₁ = 1\u202f600, t₀ = {(0, 20)[first]}"
    assert said["C"] == expected
    late = findings["cone"]["arms"]["constant"]["floor"]["distance"]
    assert said["S over a lag"].endswith(f"→ {late:.3g}, Δ = 100")
    # by the formula of the synthetic cone: 0.05 and what is left of the first turn
    assert said["S from τ > 0"] == "0.05–0.0527"
    assert said["S from τ = 0"] == "0.45"
    assert said["Test accuracy after the linear switch"] == "0.76 (t = 0) → 0.959 (t = 800)"
    assert said["Test accuracy without a switch"] == "0.96"


def key(row):
    return row["arm"], row["t0"], row["t1"] if row["kind"] == "perturbed" else None


def test_a_dash_where_nothing_was_measured():
    empty = {name: [] for name in tables.STAGE}
    findings = dict.fromkeys(("chaos", "cone", "growth", "linear"))
    assert {r.run for r in paper.beside(empty, findings)} == {"–", "–; –"}


@pytest.mark.parametrize("quantity", ["Inflection", "B", "D"])
def test_words_stand_where_nothing_falls(tmp_path, quantity):
    run = synthetic.build(tmp_path / "run", False)
    found = tables.load(run)[0]
    findings = phases.summary(found, 1600, (1200, 1400))
    said = {r.quantity.split(",")[0].split(":")[0]: r.run for r in paper.beside(found, findings)}
    if quantity == "Inflection":
        assert said[quantity] == "not seen; not seen; not seen"
    else:
        assert "→" in said[quantity]
