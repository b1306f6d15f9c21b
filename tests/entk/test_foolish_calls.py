"""Arguments of the wrong kind are one line that names them, from every function that takes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk

MODEL, X = nn.Linear(3, 2), torch.ones(2, 3)
STATE = MODEL.state_dict()
CALLS = {
    "write_ntk to None": (lambda: entk.write_ntk(None, MODEL, X), "path=None, expected a string"),
    "write_ntk to a number": (lambda: entk.write_ntk(3, MODEL, X), "path=3, expected a string"),
    "open_kernel of None": (lambda: entk.open_kernel(None), "path=None, expected a string"),
    "strict": (lambda: entk.ntk(MODEL, X, strict="yes"), "strict='yes', expected True or False"),
    "by_layer": (lambda: entk.ntk(MODEL, X, by_layer="no"), "by_layer='no', expected True"),
    "by_layer of a plan": (lambda: entk.plan_ntk(MODEL, X, by_layer=1), "by_layer=1, expected"),
    "by_layer of an error": (
        lambda: entk.sketch_error(MODEL, X, sketch=8, by_layer=0),
        "by_layer=0, expected",
    ),
    "resume": (lambda: entk.write_ntk("k.h5", MODEL, X, resume="no"), "resume='no', expected"),
    "progress": (lambda: entk.ntk(MODEL, X, progress=3), "progress=3, expected True, False or a"),
    "no states": (lambda: entk.trajectory_distances(MODEL, None, X), "states is NoneType"),
    "states of None": (
        lambda: entk.trajectory_distances(MODEL, [None], X),
        "state 0 does not fit the model",
    ),
    "one state": (lambda: entk.trajectory_distances(MODEL, STATE, X), "expected a list of state"),
    "scratch": (
        lambda: entk.trajectory_distances(MODEL, [STATE], X, scratch="/nowhere/to/be"),
        "the folder scratch='/nowhere/to/be' does not exist",
    ),
    "no kernels": (lambda: entk.kernel_distance_matrix(None), "kernels is NoneType, expected a"),
    "a path for kernels": (lambda: entk.kernel_distance_matrix("k.h5"), "kernels is str, expected"),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_line_that_names_the_argument(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = CALLS[name]
    with pytest.raises(entk.InputError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
