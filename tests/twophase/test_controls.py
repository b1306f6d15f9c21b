import pytest

from twophase import controls

ROW = {"check": "float64", "arm": "constant", "step": 9, "samples": 4}


@pytest.mark.parametrize(
    ("difference", "distance", "turn", "result"),
    [
        (1e-6, 1e-13, 0.1, "pass"),
        (1e-2, 1e-13, 0.1, "fail"),  # more than half of the digits are lost
        (1e-6, 1e-13, 1e-12, "fail"),  # the turns are as small as rounding
    ],
)
def test_a_kernel_computed_again_has_to_leave_the_turns_alone(difference, distance, turn, result):
    row = {**ROW, "relative_difference": difference, "distance": distance}
    tables = {"checks": [row], "cone_neighbours": [{"distance": turn}, {"distance": 0.5}]}
    again = {c.name: c.result for c in controls._computed_again(tables)}
    assert again == {
        "Kernel computed again in float64": result,
        "Kernel computed again in other tiles": "not run",
    }


@pytest.mark.parametrize(("negative", "result"), [(1e-16, "pass"), (0.01, "fail")])
def test_distances_of_no_directions_fail(negative, result):
    cone = {"arms": {"constant": {"path": {"negative": negative}}}}
    assert controls._euclidean(cone).result == result
    assert controls._euclidean(None).result == "not run"
