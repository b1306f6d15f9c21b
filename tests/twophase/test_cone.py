import math

import pytest

import entk
from twophase import cone


def test_matrix_is_the_distance_of_each_pair_of_files(finished):
    rows = finished.load_table("cone_matrix")
    steps = finished.config.kernels.steps
    assert len(rows) == 2 * len(steps) ** 2
    for row in rows:
        i, j = (finished.kernel(row["arm"], int(row[k])) for k in ("step_i", "step_j"))
        assert float(row["distance"]) == pytest.approx(entk.kernel_distance(i, j), rel=1e-6)
    assert any(float(r["distance"]) > 1e-3 for r in rows)


def test_reference_and_lagged_are_rows_of_the_matrix(finished):
    matrix = {
        (r["arm"], r["step_i"], r["step_j"]): r["distance"]
        for r in finished.load_table("cone_matrix")
    }
    reference = finished.load_table("cone_reference")
    assert {(r["tau"], r["step"]) for r in reference} == {
        (str(tau), str(t)) for tau in (0, 5) for t in (0, 5, 10, 20) if t >= tau
    }
    assert all(r["distance"] == matrix[r["arm"], r["tau"], r["step"]] for r in reference)
    lagged = finished.load_table("cone_lagged")
    assert {(r["step"], r["lag"]) for r in lagged} == {("0", "5"), ("5", "5")}
    for r in lagged:
        assert r["distance"] == matrix[r["arm"], r["step"], str(int(r["step"]) + 5)]
    for r in (*reference, *lagged):
        degrees = math.degrees(math.acos(1 - float(r["distance"])))
        assert float(r["angle_deg"]) == pytest.approx(degrees, abs=1e-5)
    assert [tuple(reference[0]), tuple(lagged[0])] == [cone.REFERENCE, cone.LAGGED]
