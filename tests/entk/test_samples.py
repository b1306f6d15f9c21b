"""Several tensors in and out, chosen outputs, functions of a dict of parameters."""

from __future__ import annotations

from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS
from tests import oracle, tolerance

Pair = namedtuple("Pair", "left right")
N, M = 5, 3


class Two(nn.Module):
    """Tokens and a mask in, a sequence of logits out, in the ways that models have of giving it."""

    def __init__(self, give=lambda y: y):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden, self.head = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.give = give
        self.double().eval()

    def forward(self, tokens, mask=None, *, scale=1.0, extra=None):
        h = torch.tanh(self.hidden(self.embed(tokens)))
        if mask is not None:
            h = h * mask[..., None]
        if extra is not None:
            h = h + extra["shift"][0][:, None, None]
        return self.give(scale * self.head(h))


class Packed(nn.Module):
    """The same with all inputs in one tensor, and one tensor out: what the oracle takes."""

    def __init__(self, model, unpack, take=lambda y: y):
        super().__init__()
        self.model, self.unpack, self.take = model, unpack, take

    def forward(self, x):
        args, kwargs = self.unpack(x)
        return self.take(self.model(*args, **kwargs))


def tokens_and_mask(n):
    g = torch.Generator().manual_seed(n)
    tokens = torch.randint(7, (n, 6), generator=g)
    mask = torch.randint(2, (n, 6), generator=g).double()
    return tokens, mask, torch.rand(n, generator=g, dtype=torch.float64)


def packed(tokens, mask, shift):
    return torch.cat([tokens.double(), mask, shift[:, None]], 1)


WAYS = {
    "tuple": (
        lambda t, m, s: (t, m),
        lambda x: ((x[:, :6].long(), x[:, 6:12]), {}),
    ),
    "one": (lambda t, m, s: (t,), lambda x: ((x[:, :6].long(),), {})),
    "none_among_them": (
        lambda t, m, s: [t, None],
        lambda x: ((x[:, :6].long(), None), {}),
    ),
    "dict": (
        lambda t, m, s: {"tokens": t, "mask": m, "scale": 0.5},
        lambda x: ((x[:, :6].long(), x[:, 6:12]), {"scale": 0.5}),
    ),
    "number_first": (
        lambda t, m, s: {"scale": 0.5, "tokens": t, "mask": m},
        lambda x: ((x[:, :6].long(), x[:, 6:12]), {"scale": 0.5}),
    ),
    "mapping": (
        lambda t, m, s: UserDict(mask=m, tokens=t),
        lambda x: ((x[:, :6].long(), x[:, 6:12]), {}),
    ),
    "nested": (
        lambda t, m, s: {"tokens": t, "extra": {"shift": (s, "a word")}},
        lambda x: ((x[:, :6].long(),), {"extra": {"shift": (x[:, 12], "a word")}}),
    ),
}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("way", WAYS)
def test_inputs(way, outputs):
    pack, unpack = WAYS[way]
    model = Two()
    one, two = tokens_and_mask(N), tokens_and_mask(M)
    x, z = pack(*one), pack(*two)
    for other, plain in ((None, None), (z, packed(*two))):
        expected = oracle.ntk(Packed(model, unpack), packed(*one), plain, outputs)
        found = entk.ntk(model, x, other, outputs=outputs)
        assert tolerance.error(found, expected) <= tolerance.FLOAT64
        plan = entk.plan_ntk(model, x, other, outputs=outputs, block=2, strict=True)
        found = entk.ntk(model, x, other, outputs=outputs, plan=plan)
        assert tolerance.error(found, expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("way", WAYS)
def test_one_sample(way):
    pack, unpack = WAYS[way]
    one = tokens_and_mask(1)
    expected = oracle.ntk(Packed(Two(), unpack), packed(*one))
    assert tolerance.error(entk.ntk(Two(), pack(*one)), expected) <= tolerance.FLOAT64


GIVEN = {
    "tuple": (lambda y: (y, y[:, 0] ** 2), None),
    "dict": (lambda y: {"a": y, "b": [y[:, 0] ** 2, None]}, None),
    "named_tuple": (lambda y: Pair(y[:, 0], y.sum((1, 2))), None),
    "logits": (lambda y: SimpleNamespace(logits=y, hidden=y**2), None),
    "attribute": (lambda y: SimpleNamespace(logits=y, hidden=y**2), "hidden"),
    "key": (lambda y: {"a": y, "b": y**2}, "b"),
    "function": (lambda y: {"a": y, "b": y**2}, lambda out: out["a"][:, -1]),
    "function_to_a_tuple": (lambda y: y, lambda out: (out[:, -1], out[:, 0])),
    "positions": (lambda y: y, [0, 17, 5]),
    "slice": (lambda y: y, slice(2, None, 4)),
    "positions_of_a_tuple": (lambda y: (y, y**2), [1, 20]),
}


def flat(y):
    """By definition: tensors in order, flattened and side by side."""
    if isinstance(y, SimpleNamespace):
        return flat(y.logits)
    if isinstance(y, torch.Tensor):
        return y.reshape(len(y), -1)
    parts = y.values() if isinstance(y, dict) else y
    return torch.cat([flat(part) for part in parts if part is not None], 1)


def taken(select):
    def take(y):
        if isinstance(select, str):
            return flat(y[select] if isinstance(y, dict) else getattr(y, select))
        if callable(select):
            return flat(select(y))
        return flat(y) if select is None else flat(y)[:, select]

    return take


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", GIVEN)
def test_outputs(name, outputs):
    give, select = GIVEN[name]
    model, x = Two(give), tokens_and_mask(N)[0]
    truth = Packed(model, lambda x: ((x,), {}), taken(select))
    expected = oracle.ntk(truth, x, None, outputs)
    found = entk.ntk(model, x, outputs=outputs, select=select)
    assert tolerance.error(found, expected) <= tolerance.FLOAT64


def test_select_everywhere(tmp_path):
    """The same outputs whatever is asked for, and names as the model has them."""
    model, x = Two(), tokens_and_mask(N)[0]
    select = lambda y: y[:, -1]  # noqa: E731
    kernel = entk.ntk(model, x, select=select)
    assert kernel.shape == (N, 3, N, 3)
    with entk.write_ntk(tmp_path / "k.h5", model, x, select=select) as file:
        assert torch.equal(file[:].view(kernel.shape), kernel)
        assert file.provenance["request"]["model"] == "Two"
    with pytest.raises(entk.ResumeError, match="outputs and gradients differ"):
        entk.write_ntk(tmp_path / "k.h5", model, x, select=lambda y: y[:, -2])
    entk.write_ntk(tmp_path / "k.h5", model, x, select=select).close()
    jacobian = entk.jacobian(model, x, select=select)
    assert {k: v.shape for k, v in jacobian.items()} == {
        k: (N, 3, *p.shape) for k, p in model.named_parameters()
    }
    linear = entk.linearize(model, select=select)
    assert torch.equal(linear(x), model(x)[:, -1])
    assert tolerance.error(entk.ntk(linear, x), kernel) <= tolerance.FLOAT64
    assert entk.kernel_distance(model, model, x, select=select) == 0
    states = [model.state_dict()] * 2
    assert entk.trajectory_distances(model, states, x, select=select)[0, 1] == 0


def test_write_takes_what_ntk_takes(tmp_path):
    tokens, mask, _ = tokens_and_mask(N)
    model, x = Two(), {"tokens": tokens, "mask": mask, "scale": 0.5}
    with entk.write_ntk(tmp_path / "k.h5", model, x) as file:
        assert torch.equal(file[:].view(N, 18, N, 18), entk.ntk(model, x))
    with pytest.raises(entk.ResumeError, match="x_sha256 differ"):
        entk.write_ntk(tmp_path / "k.h5", model, x | {"mask": 1 - mask})
    with pytest.raises(entk.ResumeError, match="arguments differ"):
        entk.write_ntk(tmp_path / "k.h5", model, x | {"scale": 2.0})


def test_linearised_with_several_inputs():
    tokens, mask, _ = tokens_and_mask(N)
    model = Two()
    linear = entk.linearize(model)
    assert torch.equal(linear(tokens, mask, scale=0.5), model(tokens, mask, scale=0.5))
    x = {"tokens": tokens, "mask": mask}
    assert tolerance.error(entk.ntk(linear, x), entk.ntk(model, x)) <= tolerance.FLOAT64


def loss(y):
    return SimpleNamespace(loss=y.sum(), hidden=y)


X = tokens_and_mask(N)
REFUSED = {
    "no_tensor": (Two(), {"tokens": None}, {}, "x holds no tensor"),
    "number": (Two(), 3, {}, "x is int, expected a tensor"),
    "counts": (Two(), (X[0], X[1][:2]), {}, r"x\[1\] has 2 samples along axis 0, but x\[0\] has 5"),
    "scalar": (Two(), {"tokens": X[0], "mask": torch.tensor(1.0)}, {}, r"x\['mask'\] has shape \(\)"),
    "dtype": (Two(), (X[0], X[1].float()), {}, r"x\[1\] is torch.float32 but the model's"),
    "other_z": (Two(), (X[0],), {"z": (X[0], X[1])}, r"z holds z\[0\], z\[1\] but x holds x\[0\]; pass"),
    "shape_of_z": (Two(), (X[0],), {"z": (X[0][:, :2],)}, r"z\[0\] has samples of shape \(2,\)"),
    "unknown_object": (Two(loss), X[0], {}, "returned SimpleNamespace, expected a tensor.*select="),
    "ragged": (Two(lambda y: (y, y[0])), X[0], {}, r"with .*; say which outputs with select="),
    "attribute": (Two(loss), X[0], {"select": "logits"}, "returned SimpleNamespace without it"),
    "key": (Two(lambda y: {"a": y}), X[0], {"select": "b"}, "select='b': the model returned dict"),
    "position": (Two(), X[0], {"select": [18]}, r"select=\[18\]: the model has 18 outputs"),
    "no_position": (Two(), X[0], {"select": []}, "select= is empty"),
    "kind": (Two(), X[0], {"select": 1.5}, "select=1.5, expected a function"),
    "dict_for_a_module": (Two(), X[0], {"params": {"w": 1}}, "goes with a function .*model is Two"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, x, options, text = REFUSED[name]
    with pytest.raises(entk.InputError, match=text):
        entk.ntk(model, x, **options)
