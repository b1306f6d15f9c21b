from tests.twophase import synthetic
from twophase import phases, tables, wording


def chaos(path, *overrides, effect=True):
    """Question, word and reason for the twins of a synthetic run."""
    run = synthetic.build(path, effect, overrides)
    training = run.config.training
    findings = phases.summary(tables.load(run)[0], training.steps, training.milestones)
    return wording.answers(findings)[0]


def test_first_sentence_is_about_equal_time_left(tmp_path):
    seen = chaos(tmp_path / "seen")
    assert seen.word == "seen"
    assert seen.reason.startswith(
        "With equal time left, t₁ − t₀ = 800, the fall is there too (t₀ = 0 to 800: C "
    )
    part = chaos(tmp_path / "part", "chaos.t1=[400]")
    assert part.word == "seen in part"
    assert part.reason.startswith("With equal time left, t₁ − t₀ ≈ ")
    assert ", the fall is there only in part (t₀ = 0 to 200: C " in part.reason
    assert ", falls in part). " in part.reason
    without = wording._equal_time({"verdict": "seen", "same_horizon": None})
    assert without.startswith("Not compared at equal time left")
    absent = chaos(tmp_path / "absent", effect=False)
    assert absent.reason.startswith("Twins perturbed at t₀ = 0 to 800, compared")
