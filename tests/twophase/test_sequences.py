"""Every measure of a run whose samples have a label at each position."""

from dataclasses import replace

import pytest
import torch

import entk
from twophase import config, data, kernels, metrics, perturb, predictions, train, wording
from twophase.rundir import RunDir

VALUES = {
    "name": "letters",
    "arms": ["constant"],
    "data": {"source": "text", "context": 8, "train": 60, "test": 20, "scored": 30},
    "model": {"name": "gpt", "widths": [8], "heads": 2},
    "training": {"steps": 12, "batch": 10},
    "chaos": {"t0": [0, 6], "draws": 1, "alphas": 3, "eps": 1e-3, "growth": 3},
    "kernels": {"steps": [0, 6, 12], "probe": 4, "outputs": "trace"},
    "cone": {"tau": [0], "lags": [6]},
    "linear": {"switch": [0, 6], "arm": "constant", "rate_factor": 0.01},
}


@pytest.fixture(scope="module")
def letters():
    return config.build(VALUES)


@pytest.fixture(scope="module")
def samples(letters):
    return data.load(letters)


@pytest.fixture(scope="module")
def run(letters, tmp_path_factory, perform):
    run = RunDir.create(tmp_path_factory.mktemp("letters") / "run", letters)
    perform(run, "report")
    return run


def test_loss_and_error_are_means_over_positions(letters, samples):
    model = train.network(letters, samples, train.initial(letters, samples))
    loss, wrong = 0.0, 0
    with torch.no_grad():
        for x, y in zip(samples.x_test, samples.y_test, strict=True):
            out = model(x[None])[0].double()
            for row, label in zip(out, y, strict=True):
                loss -= row.log_softmax(0)[label].item()
                wrong += int(row.argmax() != label)
    found = metrics.score(metrics.logits(model, samples.x_test), samples.y_test)
    assert found.loss == pytest.approx(loss / 160, rel=1e-6)
    assert found.error == wrong / 160


def test_labels_of_positions_meet_their_own_logits():
    """Logits that say exactly y: no loss, no error; and those of two networks disagree nowhere."""
    y = torch.tensor([[0, 1, 2], [2, 2, 0]])
    out = 50.0 * torch.nn.functional.one_hot(y, 3).double()
    rows = out.flatten(0, -2)
    assert metrics.score(rows, y) == metrics.Score(0.0, 0.0)
    assert metrics.cross_entropy(out, y).item() == 0
    assert predictions.independent_disagreement(rows, rows.roll(1, 1), y) == 1.0


def test_gradient_of_a_perturbation_is_that_of_all_positions(letters, samples):
    whole = letters.model_copy(
        update={
            "chaos": letters.chaos.model_copy(update={"kind": "gradient"}),
            "training": letters.training.model_copy(update={"batch": 60}),
        }
    )
    state = train.initial(whole, samples)
    found = perturb.direction(whole, samples, state, 0, 1)
    model = train.network(whole, samples, state)
    losses = [
        torch.nn.functional.cross_entropy(model(samples.x_train)[:, t], samples.y_train[:, t])
        for t in range(8)
    ]
    (sum(losses) / 8).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    flat = torch.cat([v.flatten() for v in found.values()])
    cosine = torch.nn.functional.cosine_similarity(flat, expected, 0)
    assert cosine.item() == pytest.approx(1, abs=1e-9)


def test_controls_are_exactly_zero_and_twins_are_not(run):
    rows = run.load_table("chaos")
    for row in rows:
        values = [float(row[k]) for k in ("dissimilarity", "divergence", "softmax_distance")]
        values += [float(row["loss_barrier_test"])] if row["kind"] == "control" else []
        if row["t1"] == "12":
            values.append(float(row["kernel_distance"]))
        assert all(v == 0 if row["kind"] == "control" else v > 0 for v in values)
    assert {row["kind"] for row in rows} == {"control", "perturbed"}


def test_tangent_grows_with_the_twins(run):
    """Attention has the second derivative: for steps of a small difference the two are close."""
    rows = [r for r in run.load_table("growth") if r["kind"] == "perturbed"]
    for row in rows:
        assert float(row["tangent"]) == pytest.approx(float(row["l2"]), rel=0.05)


def test_kernel_file_is_that_of_the_last_position(run, samples):
    model = train.evaluated(run.config, samples, run.load_state(run.checkpoint("constant", 6)))
    x = kernels.probe(run.config, samples)
    rows = []
    for out in model.double()(x)[:, -1].flatten():
        grads = torch.autograd.grad(out, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    jacobian = torch.stack(rows).reshape(4, samples.classes, -1)
    expected = torch.einsum("nop,mop->nm", jacobian, jacobian)
    with entk.open_kernel(run.kernel("constant", 6)) as file:
        torch.testing.assert_close(file[:, :].double(), expected, rtol=1e-4, atol=1e-4)


def test_linearised_runs_have_scores(run):
    rows = run.load_table("linear")
    assert [(r["variant"], r["switch_step"]) for r in rows][:2] == [
        ("taylor", "0"),
        ("taylor", "6"),
    ]
    assert all(0 < float(r["test_loss"]) < 10 for r in rows)


def test_only_scored_samples_are_measured(letters, samples):
    """What is not among them may be anything; training sees them all."""
    assert samples.x_scored.shape == samples.y_scored.shape == (30, 8)
    rest = torch.ones(60, dtype=torch.bool).index_fill(0, samples.scored, False)
    other = replace(samples, y_train=torch.where(rest[:, None], 0, samples.y_train))
    start = train.initial(letters, samples)
    end = train.advance(letters, samples, "constant", start, 0, (4,))[4]
    one, two = (train.weights(s) for s in (start, end))
    model = train.evaluated(letters, samples, end)
    assert train.scores(model, samples) == train.scores(model, other)
    lines = [metrics.straight_line(model, one, two, d, letters) for d in (samples, other)]
    assert lines[0] == lines[1]
    moved = train.advance(letters, other, "constant", start, 0, (4,))[4]
    assert not torch.equal(moved["model.position"], end["model.position"])


def test_the_report_says_what_was_measured(run, letters):
    page = run.report.read_text()
    assert "gpt of width 8, 1 blocks, 2 heads on text, 8 characters a sample" in page
    assert "outputs = “trace” at the last position" in page
    captions = " ".join(wording.captions(letters, "float32").values())
    assert "batch" not in captions
    assert "training losses of 30 samples" in captions
    resnet = config.build({})
    assert wording.network(resnet) == "thin-resnet of width 16–32–64"
    assert "batch norm" in " ".join(wording.captions(resnet, "float32").values())
    assert wording.outputs(resnet) == "outputs = “all”"
