import sys

import pytest
import torch

import entk
from twophase import config, kernels, spectra, train
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

    matrix = torch.block_diag(*full) if outputs == "diagonal" else full
    values = torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)
    listed = [r for r in run.load_table("spectrum") if r["step"] == "5"]
    found = [float(r["eigenvalue"]) for r in listed]
    assert found == pytest.approx(values[:10].tolist(), rel=1e-5, abs=1e-6 * values[0].item())
    assert [r["rank"] for r in listed] == [str(k + 1) for k in range(len(found))]
    p = values / values.sum()
    entropy = -(p * p.clamp(min=1e-300).log()).sum()
    assert float(row["entropy_rank"]) == pytest.approx(entropy.exp().item(), rel=1e-3)
    assert float(row["participation_rank"]) == pytest.approx(1 / p.square().sum().item(), rel=1e-5)
    assert float(row["stable_rank"]) == pytest.approx(1 / p[0].item(), rel=1e-5)

    n, labels = 5, dataset.y_train[kernels.probe_rows(run.config, dataset)]
    y = torch.nn.functional.one_hot(labels, dataset.classes).double()
    if outputs == "diagonal":
        full = full.sum(0)
    for name, middle in (
        ("alignment", torch.eye(n).double()),
        ("centred_alignment", torch.eye(n).double() - 1 / n),
    ):
        h, t = middle, middle @ y
        target = t @ t.mT
        if outputs == "all":
            h = torch.kron(middle, torch.eye(dataset.classes).double())
            target = t.flatten()[:, None] * t.flatten()
        centred = h @ full @ h
        expected = (centred * target).sum() / centred.norm() / target.norm()
        assert float(row[name]) == pytest.approx(expected.item(), rel=1e-5)


def test_large_kernels_have_their_largest_eigenvalues_only(finished, monkeypatch):
    with entk.open_kernel(finished.kernel("schedule", 20)) as file:
        values, rank = spectra.largest(file)
        monkeypatch.setattr(spectra, "DENSE", file.shape[0] - 1)
        monkeypatch.setattr(sys.modules["entk.spectrum"], "DENSE", file.shape[0] - 1)
        assert rank is not None
        few, none = spectra.largest(file)
    assert none is None
    torch.testing.assert_close(few, values, rtol=1e-5, atol=0)


def test_a_kernel_without_a_direction_has_a_size_only(tmp_path):
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(2, 3)

        def forward(self, x):
            return 0 * self.fc(x)

    with entk.write_ntk(tmp_path / "k.h5", Constant(), torch.randn(4, 2)) as file:
        row, values = kernels.describe(file, torch.tensor([0, 1, 2, 0]))
    assert (row["frobenius_norm"], row["stable_rank"], values) == (0.0, None, [])


def test_labels_all_alike_have_no_centred_alignment(finished):
    with entk.open_kernel(finished.kernel("schedule", 20)) as file:
        found = spectra.alignments(file, torch.ones(5, dtype=torch.long))
    assert found["centred_alignment"] is None
    assert 0 < found["alignment"] < 1


@pytest.mark.parametrize("outputs", ["all", "diagonal", "trace"])
def test_one_kernel_is_computed_again(values, tmp_path, dataset, outputs, perform, monkeypatch):
    monkeypatch.setattr(kernels, "CHECKED", 4)  # fewer than the probe's 5
    sets = [f"kernels.outputs={outputs}", "kernels.steps=[0, 5]", 'arms=["schedule"]']
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "kernels")
    found = {r["check"]: r for r in run.load_table("checks")}
    assert list(found) == ["tiles", "float64"]
    for row in found.values():
        assert (row["arm"], row["step"], row["samples"]) == ("schedule", "5", "4")
        assert 0 <= float(row["relative_difference"]) < 1e-5
        assert float(row["distance"]) < 1e-10
    model = train.evaluated(run.config, dataset, run.load_state(run.checkpoint("schedule", 5)))
    x = kernels.probe(run.config, dataset)
    exact = entk.ntk(model.double(), x.double(), outputs=outputs)
    with entk.open_kernel(run.kernel("schedule", 5)) as file:
        stored = file[:].double().reshape(exact.shape)
    part = (slice(4), slice(None), slice(4)) if outputs == "all" else (..., slice(4), slice(4))
    apart = (stored[part] - exact[part]).norm() / exact[part].norm()
    assert float(found["float64"]["relative_difference"]) == pytest.approx(apart.item(), rel=1e-6)
    assert apart > 0


def test_shards_left_by_a_kill_after_the_file_appeared_go(finished, tmp_path, perform, monkeypatch):
    class Killed(BaseException):
        pass

    real = entk.shards.publish

    def kill(temporary, final):
        real(temporary, final)
        if final.parent.name == "schedule":
            raise Killed

    run = RunDir.create(tmp_path / "run", finished.config)
    monkeypatch.setattr("entk.shards.publish", kill)
    with pytest.raises(Killed):
        perform(run, "kernels")
    monkeypatch.undo()
    assert list(run.path.glob("kernels/*/*.parts/shard-*"))
    perform(run, "kernels")
    assert not list(run.path.glob("kernels/*/*.parts"))
    assert {p.name: p.read_bytes() for p in run.path.glob("kernels/*/*")} == {
        p.name: p.read_bytes() for p in finished.path.glob("kernels/*/*")
    }
