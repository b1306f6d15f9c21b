from tests.twophase import synthetic
from twophase import phases, tables, wording, wording_chaos


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
    without = wording_chaos._equal_time({"verdict": "seen", "same_horizon": None})
    assert without.startswith("Not compared at equal time left")
    absent = chaos(tmp_path / "absent", effect=False)
    assert absent.reason.startswith("Twins perturbed at t₀ = 0 to 800, compared")


def test_growth_of_a_small_difference_in_words():
    def at(rate, exceeds):
        return {"steps": 50, "twin": [rate], "tangent": [rate], "exceeds": exceeds}

    arm = {"t0": {0: at(0.1, 1.5), 100: at(-0.02, 40.0)}, "contracts_from": 100}
    found = {"arm": "constant", "arms": {"constant": arm | {"verdict": "grows at first only"}}}
    answer = wording_chaos.growth(found)
    assert answer.word == "grows at first only"
    assert "0.1 per step at t₀ = 0, doubling every 6.93 steps; −0.02 per step" in answer.reason
    assert "From t₀ = 100 on none of them grows." in answer.reason
    assert "up to 40 times as far apart as their tangents (at t₀ = 100)" in answer.reason


def test_independent_errors_and_renamed_units_in_words(tmp_path):
    answer = chaos(tmp_path / "run")
    assert any("50\u202f% of what independent errors" in point for point in answer.points)
    assert any(point.startswith("Renaming hidden units changes B") for point in answer.points)


def test_cone_points_say_what_is_inside_it(tmp_path):
    run = synthetic.build(tmp_path / "run")
    training = run.config.training
    findings = phases.summary(tables.load(run)[0], training.steps, training.milestones)
    answer = next(a for a in wording.answers(findings) if a.question == "Cone effect")
    arm = findings["cone"]["arms"]["constant"]
    points = "\n".join(answer.points)
    assert f"{100 * arm['walk']['value']:.0f}\u202f% of the distance of a walk (95\u202f%" in points
    near = sorted(arm["inside"]["to_mean_deg"])[4]
    assert f"Late kernels lie {near:.0f}° from their mean direction" in points
    assert "effective dimensions of at most 8" in points
    order = f"{arm['shuffled']['order']['value']:.2f}, p = "
    assert "an order in time, neighbours are closest (correlation of S with" in points
    assert f"the time between {order}" in points
    assert "Over 100 steps late, fc turns most" in points
    assert "°, and conv least, by " in points
    # alignment and loss are past their half at the same kernel: none can be said to be first
    assert "does not turn to the labels ahead of its growth and the loss" in points
    assert "halfway by step 50, the norm by 300, the training loss by 50" in points
