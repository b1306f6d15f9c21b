import re

import pytest

from twophase import config, grid
from twophase.errors import UserError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("training.rate=0.1,0.3", [0.1, 0.3]),
        ("model.widths=[8,16],[16,32]", [[8, 16], [16, 32]]),
        ("training.milestones=[],[10]", [[], [10]]),
        ("model.name=mlp, thin-resnet", ["mlp", "thin-resnet"]),
        ('data.source="a,b.npz"', ["a,b.npz"]),
        ("chaos.eps = 1e-7", [1e-7]),
        ("arms=['constant'],['schedule', 'constant']", [["constant"], ["schedule", "constant"]]),
    ],
)
def test_right_hand_sides_are_toml_arrays(text, values):
    assert list(grid.parse([text]).values()) == [values]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["seed"], "--grid 'seed': expected KEY=V1,V2,..."),
        (["seed="], "--grid 'seed=': expected KEY=V1,V2,..."),
        (["seed=1", "seed=2"], "--grid 'seed=2': seed has a grid already"),
        (["seed=1,2,1"], "--grid 'seed=1,2,1': 1 is there twice"),
        (["name=a,b"], "the points get their names from the other keys"),
        (["model.widths=[8,16],[16"], "is no list of TOML values"),
    ],
)
def test_bad_grids_are_one_line(texts, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        grid.parse(texts)
    assert "\n" not in str(error.value)


def test_the_product_runs_over_the_last_key_fastest():
    base = config.build({"name": "base"})
    points = grid.points(base, grid.parse(["model.widths=[4],[8, 8]", "seed=0,1"]))
    assert {name: (c.model.widths, c.seed) for name, c in points.items()} == {
        "model.widths=4,seed=0": ((4,), 0),
        "model.widths=4,seed=1": ((4,), 1),
        "model.widths=8-8,seed=0": ((8, 8), 0),
        "model.widths=8-8,seed=1": ((8, 8), 1),
    }
    assert points["model.widths=4,seed=1"].name == "base: model.widths=4,seed=1"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["training.rate=0.1,-1"], "point training.rate=-1: config: training.rate=-1"),
        (["seed=0", "training.ratte=1"], "point seed=0,training.ratte=1: config: unknown key"),
        (["training.steps=2000,500"], "point training.steps=500: config: chaos.t0: 1000 is too"),
        (["seed.x=1"], "point seed.x=1: seed is a value, not a section"),
        (["training=1"], "point training=1: config: training=1"),
        (["training.rate=1,1.0"], "is there twice"),
        (["chaos.eps=0.1,'0.1'"], "point chaos.eps=0.1"),
    ],
)
def test_an_error_names_its_point(texts, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        grid.points(config.build({}), grid.parse(texts))
    assert "\n" not in str(error.value)


def test_names_are_safe_and_unique():
    values = ["a/b", "a b", "A?B", "../../etc", "<b>", "x" * 300, "x" * 299 + "y", "CON"]
    names = grid.names([{"data.source": v} for v in values])
    assert len({n.casefold() for n in names}) == len(values)
    assert all(re.fullmatch(r"[\w.=,+-]{1,140}", n, re.ASCII) for n in names)
    assert not any(n.startswith(".") for n in names)
    assert names == grid.names([{"data.source": v} for v in values])


def test_keys_that_differ_and_change_no_result_are_no_keys():
    a = config.build({"name": "a", "seed": 1, "kernels": {"memory": "2GB"}})
    b = config.build({"name": "b", "model": {"widths": [4, 8, 8]}, "data": {"train": 50}})
    assert grid.differing([a, b]) == ["data.train", "model.widths", "seed"]
    assert grid.lookup(b, "model.widths") == [4, 8, 8]
    assert grid.label({"data.train": None, "model.widths": []}) == (
        "data.train=left-out,model.widths=none"
    )
