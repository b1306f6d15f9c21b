import pytest

from twophase.kernel_findings import by_itself, halfway, layers, silent_alignment

GRID = [0, 10, 20, 40, 80]


def line(alignment, norm, loss):
    return [
        {"step": t, "centred_alignment": a, "frobenius_norm": n, "loss": x}
        for t, a, n, x in zip(GRID, alignment, norm, loss, strict=True)
    ]


def test_halfway_is_the_step_from_which_levels_stay_past_the_half():
    assert halfway(GRID, [0.0, 0.6, 0.4, 0.7, 1.0]) == 40
    assert halfway(GRID, [2.0, 1.0, 0.0, 0.0, 0.0]) == 10  # exactly half counts, a fall as well
    assert halfway(GRID, [1.0, 5.0, 2.0, 3.0, 1.0]) is None
    assert halfway([], []) is None


EARLY, LATE = (0.0, 0.4, 0.5, 0.5, 0.5), (0.0, 0.0, 0.0, 0.1, 0.5)
GROWS, STAYS = (1.0, 1.1, 1.2, 4.0, 5.0), (1.0, 1.1, 1.2, 1.4, 1.5)
FALLS, AT_ONCE = (2.0, 2.0, 1.9, 0.5, 0.1), (2.0, 0.3, 0.2, 0.1, 0.1)


@pytest.mark.parametrize(
    ("alignment", "norm", "loss", "verdict"),
    [
        (EARLY, GROWS, FALLS, "silent"),
        (LATE, GROWS, FALLS, "not silent"),
        (EARLY, STAYS, FALLS, "not silent"),
        (EARLY, GROWS, AT_ONCE, "not silent"),
        ((0.3, 0.2, 0.1, 0.1, 0.1), GROWS, FALLS, "no rise"),
        ((0.3,) * 5, GROWS, FALLS, "not known"),
        ((None,) * 5, GROWS, FALLS, "not known"),
    ],
)
def test_silent_alignment_is_alignment_before_norm_and_loss(alignment, norm, loss, verdict):
    assert silent_alignment(line(alignment, norm, loss))["verdict"] == verdict


def test_what_comes_after_the_first_drop_has_no_part_in_it():
    rows = [
        {"arm": arm, "entropy_rank": 3.0, **r}
        for arm in ("schedule", "constant")
        for r in line(EARLY, GROWS, FALLS)
    ]
    train = [{"arm": r["arm"], "step": r["step"], "train_loss": r["loss"]} for r in rows]
    found = by_itself(rows, train, (40,))
    assert found["schedule"]["silent"]["steps"] == [0, 10, 20, 40]
    assert found["constant"]["silent"]["steps"] == GRID
    assert found["schedule"]["frobenius_norm"] == [1.0, 5.0]
    assert found["schedule"]["largest_ratio"] == 5.0


def test_layers_are_told_by_their_first_and_late_turns():
    rows = [
        {"arm": "constant", "layer": layer, "step": t, "lag": 10, "angle_deg": size * angle}
        for layer, size in (("b", 1), ("a", 2))
        for t, angle in zip((0, 10, 20, 30), (40.0, 20.0, 4.0, 6.0), strict=True)
    ]
    found = layers(rows, "constant", (20, 40))
    assert list(found) == ["b", "a"]  # the order of the model
    assert found["a"] == {"first_deg": 80.0, "late_deg": 10.0}
    assert layers(rows, "schedule", (20, 40)) == {}
