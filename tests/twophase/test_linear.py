import pytest
import torch

from twophase import config, linear, train
from twophase.rundir import RunDir


def test_rows_are_lazy_switched_and_never_switched(finished):
    rows = finished.load_table("linear")
    assert [(r["switch_step"], r["step"], r["kind"]) for r in rows] == [
        ("0", "20", "lazy"),
        ("10", "20", "linearised"),
        ("20", "20", "nonlinear"),
    ]
    assert [tuple(rows[0])] == [linear.COLUMNS]
    assert {r["diverged"] for r in rows} == {"False"}
    assert [r["test_samples"] for r in rows] == ["20", "20", ""]
    train_rows = finished.load_table("train")
    full = next(r for r in train_rows if (r["arm"], r["step"]) == ("schedule", "20"))
    assert all(rows[2][k] == full[k] for k in linear.COLUMNS[6:])
    assert len({r["train_loss"] for r in rows}) == 3


@pytest.mark.parametrize("momentum", ["reset", "keep"])
def test_switched_run_by_hand(values, dataset, tmp_path, momentum, perform):
    """The Taylor model's gradient at w: J(w_t)^T of the loss at f(w_t) + J (w - w_t)."""
    sets = [f"linear.momentum={momentum}", "linear.switch=[16]", "linear.rate_factor=0.5"]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "linear")
    c, t = run.config, run.config.training
    state = run.load_state(run.checkpoint("schedule", 16))
    model = train.evaluated(c, dataset, state)
    anchor = {n: p.detach() for n, p in model.named_parameters()}
    weights = {n: p.clone() for n, p in anchor.items()}
    speed = {n: state[f"momentum.{n}"] for n in anchor} if momentum == "keep" else {}

    def taylor(w, x):
        def f(p):
            return torch.func.functional_call(model, p, (x,))

        out, change = torch.func.jvp(f, (anchor,), ({n: w[n] - anchor[n] for n in w},))
        return out + change

    for step in range(16, 20):
        rows = train.batch_indices(len(dataset.x_train), t.batch, c.seed, step)
        x = train.augment(dataset.x_train[rows], c.data, c.seed, step)

        def loss(w, x=x, y=dataset.y_train[rows]):
            return torch.nn.functional.cross_entropy(taylor(w, x), y)

        gradient = torch.func.grad(loss)(weights)
        for n in weights:
            g = gradient[n] + t.weight_decay * weights[n]
            speed[n] = t.momentum * speed[n] + g if n in speed else g
            weights[n] = weights[n] - 0.5 * c.rate("schedule", step) * speed[n]
    with torch.no_grad():
        out = taylor(weights, dataset.x_test).double()
    expected = torch.nn.functional.cross_entropy(out, dataset.y_test).item()
    row = run.load_table("linear")[0]
    assert float(row["test_loss"]) == pytest.approx(expected, rel=1e-4)


def test_divergence_is_a_result(values, tmp_path, perform):
    sets = ["linear.rate_factor=1e36", "linear.switch=[16]"]
    run = RunDir.create(tmp_path / "run", config.build(values, sets))
    perform(run, "linear")
    row = run.load_table("linear")[0]
    assert (row["kind"], row["diverged"], row["test_loss"]) == ("linearised", "True", "")
