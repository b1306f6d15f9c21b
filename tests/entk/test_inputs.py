"""What cannot be served is one clear error, and the model is left as it was, served or not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import entk
from tests.cases import CASES, fn, of


def mlp(dtype=torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype).eval()


X = torch.randn(3, 4)


def broken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    return model


BN = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).train()
NO_STATISTICS = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval()
MIXING = fn(lambda s, x: s.f(x - x.mean(0)), f=of(nn.Linear, 4, 2))().eval()
NOISY = fn(lambda s, x: F.dropout(s.f(x), 0.5), f=of(nn.Linear, 4, 2))().eval()
LATE_MIX = fn(lambda s, x: s.f(x) - s.f(x).mean(0), f=of(nn.Linear, 4, 2))().eval()
REDUCED = fn(lambda s, x: s.f(x).sum(0), f=of(nn.Linear, 4, 2))().eval()
CLASSES = fn(lambda s, x: s.f(x).argmax(1), f=of(nn.Linear, 4, 2))().eval()
BRANCHES = fn(lambda s, x: s.f(x) if x[0, 0] < 100 else s.g(x), f=of(nn.Linear, 4, 2), g=of(nn.Linear, 4, 2))().eval()  # fmt: skip
OVERWRITE = fn(lambda s, x: s.g(x) + s.f(x.mul_(2)), f=of(nn.Linear, 4, 2), g=of(nn.Linear, 4, 2))().eval()  # fmt: skip

REFUSED = {
    "batchnorm_training": (BN, X, {}, entk.ModelStateError, r"layer '1' \(BatchNorm1d\).*eval\(\)"),
    "batchnorm_batch_statistics": (NO_STATISTICS, X, {}, entk.ModelStateError, "track_running_stats=False"),
    "dropout_training": (nn.Sequential(nn.Linear(4, 2), nn.Dropout()), X, {}, entk.ModelStateError, "layer '1' .*training mode"),
    "attention_dropout_training": (nn.MultiheadAttention(4, 2, 0.5).train(), X, {}, entk.ModelStateError, r"\(MultiheadAttention\) is in training mode"),
    "recurrent_dropout_training": (nn.GRU(4, 3, 2, dropout=0.5).train(), X, {}, entk.ModelStateError, r"\(GRU\) is in training mode"),
    "functional_dropout": (NOISY, X, {}, entk.ModelStateError, "dropout is called with training=True"),
    "samples_mixed_before": (LATE_MIX, X, {}, entk.UnsupportedModelError, "mixes the samples"),
    "no_parameters": (nn.Tanh(), X, {}, entk.InputError, "no trainable parameter"),
    "frozen": (mlp().requires_grad_(False), X, {}, entk.InputError, "no trainable parameter"),
    "lazy": (nn.LazyLinear(2), X, {}, entk.InputError, "'weight' has no numbers yet"),
    "meta": (nn.Linear(4, 2, device="meta"), X.to("meta"), {}, entk.InputError, "'weight' has no numbers yet"),
    "backwards": (mlp(), X, {"select": slice(None, None, -1)}, entk.InputError, "the model has 2 outputs per sample"),
    "empty_batch": (mlp(), X[:0], {}, entk.InputError, "at least one sample"),
    "unknown_parameter": (mlp(), X, {"params": ["0.wieght"]}, entk.InputError, "'0.wieght', which the model does not have; it has 0.weight"),
    "no_names": (mlp(), X, {"params": []}, entk.InputError, "params= is empty"),
    "half": (mlp(torch.bfloat16), X.bfloat16(), {}, entk.InputError, "'0.weight' is torch.bfloat16, expected float32 or float64"),
    "dtypes": (mlp(), X.double(), {}, entk.InputError, "x is torch.float64 but the model's parameters are torch.float32"),
    "array": (mlp(), X.numpy(), {}, entk.InputError, "x is ndarray, expected a tensor"),
    "not_a_module": (lambda x: x, X, {}, entk.InputError, "model is function"),
    "reduced": (REDUCED, X, {}, entk.InputError, r"returned shape \(2,\) for 3 samples"),
    "no_outputs": (nn.Linear(4, 0).eval(), X, {}, entk.InputError, r"returned shape \(3, 0\), expected at least one output"),
    "integers": (CLASSES, X, {}, entk.InputError, "torch.int64, expected floating-point"),
    "other_shape": (mlp(), X, {"z": torch.randn(2, 5)}, entk.InputError, r"samples of shape \(5,\)"),
    "unknown_mode": (mlp(), X, {"outputs": "logits"}, entk.InputError, "outputs='logits', expected one of"),
    "unknown_precision": (mlp(), X, {"precision": "tf32"}, entk.InputError, "precision='tf32'"),
    "unknown_backend": (mlp(), X, {"backend": "cuda"}, entk.InputError, "backend='cuda', expected one of"),
    "backend_unavailable": (mlp(), X, {"backend": "triton"}, entk.BackendUnavailableError, "backend='triton' cannot serve: "),
    "memory_text": (mlp(), X, {"memory": "much"}, entk.InputError, "memory='much'"),
    "memory_small": (mlp(), X, {"memory": 100}, entk.InputError, "too small: tiles of 1 samples need about"),
    "nan": (broken(mlp()), X, {}, entk.InputError, "parameter '0.weight' has NaN or infinity in 1 of 20 entries"),
    "branches": (BRANCHES, torch.cat([X, 200 + X]), {}, entk.UnsupportedModelError, "depend on what else is in its batch"),
    "input_overwritten": (OVERWRITE, X, {}, entk.UnsupportedModelError, "overwrites the input of linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, x, options, error, text = REFUSED[name]
    x = x.clone() if isinstance(x, torch.Tensor) else x
    with pytest.raises(error, match=text):
        entk.ntk(model, x, **options)


def test_another_path_on_later_samples():
    x = torch.randn(20, 4)
    x[1] += 200  # not among the samples that the plan looks at
    plan = entk.plan_ntk(BRANCHES, x, block=1)
    with pytest.raises(entk.UnsupportedModelError, match="took another path"):
        entk.ntk(BRANCHES, x, plan=plan)


def test_input_dependence_on_the_batch_is_not_silent():
    """Centring the inputs mixes samples before any parameter: plain wrong if it went unnoticed."""
    with pytest.raises(entk.UnsupportedModelError, match="mixes the samples"):
        entk.ntk(nn.Sequential(nn.Linear(4, 4), MIXING), X)


def test_paths_that_are_seldom_dropped():
    """All passes that are looked at may be the same by chance, and a later one another."""
    model = fn(lambda s, x: s.f(x * torch.empty(len(x), 1).bernoulli_(0.99)), f=of(nn.Linear, 4, 2))
    for call in (entk.ntk, entk.ntk_operator):
        with pytest.raises(
            entk.UnsupportedModelError, match=r"draws random numbers.*model.eval\(\)"
        ):
            call(model().eval(), X)


def test_random_numbers_of_a_seed_of_the_models_own():
    def forward(s, x):
        torch.manual_seed(3)
        return s.f(x * torch.rand(4))

    model = fn(forward, f=of(nn.Linear, 4, 2))().eval()
    mask = torch.rand(4, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(entk.ntk(model, X), entk.ntk(model.f, X * mask))


def snapshot(model: nn.Module) -> tuple:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    parameters = [(n, p.requires_grad, p.grad is None, id(p)) for n, p in model.named_parameters()]
    return [m.training for m in model.modules()], parameters, hooks


@pytest.mark.parametrize("name", ["resnet_a", "gpt_tied", "lstm", "frozen", "batchnorm1d"])
def test_the_model_is_left_alone(name):
    case = next(c for c in CASES if c.name == name)
    model, x, z = case.make()
    before, state = snapshot(model), copy.deepcopy(model.state_dict())
    entk.ntk(model, x, z, outputs="trace")
    with pytest.raises(entk.InputError):
        entk.ntk(model, x[:0])
    model.train()
    if any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules()):
        with pytest.raises(entk.ModelStateError):
            entk.ntk(model, x)
    model.eval()
    assert snapshot(model) == before
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_buffers_written_in_the_forward_pass_are_the_copys():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 2)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += len(x)
            return self.f(x)

    model = Counting().eval()
    entk.ntk(model, X)
    assert model.seen == 0


def test_works_without_grad_mode():
    with torch.no_grad():
        inside = entk.ntk(model := mlp(), X)
    assert torch.equal(inside, entk.ntk(model, X))


def test_ieee_is_enforced_and_restored():
    before = torch.get_float32_matmul_precision()
    model, x = mlp(), torch.randn(6, 4)
    exact = entk.ntk(model, x)
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(entk.ntk(model, x), exact)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_subset_of_parameters_frozen_ones_too():
    model = mlp(torch.float64).requires_grad_(False)
    x = torch.randn(3, 4, dtype=torch.float64)
    whole = entk.ntk(copy.deepcopy(model).requires_grad_(), x, by_layer=False)
    first = entk.ntk(model, x, params=["0.weight", "0.bias"])
    last = entk.ntk(model, x, params=["2.weight", "2.bias"])
    torch.testing.assert_close(first + last, whole, rtol=1e-12, atol=1e-12)
    assert not any(p.requires_grad for p in model.parameters())


class FrozenFirst(nn.Module):
    """A frozen parameter of another dtype comes before those of the kernel."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5, dtype=dtype).requires_grad_(False), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(self.a(x.to(self.a.weight.dtype)).to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_frozen_first_parameter_does_not_set_the_dtype(dtype, tmp_path):
    model = FrozenFirst(dtype).eval()
    assert entk.plan_ntk(model, X).dtype == "float32"
    kernel = entk.ntk(model, X)
    rows = torch.cat([j.flatten(2) for j in entk.jacobian(model, X).values()], 2).flatten(0, 1)
    torch.testing.assert_close(kernel.reshape(6, 6), rows @ rows.mT)
    with entk.write_ntk(tmp_path / "k.h5", model, X) as file:
        assert torch.equal(file[:], kernel.reshape(6, 6))
    assert entk.kernel_distance(model, model, X) == 0.0


class AsBytes:
    def __fspath__(self):
        return b"k.h5"


@pytest.mark.parametrize(
    "path",
    ["k" * 300, "k\0.h5", "\ud800.h5", b"k.h5", AsBytes(), 3],
    ids=["long", "zero byte", "surrogate", "bytes", "as bytes", "number"],
)
@pytest.mark.parametrize("call", ["write_ntk", "open_kernel", "exclusive"])
def test_paths_that_cannot_be(call, path):
    rest = (mlp(), X) if call == "write_ntk" else ()
    with pytest.raises(entk.InputError, match=r"^path="), getattr(entk, call)(path, *rest):
        pass


def test_a_sample_that_is_one_number_and_no_number():
    x = torch.tensor([1.0, 2.0, torch.nan])
    with pytest.raises(entk.InputError, match="x has NaN or infinity in sample 2, and so have"):
        entk.ntk(lambda p, x: x[:, None] * p["w"], x, params={"w": torch.ones(2)})


def test_a_file_that_has_been_closed(tmp_path):
    entk.write_ntk(tmp_path / "k.h5", mlp(), X).close()
    with entk.open_kernel(tmp_path / "k.h5") as file:
        pass
    for read in (lambda: file[0], lambda: file.chunks, lambda: file.sketch_error):
        with pytest.raises(entk.InputError, match=r"k\.h5 has been closed; open it again"):
            read()
    assert file.shape == (6, 6)


@pytest.mark.parametrize("name", ["a/b", "/b", "b/", "b//c", "b/./c", "b\0"])
def test_layers_that_cannot_be_in_a_file(name, tmp_path):
    params = {"a": {"w": torch.ones(4)}, name: {"w": torch.ones(4)}}
    options = {"params": params, "by_layer": True}

    def function(p, x):
        return x * p["a"]["w"] * p[name]["w"]

    assert len(entk.ntk(function, X, **options)) == 2
    with pytest.raises(entk.InputError, match=r"^layer .* cannot be a dataset of its own"):
        entk.write_ntk(tmp_path / "k.h5", function, X, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".b", "b.", "b..c"])
def test_keys_that_are_no_names(name):
    with pytest.raises(entk.InputError, match=r"params= has the key .*, expected names"):
        entk.ntk(lambda p, x: x * p[name], X, params={name: torch.ones(4)})


def test_a_plan_of_another_model_with_the_same_names():
    other = fn(lambda s, x: x @ s.f.weight.sin().T * s.f.bias.exp(), f=of(nn.Linear, 4, 2))()
    plan = entk.plan_ntk(fn(lambda s, x: s.f(x), f=of(nn.Linear, 4, 2))(), X, strategy="pairs")
    with pytest.raises(entk.InputError, match="another model that uses them otherwise"):
        entk.ntk(other, X, plan=plan)
