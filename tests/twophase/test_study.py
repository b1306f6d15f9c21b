"""A training loop of one's own: recorded, analysed, and its twins followed."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import entk
import twophase
from tests.twophase.page import Page
from twophase import metrics, recorder, seeds
from twophase.errors import UserError

STEPS = range(0, 41, 10)
SETTINGS = ["kernels.probe=8", "chaos.t0=[0, 20]", "chaos.eps=1e-3", "chaos.alphas=3"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.bn, self.two = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)

    def forward(self, x):
        return self.two(self.bn(self.one(x)).relu())


def seeded():
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator)
    return x, (x[:, 0] + x[:, 1] ** 2 > 0.5).long() + (x[:, 2] > 1).long()


def update(model, optimizer, samples, step):
    x, y = samples
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:16]
    optimizer.zero_grad()
    F.cross_entropy(model(x[:40][rows]), y[:40][rows]).backward()
    optimizer.step()


def parts():
    model = seeded().train()
    return model, torch.optim.Adam(model.parameters(), lr=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, samples):
    """A loop with Adam that twophase knows nothing of."""
    path = tmp_path_factory.mktemp("own") / "checkpoints"
    recorder = twophase.Recorder(path, STEPS)
    model, optimizer = parts()
    for step in range(40):
        recorder(step, model, optimizer=optimizer)
        update(model, optimizer, samples, step)
    recorder(40, model, optimizer=optimizer)
    return path


@pytest.fixture(scope="module")
def advance(samples):
    def advance(state, start, stop):
        model, optimizer = parts()
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for step in range(start, stop):
            update(model, optimizer, samples, step)
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    return advance


def study(out, folder, samples, settings=SETTINGS, build=seeded):
    x, y = samples
    parts = {"train": (x[:40], y[:40]), "test": (x[40:], y[40:])}
    return twophase.Study(out, folder, build, **parts, settings=settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder, samples, advance):
    found = study(tmp_path_factory.mktemp("study") / "mine", folder, samples)
    found.cone()
    found.twins(advance)
    found.report()
    return found.run


def test_recorder_saves_the_steps_that_it_was_given(folder):
    files = recorder.checkpoints(folder)
    assert list(files) == list(STEPS)
    state = recorder.read(files[20])
    assert set(state) == {"model", "optimizer"}
    assert state["optimizer"]["state"][0]["step"] == 20


@pytest.mark.parametrize("value", [np.float64(0.3), np.arange(3), lambda: 0])
def test_recorder_refuses_what_could_not_be_read_when_training_is_over(tmp_path, value):
    recorder = twophase.Recorder(tmp_path, (0,))
    with pytest.raises(UserError, match=r"given, {'loss': .*cannot be read back; give tensors"):
        recorder(0, seeded(), state=torch.get_rng_state(), loss=value)
    assert recorder(0, seeded(), loss=0.3).exists()


def test_distances_are_those_of_the_networks(finished, folder, samples):
    """By hand: each network in float64, statistics of the training samples, kernels by autograd."""
    kernels = {}
    for step in (0, 40):
        model = seeded()
        model.load_state_dict(recorder.read(recorder.checkpoints(folder)[step])["model"])
        metrics.reestimate(model, samples[0][:40])
        order = torch.randperm(40, generator=seeds.generator(0, "probe"))
        jacobian = torch.func.vmap(
            torch.func.jacrev(
                lambda p, v, m=model: torch.func.functional_call(m, p, (v[None],))[0]
            ),
            (None, 0),
        )(dict(model.double().named_parameters()), samples[0][order[:8]].double())
        flat = torch.cat([j.flatten(2) for j in jacobian.values()], 2).flatten(0, 1).detach()
        kernels[step] = flat @ flat.mT
    table = {
        (r["step_i"], r["step_j"]): float(r["distance"]) for r in finished.load_table("cone_matrix")
    }
    expected = entk.kernel_distance(kernels[0], kernels[40])
    assert table["0", "40"] == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3


def test_twins_are_what_the_callers_loop_makes_of_the_moved_state(finished):
    rows = finished.load_table("chaos")
    assert {(r["t0"], r["t1"]) for r in rows} == {("0", "40"), ("20", "40")}
    for r in rows:
        moved = r["kind"] == "perturbed"
        assert (float(r["l2"]) > 0) == moved
        assert (float(r["realised_l2"]) == pytest.approx(1e-3, rel=1e-2)) == moved


def test_report_says_what_it_knows_and_claims_no_training_of_its_own(finished):
    page = finished.report.read_text()
    Page(page)
    facts = json.loads((finished.path / "report.json").read_text())
    assert facts["warnings"] == []
    assert "Trained elsewhere; 5 checkpoints up to step 40." in page
    assert "the user’s own loop, to step 40" in page
    answers = {a["question"]: a["word"] for a in facts["answers"]}
    assert answers["ε = 0 twins"] == "exactly 0"
    assert {"train.csv"} & set(page.split('"'))


def test_a_loop_that_does_not_repeat_is_found_out(tmp_path, folder, samples, advance):
    def other(state, start, stop):
        return advance(state, start + 1, stop + 1)  # the batches of other steps

    found = study(tmp_path / "mine", folder, samples, [*SETTINGS, "chaos.draws=1"])
    found.cone()
    found.twins(other)
    found.report()
    facts = json.loads((found.run.path / "report.json").read_text())
    answers = {a["question"]: a["word"] for a in facts["answers"]}
    assert answers["ε = 0 twins"] == "not 0"
    assert any("ε = 0 twins differ" in line for line in facts["warnings"])


def test_the_callers_loop_has_its_own_number_of_threads(tmp_path, folder, samples, advance):
    """Other sums than those of the run, and the twin with eps = 0 would end elsewhere."""
    found = study(tmp_path / "mine", folder, samples, [*SETTINGS, "chaos.draws=1"])
    seen = []

    def counted(*arguments):
        seen.append(torch.get_num_threads())
        return advance(*arguments)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found.cone()
        found.twins(counted)
        assert set(seen) == {3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_exists_is_not_computed_again(finished, folder, samples):
    def refuse(*arguments):
        raise AssertionError("trained again")

    before = finished.table("chaos").read_bytes()
    again = study(finished.path, folder, samples)
    again.twins(refuse)
    assert finished.table("chaos").read_bytes() == before


def test_checkpoints_need_not_begin_at_step_0(tmp_path, folder, samples):
    later = tmp_path / "later"
    later.mkdir()
    for step, path in recorder.checkpoints(folder).items():
        if step:
            (later / f"epoch=1-step={step}.ckpt").write_bytes(path.read_bytes())
    found = study(tmp_path / "mine", later, samples, ["kernels.probe=8"])
    found.cone()
    found.report()
    assert found.run.config.checkpoints == (10, 20, 30, 40)
    assert len(found.run.load_table("train")) == 4


def test_a_folder_that_was_renamed_or_is_the_working_directory_is_gone_on_with(
    finished, folder, samples, tmp_path, monkeypatch
):
    moved = shutil.copytree(finished.path, tmp_path / "renamed")
    assert study(moved, folder, samples).run.config == finished.config
    monkeypatch.chdir(moved)
    assert study(".", folder, samples).run.config == finished.config


@pytest.mark.parametrize("form", ["plain", "lightning", "compiled", "safetensors"])
def test_checkpoints_of_others_are_read(tmp_path, form):
    weights = seeded().state_dict()
    path = tmp_path / "epoch=3-step=120.ckpt"
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    elif form == "lightning":
        torch.save({"state_dict": weights, "epoch": 3, "lr": 0.1}, path)
    elif form == "compiled":
        torch.save({"model": {f"_orig_mod.{k}": v for k, v in weights.items()}}, path)
    else:
        torch.save(weights, path)
    assert recorder.checkpoints(tmp_path) == {120: path}
    found = recorder.weights(recorder.read(path), path)
    assert all(torch.equal(found[k], v) for k, v in weights.items())


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no checkpoint", "not readable as a checkpoint"),
        ([1, 2], "holds a list, expected a state dict"),
        ({"epoch": 3}, "no state dict in it"),
        (Evil(), "not readable as a checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints_are_one_line(tmp_path, capsys, content, said):
    path = tmp_path / "step-1.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=said) as error:
        recorder.weights(recorder.read(path), path)
    assert "\n" not in str(error.value)
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "build", "said"),
    [
        (["chaos.t0=[15]"], seeded, r"no checkpoint at steps \[15\]"),
        (["chaos.growth=5"], seeded, "need twophase's own training loop"),
        (["chaos.align='weights'"], seeded, "twophase's own networks only"),
        (["kernels.probe=99"], seeded, "there are only 40 training samples"),
        (["model.name='mlp'"], seeded, "own training is what twophase.Study makes"),
        ([], lambda: nn.Linear(5, 3), "does not fit the network: .*Missing key"),
    ],
)
def test_mistakes_are_one_line(tmp_path, folder, samples, settings, build, said):
    with pytest.raises(UserError, match=said) as error:
        study(tmp_path / "mine", folder, samples, settings, build)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mine").exists()


def test_folders_without_enough_are_named(tmp_path, samples):
    with pytest.raises(UserError, match="is no folder"):
        recorder.checkpoints(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no checkpoints"):
        recorder.checkpoints(tmp_path)
    for name in ("a-1.pt", "b-1.pt"):
        torch.save(seeded().state_dict(), tmp_path / name)
    with pytest.raises(UserError, match="both of step 1"):
        recorder.checkpoints(tmp_path)
    (tmp_path / "b-1.pt").unlink()
    with pytest.raises(UserError, match="at least three checkpoints, there are 1"):
        study(tmp_path / "mine", tmp_path, samples)
