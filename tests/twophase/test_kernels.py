import pytest
import torch

import entk
from twophase import config, kernels, train
from twophase.rundir import RunDir


def test_probe_is_fixed_and_not_augmented(tiny, values, dataset):
    x = kernels.probe(tiny, dataset)
    assert x.shape == (5, 1, 8, 8)
    assert torch.equal(x, kernels.probe(tiny, dataset))
    rows = {tuple(r.flatten().tolist()) for r in dataset.x_train}
    assert len({tuple(r.flatten().tolist()) for r in x} & rows) == 5
    other = config.build(values, ["seed=1"])
    assert not torch.equal(x, kernels.probe(other, dataset))


def test_file_is_the_kernel_of_the_checkpoint(finished, dataset):
    c = finished.config
    state = finished.load_state(finished.checkpoint("constant", 10))
    expected = entk.ntk(train.evaluated(c, dataset, state), kernels.probe(c, dataset))
    with entk.open_kernel(finished.kernel("constant", 10)) as file:
        torch.testing.assert_close(file[:, :].reshape(expected.shape), expected)
        assert file.provenance["outputs"] == "all"


@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace", "sum"])
def test_norm_and_trace_in_every_output_mode(values, tmp_path, dataset, outputs, perform):
    sets = [f"kernels.outputs={outputs}", "kernels.steps=[0, 5]", 'arms=["schedule"]']
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "kernels")
    row = run.load_table("kernel")[1]
    state = run.load_state(run.checkpoint("schedule", 5))
    model = train.evaluated(run.config, dataset, state)
    full = entk.ntk(model, kernels.probe(run.config, dataset), outputs=outputs).double()
    assert float(row["frobenius_norm"]) == pytest.approx(full.norm().item(), rel=1e-6)
    if outputs == "all":
        full = full.flatten(0, 1).flatten(1)
    trace = full.diagonal(dim1=-2, dim2=-1).sum().item()
    assert float(row["trace"]) == pytest.approx(trace, rel=1e-6)


def test_shards_left_by_a_kill_after_the_file_appeared_go(finished, tmp_path, perform, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    run = RunDir.create(tmp_path / "run", finished.config)
    monkeypatch.setattr("entk.shards.shutil.rmtree", kill)  # the next thing after it
    with pytest.raises(Killed):
        perform(run, "kernels")
    monkeypatch.undo()
    assert list(run.path.glob("kernels/*/*.parts/shard-*"))
    perform(run, "kernels")
    assert not list(run.path.glob("kernels/*/*.parts"))
    assert {p.name: p.read_bytes() for p in run.path.glob("kernels/*/*")} == {
        p.name: p.read_bytes() for p in finished.path.glob("kernels/*/*")
    }
