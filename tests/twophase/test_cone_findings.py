import pytest

from tests.twophase import synthetic
from twophase import config, tables
from twophase.cone_findings import cone
from twophase.presets import PRESETS
from twophase.rundir import RunDir


def found(path, values, effect=True):
    run = RunDir.create(path, config.build(values))
    synthetic._cone(run, effect)
    training = run.config.training
    return cone(tables.load(run)[0], training.steps, training.milestones)


@pytest.mark.parametrize("effect", [True, False])
@pytest.mark.parametrize("values", [{}, *PRESETS.values()], ids=["defaults", *PRESETS])
def test_the_kernels_of_each_preset_suffice_for_a_verdict(tmp_path, values, effect):
    arms = found(tmp_path / "run", values, effect)["arms"].values()
    assert {a["verdict"] for a in arms} == {"seen" if effect else "not seen"}


def test_window_ends_at_the_last_kernel_before_the_drop(tmp_path):
    arm = found(tmp_path / "run", PRESETS["vgg16-cifar10"])["arms"]["schedule"]
    assert arm["window"] == [5000, 10000]
    assert arm["lag"] == 500  # 100 is for the first 1000 steps only
    assert arm["after_drop_deg"] is None


def test_too_few_kernels_give_no_findings(tmp_path):
    values = {"kernels": {"steps": [0, 500]}, "cone": {"tau": [], "lags": [500]}}
    assert found(tmp_path / "run", values) is None
