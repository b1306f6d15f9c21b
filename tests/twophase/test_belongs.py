"""Files that belong to something else: other samples, and kernels of other steps and runs."""

import re
import shutil

import numpy as np
import pytest
import torch

import entk
from tests.twophase.test_stages import different
from twophase import chaos, cone, config, data, digests, kernels
from twophase.errors import UserError
from twophase.rundir import RunDir


@pytest.fixture(scope="module")
def before(values, samples, tmp_path_factory, perform):
    """A run that is trained, with samples of its own, and their bytes."""
    folder = tmp_path_factory.mktemp("own")
    source = shutil.copy(samples, folder / "d.npz")
    sets = [f"data.source={str(source)!r}", "chaos.t0=[16]"]
    run = RunDir.create(folder / "run", config.build(values, sets))
    perform(run, "train")
    return run, source.read_bytes()


@pytest.fixture
def trained(before, tmp_path):
    """(a copy, its file of samples), as they were."""
    run, content = before
    source = run.path.parent / "d.npz"
    source.write_bytes(content)
    yield RunDir.open(shutil.copytree(run.path, tmp_path / "run")), source
    source.write_bytes(content)


def change(source, name):
    arrays = dict(np.load(source))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[-1] ^= 1
    np.savez(source, **arrays)


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_samples_that_change_between_two_stages_are_noticed(trained, perform, name):
    run, source = trained
    change(source, name)
    said = f"run was begun with other data ({name}); put back what it was begun with, choose"
    run.table("train").unlink()  # of the stage that wrote the record
    for stage in ("train", "chaos", "kernels", "linear"):
        with pytest.raises(UserError, match=re.escape(said)):
            perform(run, stage)
    assert not list(run.path.glob("chaos/*"))


def test_a_worker_and_the_tables_notice_it_too(trained, perform):
    run, source = trained
    good = source.read_bytes()
    change(source, "y_test")
    with pytest.raises(UserError, match="other data"):
        perform(run, "chaos", workers=2)
    source.write_bytes(good)
    perform(run, "chaos", "kernels", workers=2)
    run.table("kernel").unlink()
    change(source, "y_test")
    with pytest.raises(UserError, match="other data"):
        perform(run, "kernels")


def test_a_run_of_an_earlier_version_is_taken_as_it_is(trained, perform):
    run, source = trained
    run.belongs.unlink()
    change(source, "y_train")
    run.table("train").unlink()
    perform(run, "train", "kernels")
    assert not run.belongs.exists()
    assert not list(run.path.glob("kernels/*/*.json"))


def test_the_record_is_there_before_the_first_checkpoint(trained, perform, tmp_path, monkeypatch):
    run, _ = trained
    new = RunDir.create(tmp_path / "new", run.config)

    def stop(*arguments, **named):
        assert new.belongs.read_bytes() == run.belongs.read_bytes()
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "save_state", stop)
    with pytest.raises(KeyboardInterrupt):
        perform(new, "train")


def test_the_control_notices_a_continuation_that_is_another(trained):
    """Without the record: the twin with eps = 0 is trained anew, and compared with checkpoints."""
    run, source = trained
    for name, equal in ((None, True), ("y_train", False)):
        if name:
            change(source, name)
        chaos.follow(run, data.load(run.config), 16, (0,))
        rows = run.load_record(run.twin(16, 0))["chaos"]
        assert {row["t1"] for row in rows} == {20}
        assert {row["realised_l2"] for row in rows} == {0.0}  # it is the control
        assert [row["l2"] == 0 for row in rows] == [equal] * len(rows)
        run.twin(16, 0).unlink()


def test_bytes_out_of_order_have_the_digest_of_those_in_order(monkeypatch):
    monkeypatch.setattr(digests, "ROWS", 3)
    x = torch.arange(210.0).reshape(7, 2, 3, 5)
    assert digests.digest({"a": x}) == digests.digest(
        {"a": x.movedim(1, 3).contiguous().movedim(3, 1)}
    )
    assert digests.digest({"a": x}) != digests.digest({"a": x.movedim(1, 3)})
    assert digests.digest({"a": x}) != digests.digest({"b": x})
    assert digests.digest({"a": x, "b": x[:0]}) == digests.digest({"b": x[:0], "a": x})


@pytest.fixture(scope="module")
def others(values, tmp_path_factory, perform):
    """The kernels of another training on the same samples."""
    run = RunDir.create(
        tmp_path_factory.mktemp("other") / "run", config.build(values, ["training.rate=0.05"])
    )
    perform(run, "kernels")
    return run


@pytest.fixture
def measured(finished, tmp_path):
    run = RunDir.open(shutil.copytree(finished.path, tmp_path / "run"))
    for table in (*kernels.TABLES, *cone.TABLES):
        run.table(table).unlink()
    return run


def exchange(a, b):
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)


@pytest.mark.parametrize("stage", ["kernels", "cone"])
@pytest.mark.parametrize("what", ["two steps", "two steps and their origins", "another training"])
def test_a_kernel_in_the_place_of_another_is_noticed(
    finished, others, measured, perform, what, stage
):
    run = measured
    if stage == "cone":  # between the two stages
        perform(run, "kernels")
    one, two = (run.kernel("schedule", step) for step in (5, 10))
    if what == "another training":
        one.write_bytes(others.kernel("schedule", 5).read_bytes())
    else:
        exchange(one, two)
    said = r"schedule/step-000005\.h5 is not the kernel of .*schedule/step-000005\.safe.*; delete"
    if "origins" in what:
        exchange(one.with_suffix(".json"), two.with_suffix(".json"))
        said = r"step-000005\.json is damaged .its checksum is wrong.; delete it and run again"
    with pytest.raises(UserError, match=said) as error:
        perform(run, stage)
    assert "\n" not in str(error.value)
    for file in {one, two}:
        file.unlink()
    perform(run, "cone")
    assert different(run, finished) == []


def test_a_kernel_that_lay_there_before_is_noticed(others, measured, perform):
    path = measured.kernel("schedule", 5)
    path.write_bytes(others.kernel("schedule", 5).read_bytes())
    path.with_suffix(".json").unlink()
    with pytest.raises(entk.ResumeError, match=r"step-000005\.h5"):
        perform(measured, "kernels")
