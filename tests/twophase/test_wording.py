from tests.twophase import synthetic
from twophase import phases, tables, wording
from twophase.config import Config


def test_caption_says_what_batch_norm_does_after_the_switch():
    caption = wording.captions(Config(), "float32")["linear"]
    assert "batch norm frozen with statistics re-estimated at t, momentum reset" in caption


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


def test_a_rise_along_the_linear_switches_is_told():
    errors = {0: 0.25, 50: 0.16, 400: 0.18, 900: 0.14}
    rows = [
        {"switch_step": t, "kind": kind, "test_error": e, "test_samples": 100}
        for (t, e), kind in zip(
            errors.items(), ("lazy", "linearised", "linearised", "nonlinear"), strict=True
        )
    ]
    findings = {"chaos": None, "cone": None, "linear": phases.linear(rows)}
    answer = wording.answers(findings)[-1]
    assert answer.word == "better than lazy, but not steadily"
    assert (
        "rises again by 2 points from step 50 to 400 (one test sample is 1\u202f%)."
        in answer.reason
    )
    assert "25\u202f% from step 0, 16\u202f% from step 50, 18\u202f% from step 400" in answer.reason
