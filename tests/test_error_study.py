"""The error study: its arithmetic on a tiny network, its refusals, and its page beside the CSV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import entk
from benchmarks import error_kernels, error_page, error_states, error_study
from benchmarks.error_states import State
from tests import emulation, tolerance
from twophase.errors import UserError


@pytest.fixture(scope="module")
def rows():
    """The whole study of a tiny network and of one twin."""
    torch.manual_seed(0)
    model, twin = tiny(), tiny()
    twin.load_state_dict({k: v + 0.01 * v.abs() for k, v in model.state_dict().items()})
    found = [State("last", model, 0.0), State("twin", twin, error_states.moved(model, twin))]
    return [row for part in error_study.study(found, torch.randn(4, 2, 6, 6)) for row in part]


def tiny() -> nn.Module:
    layers = (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers).eval()


def errors(rows: list[dict], quantity: str) -> dict[str, float]:
    return {row["way"]: float(row["error"]) for row in rows if row["quantity"] == quantity}


def test_emulated_kernels_are_those_of_the_emulation(monkeypatch):
    """Shared products, columns and groups of parameters at a time change nothing but rounding."""
    model, x = tiny(), torch.randn(3, 2, 6, 6)
    rows = torch.cat([j.flatten(2) for j in entk.jacobian(model, x).values()], 2)
    monkeypatch.setattr(error_kernels, "COLUMNS", 50)
    monkeypatch.setattr(error_kernels, "ELEMENTS", 1000)
    found = error_kernels.emulated(model, x)
    assert found.keys() == emulation.PAIRS.keys()
    for precision, kernel in found.items():
        expected = emulation.gram(rows, rows, "all", precision)
        assert tolerance.error(kernel, expected) < tolerance.FLOAT64


@pytest.mark.parametrize("outputs", ["all", "trace"])
def test_errors_are_in_the_order_of_the_formats(rows, outputs):
    """A rounding is at most 2^-11 in float16 and 2^-8 in bfloat16, and some 1/4 of that on average.

    tf32 cuts off up to 2^-10 of both factors; bf16x3 leaves out three products of up to 2^-16.
    """
    norm = errors(rows, f"{outputs} norm")
    float32 = [error for way, error in norm.items() if way.startswith("float32 ")]
    assert len(float32) == {"all": 5, "trace": 3}[outputs]
    assert 0 < max(float32) < 2**-20
    assert 2**-15 < norm["float16 at rest"] < 2**-11
    assert 2**-12 < norm["bfloat16 at rest"] < 2**-8
    assert 2**-13 < norm["tf32 emulated"] < 2**-9
    assert 2**-22 < norm["bf16x3 emulated"] < 3 * 2**-16
    assert norm["bf16x6 emulated"] < norm["tf32x3 emulated"] < norm["bf16x3 emulated"]
    assert norm["sketch 1024"] < norm["sketch 256"] < 1


def test_distances_and_floors(rows):
    exact = {float(row["exact"]) for row in rows if row["quantity"] == "distance"}
    floor, off = errors(rows, "floor"), errors(rows, "distance")
    assert len(exact) == 1  # all ways are held against one
    assert off["float32 native rows"] < 1e-3 < off["bfloat16 at rest"]
    # half the squared chord: of the order of half the squared error of the norm
    norm = errors(rows, "all norm")
    for way, value in floor.items():
        assert value <= norm[way] ** 2


def test_known_errors():
    """A diagonal kernel whose smallest eigenvalue is off by a half, and nothing else."""
    exact = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    found = exact.clone()
    found[2, 2] = 1.5
    measured = error_kernels.kernel_errors(found, exact)
    assert measured["bottom"] == (1.0, 1.5, 0.5)
    assert measured["top"][2] == 0
    assert measured["eigenvalues"][:2] == (3, 2)
    assert measured["entry"] == (4.0, 4.0, 0.125)
    assert measured["norm"][2] == pytest.approx(0.5 / 21**0.5)
    overflowed = error_kernels.kernel_errors(found * torch.inf, exact)
    assert all(error == torch.inf for *_, error in overflowed.values())


def test_a_wrong_truth_is_noticed(monkeypatch):
    monkeypatch.setattr(error_kernels.oracle, "ntk", lambda *_: torch.ones(2, 3, 2, 3).double())
    with pytest.raises(ArithmeticError, match=r"off by .* expected less than 1e-10"):
        error_kernels.check_truth(tiny(), torch.randn(4, 2, 6, 6))


def test_training_and_twins(tmp_path):
    """From an .npz to states: neighbours in order, twins as far as asked, statistics shared."""
    draw = np.random.default_rng(0)
    images = {f"x_{k}": draw.integers(0, 256, (32, 8, 8, 3), np.uint8) for k in ("train", "test")}
    labels = {f"y_{k}": np.arange(32) % 4 for k in ("train", "test")}
    np.savez(tmp_path / "images.npz", **images, **labels)
    small = ["training.batch=8", "training.rate=0.01", "kernels.probe=8"]
    small += ["model={name='thin-resnet', widths=[8, 16]}"]
    preset = ("resnet20-cifar10", tmp_path / "images.npz", small, 51)
    config = error_states.configure(*preset)
    run, data = error_states.trained(tmp_path / "run", config)
    found = error_states.states(run, data, [1e-3, 1e-2])
    names = ["last", "lag 1", "lag 10", "lag 50", "twin 1e-03", "twin 1e-02"]
    assert [s.name for s in found] == names
    assert found[-1].moved == pytest.approx(1e-2, rel=1e-3)
    assert 0 < found[1].moved < found[2].moved < found[3].moved
    own, twin = (dict(found[i].model.named_buffers()) for i in (0, -1))
    assert own
    assert all(torch.equal(own[name], twin[name]) for name in own)
    with pytest.raises(UserError, match=r"lags \[7\], expected some of \[1, 10, 50\]"):
        error_states.states(run, data, [], [7])
    assert "51 steps of 8 at rate 0.01" in error_study.describe(run)
    assert error_states.samples(config, data, 4).shape == (4, 3, 8, 8)


def test_refusals(tmp_path, capsys):
    assert error_study.main([]) == 2
    assert "--data FILE" in capsys.readouterr().err
    assert error_study.main(["--data", str(tmp_path / "none.npz")]) == 2
    assert "none.npz' does not exist; expected an .npz with x_train" in capsys.readouterr().err
    for preset, steps, said in (("resnet", 100, "is no preset"), ("vgg16-cifar10", 50, "than 50")):
        (tmp_path / "some.npz").touch()
        with pytest.raises(UserError, match=said):
            error_states.configure(preset, tmp_path / "some.npz", [], steps)


def test_csv_keeps_other_networks(tmp_path, rows):
    file = tmp_path / "study.csv"
    common = dict.fromkeys(error_study.COLUMNS, "1")
    for network in ("one", "two", "one"):
        error_study.write(file, [{**common, **row, "network": network} for row in rows])
    networks = error_page.read(file)
    assert [network.name for network in networks] == ["two", "one"]
    assert all(len(network.rows) == len(rows) for network in networks)
    assert "Distances are right within 10 %" in error_page.section(networks[0])


def test_page_is_what_the_csv_says():
    """`python -m benchmarks.error_study --page` writes it."""
    text = error_page.PAGE.read_text()
    assert error_page.render(text, error_page.read()) == text
    assert error_page.FIGURE.name in text
    assert error_page.FIGURE.is_file()
