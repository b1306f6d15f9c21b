import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twophase import config
from twophase.config import Config, build, dump
from twophase.errors import UserError
from twophase.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_survives_toml(name):
    built = build(PRESETS[name])
    assert built.name == name
    assert build(tomllib.loads(dump(built))) == built


def test_paper_presets_say_what_the_paper_says():
    built = build(PRESETS["resnet20-cifar10"])
    t = built.training
    assert (t.rate, t.momentum, t.weight_decay, t.gamma) == (0.1, 0.9, 1e-4, 0.1)
    per_epoch = -(-50000 // t.batch)
    assert t.steps == 160 * per_epoch
    assert t.milestones == (80 * per_epoch, 120 * per_epoch)
    assert (built.data.augment, built.data.pad) == ("crop-flip", 4)
    assert built.chaos.eps == 1e-7


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    rate=st.floats(1e-300, 1e38),
    widths=st.lists(st.integers(1, 2**40), min_size=1),
    train=st.none() | st.integers(1, 9),
)
def test_any_config_survives_toml(name, rate, widths, train):
    values = {
        "name": name,
        "training": {"rate": rate},
        "model": {"widths": widths},
        "data": {"train": train},
    }
    built = build(values)
    assert build(tomllib.loads(dump(built))) == built


def test_overrides_win_in_order_and_parse_as_toml():
    sets = [
        "training.steps=700",
        "training.steps=3000",
        "data.source=mnist",
        'data.root = "some where"',
        "chaos.t0=[0, 5]",
        "training.rate=1",
    ]
    built = build({"training": {"steps": 2500}}, sets)
    assert built.training.steps == 3000
    assert (built.data.source, built.data.root) == ("mnist", "some where")
    assert built.chaos.t0 == (0, 5)
    assert built.training.rate == 1.0


def test_building_does_not_change_the_values_it_is_given():
    values = {"training": {"steps": 2500}}
    build(values, ["training.steps=3000", "data.pad=2"])
    assert values == {"training": {"steps": 2500}}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.stepz=5", "unknown key 'training.stepz'; allowed here: steps, batch"),
        ("extra=1", "unknown key 'extra'; allowed here: name, seed, arms, device, data"),
        ("training=5", "training=5: input should be an object"),
        ("training.steps=0", "training.steps=0: input should be greater than or equal to 1"),
        ("training.steps=1.5", "training.steps=1.5: input should be a valid integer"),
        ("training.steps=many", "training.steps='many': input should be a valid integer"),
        ("training.steps=true", "training.steps=True: input should be a valid integer"),
        ("training.rate=-1", "training.rate=-1: input should be greater than 0"),
        ("training.rate=inf", "training.rate=inf: input should be a finite number"),
        ("training.rate=nan", "training.rate=nan: input should be a finite number"),
        ("training.momentum=1", "training.momentum=1: input should be less than 1"),
        ("data.label_noise=1.5", "data.label_noise=1.5: input should be less than or equal to 1"),
        (
            "data.augment=flip",
            "data.augment='flip': input should be 'none', 'shift' or 'crop-flip'",
        ),
        ("model.name=resnet", "model.name='resnet': input should be 'mlp', 'thin-resnet'"),
        ("chaos.t0=[0, -5]", "chaos.t0.1=-5: input should be greater than or equal to 0"),
        ("chaos.alphas=2", "chaos.alphas=2: input should be greater than or equal to 3"),
        ("chaos.t0=[0, 2000]", "chaos.t0: 2000 is too late with training.steps=2000; at most 1999"),
        ("chaos.t0=[5, 5]", "chaos.t0: [5, 5] does not increase; list each step once"),
        ("kernels.steps=[0, 9000]", "kernels.steps: 9000 is too late"),
        ("kernels.steps=[]", "kernels.steps=[]: tuple should have at least 1 item"),
        ("kernels.memory=much", "kernels.memory='much': string should match pattern"),
        ("kernels.memory=0GB", "kernels.memory='0GB': a kernel needs more; at least 1MB"),
        ("kernels.memory=0.9MB", "kernels.memory='0.9MB': a kernel needs more; at least 1MB"),
        ("cone.tau=[7]", "cone.tau: [7] have no kernel; kernels.steps has [0, 250, 500"),
        (
            "cone.lags=[100, 250]",
            "cone.lags: no two of kernels.steps are [100] apart; possible: 250, 500, 750",
        ),
        (
            "kernels.steps=[500, 1000]",
            "cone.lags: no two of kernels.steps are [250] apart; possible: 500",
        ),
        ('arms=["fast"]', "arms.0='fast': input should be 'schedule', 'constant' or 'own'"),
        ('arms=["constant", "constant"]', "arms: ['constant', 'constant'] has one twice"),
        ('arms=["constant"]', "linear.arm: 'schedule' is not in arms ['constant']"),
        ("linear.variants=[]", "linear.variants=[]: tuple should have at least 1 item"),
        ('linear.variants=["lazy"]', "linear.variants.0='lazy': string should match pattern"),
        (
            'linear.variants=["taylor-running-keep"]',
            "linear.variants.0='taylor-running-keep': string should match pattern",
        ),
        ('linear.variants=["taylor", "taylor"]', "linear.variants: ['taylor', 'taylor'] has one"),
        ("linear.regression=-1", "linear.regression=-1: input should be greater than or equal"),
        ("seed=2020-01-01", "seed='2020-01-01': input should be a valid integer"),
        ("training", "--set 'training': expected key=value"),
        ("=5", "--set '=5': expected key=value"),
        ("name.first=x", "--set 'name.first=x': name is a value, not a section"),
    ],
)
def test_error_is_one_line_with_key_value_and_what_is_allowed(override, said):
    with pytest.raises(UserError) as error:
        build({"name": "run"}, [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_single_kernel_has_no_lag():
    values = {"kernels": {"steps": [500]}, "cone": {"tau": [500]}}
    with pytest.raises(UserError, match=r"are \[250, 500\] apart; possible: none, with a single"):
        build(values)
    assert build(values, ["cone.lags=[]"]).cone.lags == ()


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3


def test_unreadable_file_is_named(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("a = = 1")
    with pytest.raises(UserError, match=r"c\.toml: not readable as TOML"):
        config.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"c\.toml: not readable as TOML"):
        config.read(file)
    with pytest.raises(UserError, match=r"none\.toml: not readable as TOML"):
        config.read(tmp_path / "none.toml")


def test_rate_drops_in_one_arm_only():
    built = build({"training": {"rate": 0.2, "milestones": [10, 20]}})
    assert [built.rate("constant", s) for s in (0, 10, 25)] == [0.2] * 3
    assert [built.rate("schedule", s) for s in (0, 9, 10, 19, 20)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.002]
    )


def test_checkpoints_cover_all_that_is_needed():
    values = {
        "training": {"steps": 100, "milestones": [60]},
        "chaos": {"t0": [0, 7], "t1": [30]},
        "kernels": {"steps": [5]},
        "cone": {"tau": [5], "lags": []},
        "linear": {"switch": [11]},
    }
    assert build(values).checkpoints == (0, 5, 7, 11, 30, 60, 100)
    assert build(values).measured == (30, 100)
