import numpy as np
import pytest
import torch

from twophase import config, linear, regression, train
from twophase.rundir import RunDir

TAYLOR = ("taylor", "taylor-keep", "taylor-running", "tangent", "tangent-keep-running")


def test_rows_are_variants_by_switch_step_and_the_run_never_switched(finished):
    rows = finished.load_table("linear")
    assert [(r["variant"], r["switch_step"], r["step"]) for r in rows] == [
        ("taylor", "0", "20"),
        ("taylor", "10", "20"),
        ("nonlinear-frozen", "0", "20"),
        ("nonlinear-frozen", "10", "20"),
        ("nonlinear", "20", "20"),
    ]
    assert [tuple(rows[0])] == [linear.COLUMNS]
    assert {r["diverged"] for r in rows} == {"False"}
    assert [r["test_samples"] for r in rows] == ["20"] * 4 + [""]
    train_rows = finished.load_table("train")
    full = next(r for r in train_rows if (r["arm"], r["step"]) == ("schedule", "20"))
    assert all(rows[-1][k] == full[k] for k in linear.COLUMNS[7:])
    assert len({r["train_loss"] for r in rows}) == 5
    means = [(r["switch_step"], r["mean"], r["samples"]) for r in finished.load_table("regression")]
    assert means == [(t, mean, "6") for t in ("0", "10") for mean in ("zero", "network")]


@pytest.mark.parametrize("variant", [*TAYLOR, "nonlinear-frozen", "nonlinear-frozen-keep-running"])
def test_switched_run_by_hand(values, dataset, tmp_path, variant, perform):
    """SGD written out, on jvp's own Taylor model at w_t or on the network in eval mode."""
    sets = [f'linear.variants=["{variant}"]', "linear.switch=[16]", "linear.rate_factor=0.5"]
    run = RunDir.create(tmp_path / "run", config.build(values, [*sets, "linear.regression=0"]))
    perform(run, "linear")
    c, t = run.config, run.config.training
    state = run.load_state(run.checkpoint("schedule", 16))
    model = (train.network if "running" in variant else train.evaluated)(c, dataset, state)
    anchor = {n: p.detach() for n, p in model.named_parameters()}
    weights = {n: p.clone() for n, p in anchor.items()}
    speed = {n: state[f"momentum.{n}"] for n in anchor} if "keep" in variant else {}

    def outputs(w, x):
        def f(p):
            return torch.func.functional_call(model, p, (x,))

        if variant.startswith("nonlinear"):
            return f(w)
        out, change = torch.func.jvp(f, (anchor,), ({n: w[n] - anchor[n] for n in w},))
        return out + change if variant.startswith("taylor") else change

    for step in range(16, 20):
        rows = train.batch_indices(len(dataset.x_train), t.batch, c.seed, step)
        x = train.augment(dataset.x_train[rows], c.data, c.seed, step)

        def loss(w, x=x, y=dataset.y_train[rows]):
            return torch.nn.functional.cross_entropy(outputs(w, x), y)

        gradient = torch.func.grad(loss)(weights)
        for n in weights:
            g = gradient[n] + t.weight_decay * weights[n]
            speed[n] = t.momentum * speed[n] + g if n in speed else g
            weights[n] = weights[n] - 0.5 * c.rate("schedule", step) * speed[n]
    with torch.no_grad():
        out = outputs(weights, dataset.x_test).double()
    expected = torch.nn.functional.cross_entropy(out, dataset.y_test).item()
    row = run.load_table("linear")[0]
    assert float(row["test_loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("variant", TAYLOR)
def test_at_its_switch_step_it_is_the_network(finished, dataset, variant):
    """So a switch at the last step would have the network's own scores; the tangent is 0 there."""
    c = finished.config
    state = finished.load_state(finished.checkpoint("schedule", 20))
    model, momentum = linear.start(c, dataset, state, variant)
    assert bool(momentum) == ("keep" in variant)
    assert linear.start_error(c, dataset, state, variant) <= 1e-6
    if variant == "taylor":
        row = finished.load_table("linear")[-1]
        found = train.scores(model, dataset)
        assert found == pytest.approx({k: float(row[k]) for k in found}, rel=1e-6)
    elif variant.startswith("tangent"):
        assert not model(dataset.x_test).any()


def test_start_error_tells_a_model_of_another_state(finished, dataset, monkeypatch):
    state = finished.load_state(finished.checkpoint("schedule", 20))
    linearize = linear.entk.linearize

    def moved(model, **options):
        found = linearize(model, **options)
        with torch.no_grad():
            next(found.parameters()).mul_(1.5)
        return found

    monkeypatch.setattr(linear.entk, "linearize", moved)
    assert linear.start_error(finished.config, dataset, state, "taylor") > 0.01


def test_without_batch_norm_nothing_is_frozen(values, tmp_path, perform):
    """The network with momentum kept is then the main run itself, bit for bit."""
    sets = ["model.name=mlp", "chaos.align=none", "linear.regression=0", "linear.switch=[0, 10]"]
    sets += [
        'linear.variants=["nonlinear-frozen-keep", "nonlinear-frozen", "taylor-keep", "taylor"]'
    ]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "linear")
    rows = {(r["variant"], r["switch_step"]): r for r in run.load_table("linear")}
    scores = {k: [r[c] for c in linear.COLUMNS[7:]] for k, r in rows.items()}
    main = scores["nonlinear", "20"]
    assert scores["nonlinear-frozen-keep", "10"] == scores["nonlinear-frozen-keep", "0"] == main
    assert scores["nonlinear-frozen", "10"] != main
    assert scores["taylor-keep", "0"] == scores["taylor", "0"]
    assert scores["taylor-keep", "10"] != scores["taylor", "10"]


def test_divergence_is_a_result(values, tmp_path, perform):
    sets = ["linear.rate_factor=1e36", "linear.switch=[16]", "linear.regression=0"]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "linear")
    row = run.load_table("linear")[0]
    assert (row["variant"], row["diverged"], row["test_loss"]) == ("taylor", "True", "")
    assert run.load_table("regression") == []


@pytest.mark.parametrize("mode", ["all", "trace", "diagonal", "sum"])
def test_regression_by_solving(values, dataset, mode):
    """Both means, with the Jacobians of torch.func and numpy's solver, at the ridge of the row."""
    c = config.build(values, [f"kernels.outputs={mode}", "linear.regression=7"])
    state = train.initial(c, dataset)
    rows = regression.measure(c, dataset, state, 0)
    assert [r["mean"] for r in rows] == ["zero", "network"]
    model = train.evaluated(c, dataset, state)
    order = torch.randperm(40, generator=regression.seeds.generator(c.seed, "regression"))[:7]
    x, labels = dataset.x_train[order], dataset.y_train[order]
    k, crossed = (full_kernel(model, z, x, mode).numpy() for z in (x, dataset.x_test))
    for row in rows:
        f0, f0_test = (
            torch.softmax(model(z).detach().double(), 1).numpy() - 1 / dataset.classes
            if row["mean"] == "network"
            else np.zeros((len(z), dataset.classes))
            for z in (x, dataset.x_test)
        )
        y = np.eye(dataset.classes)[labels] - 1 / dataset.classes - f0
        # the trace of a kernel that all outputs share is that of one of them
        ridge = row["ridge"] * np.trace(k) / (1 if mode in ("all", "diagonal") else dataset.classes)
        dual = np.linalg.solve(k + ridge * np.eye(len(k)), y.flatten())
        out = f0_test + (crossed @ dual).reshape(f0_test.shape)
        assert row["test_error"] == np.mean(out.argmax(1) != dataset.y_test.numpy())
        assert 0 <= row["left_out_error"] <= 1


def full_kernel(model, z, x, mode):
    """[M * O, N * O] in float64, whatever the mode: what it stands for with all outputs."""
    jacobians = []
    for inputs in (z, x):
        f = torch.func.jacrev(lambda p, s=inputs: torch.func.functional_call(model, p, (s,)))
        parts = f(dict(model.named_parameters())).values()
        jacobians.append(torch.cat([j.detach().double().flatten(2) for j in parts], 2))
    a, b = jacobians
    if mode == "all":
        return torch.einsum("mop,nqp->monq", a, b).flatten(2).flatten(0, 1)
    eye = torch.eye(a.shape[1]).double()
    if mode == "diagonal":
        return torch.einsum("mop,nop,oq->monq", a, b, eye).flatten(2).flatten(0, 1)
    if mode == "sum":
        a, b = a.sum(1, keepdim=True), b.sum(1, keepdim=True)
    return torch.kron(torch.einsum("mop,nop->mn", a, b), eye)


def test_ridge_is_that_of_least_left_out_error():
    """A linear kernel and noisy labels: the minimum over the grid, samples really left out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator)
    k, y = x @ x.T, x[:, :2] + 0.5 * torch.randn(12, 2, generator=generator)
    ridge, left_out = regression.fit(k, y)
    trace, errors = k.trace().item(), []
    for power in range(8):
        candidate = torch.finfo(torch.float32).eps * trace * 10**power
        total = 0.0
        for n in range(12):
            rest = [i for i in range(12) if i != n]
            a = k[rest][:, rest].double() + candidate * torch.eye(11).double()
            found = k[n, rest].double() @ torch.linalg.solve(a, y[rest].double())
            total += (found - y[n]).square().sum().item()
        errors.append(total)
    best = int(np.argmin(errors))
    assert 0 < best < 7
    assert ridge == pytest.approx(torch.finfo(torch.float32).eps * trace * 10**best)
    assert (left_out - y).square().sum().item() == pytest.approx(errors[best], rel=1e-3)
