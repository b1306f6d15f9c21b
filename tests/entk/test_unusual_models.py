"""Models that do unusual things get the exact kernel or an error, never a wrong number."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import entk
from tests import oracle, tolerance
from tests.cases import Fn, fn, of, raw


def linear(*sizes: int):
    return of(nn.Linear, *sizes)


def without_weight(build, name: str):
    """The weight of one layer is frozen, its bias is not."""

    def make() -> Fn:
        model = build()
        getattr(model, name).weight.requires_grad_(False)
        return model

    return make


def input_gradient(self, x: Tensor) -> Tensor:
    """As in force fields and physics-informed networks: the output is a derivative."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        energy = self.g(torch.tanh(self.f(x)))
        return torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


def value_and_input_gradient(self, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        energy = self.g(torch.tanh(self.f(x)))
        force = torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
        return torch.cat([energy, force], 1)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class OwnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.linear(x, w)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.mT @ x


def overwritten_after_bias(self, x: Tensor) -> Tensor:
    h = self.f(x) * 1
    y = self.g(h)
    h.mul_(2)
    return y + h.sum(1, keepdim=True)


def sorted_within_the_batch(self, x: Tensor) -> Tensor:
    """As before packing sequences: sorted, computed, put back."""
    order = x[:, 0].argsort()
    return torch.tanh(self.f(x[order]))[order.argsort()]


def routed(self, x: Tensor) -> Tensor:
    """A mixture of experts, one expert for a sample."""
    out, first = x.new_zeros(len(x), 2), x[:, 0] > 0
    out[first], out[~first] = self.f(x[first]), self.g(x[~first])
    return out


def written_sample_by_sample(self, x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 2)
    for i in range(len(x)):
        out[i] = self.f(x[i])
    return out


def hooked(self, x: Tensor) -> Tensor:
    h = self.f(x)
    if h.requires_grad:
        h.register_hook(lambda g: 2 * g)
    return h.tanh()


def with_jvp(self, x: Tensor) -> Tensor:
    return torch.func.jvp(lambda v: torch.tanh(self.f(v)), (x,), (torch.ones_like(x),))[1]


def bag(self, x: Tensor) -> Tensor:
    return self.e((x.abs() * 3).long().clamp(max=4))


def spectral() -> nn.Module:
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    return nn.Sequential(first, nn.Tanh(), nn.Linear(3, 2))


one, both = {"f": linear(4, 2)}, {"f": linear(4, 3), "g": linear(3, 2)}
energy = {"f": linear(4, 3), "g": linear(3, 1)}

SERVED = {
    "straight_through": fn(lambda s, x: s.g(StraightThrough.apply(s.f(x))), **both),
    "straight_through_weight": fn(
        lambda s, x: F.linear(x, s.w + (s.w.sign() - s.w).detach()), w=raw(3, 4)
    ),
    "own_function": fn(lambda s, x: OwnLinear.apply(x, s.f.weight) + s.f(x), **one),
    "hook": fn(hooked, **one),
    "checkpoint": fn(lambda s, x: checkpoint(s.f, x, use_reentrant=False).tanh(), **one),
    "embedding_bag": fn(bag, e=of(nn.EmbeddingBag, 5, 3)),
    "experts": fn(routed, f=linear(4, 2), g=linear(4, 2)),
    "written_sample_by_sample": fn(written_sample_by_sample, **one),
    "overwritten_after_bias": without_weight(fn(overwritten_after_bias, **both), "g"),
    "one_weight_two_layers": fn(
        lambda s, x: F.linear(torch.tanh(F.linear(x, s.w)), s.w.T), w=raw(3, 4)
    ),
    "weight_is_also_bias": fn(lambda s, x: F.layer_norm(x, (4,), s.w, s.w), w=raw(4)),
    "weight_of_one_axis": fn(lambda s, x: F.linear(x, s.w), w=raw(4)),
    "complex_inside": fn(lambda s, x: torch.fft.rfft(s.f(x)).abs(), f=linear(4, 4)),
    "spectral_norm": spectral,
}

SERVED_OR_REFUSED = {
    "samples_flipped_and_back": fn(lambda s, x: torch.tanh(s.f(x.flip(0))).flip(0), **one),
    "softmax_over_samples": fn(lambda s, x: torch.tanh(s.f(x)).softmax(0), **one),
    "input_gradient": fn(input_gradient, **energy),
    "value_and_input_gradient": fn(value_and_input_gradient, **energy),
    "sorted_within_the_batch": fn(sorted_within_the_batch, **one),
    "input_written_in_place": fn(lambda s, x: s.f(x.sub_(0.5).div_(0.3)), **one),
    "centred_over_samples": fn(lambda s, x: s.f(x - x.mean(0)), **one),
    "samples_rolled": fn(lambda s, x: s.f(x.roll(1, 0)), **one),
    "detached_mean_over_samples": fn(lambda s, x: s.f(x) * s.f(x).detach().mean(), **one),
    "divided_by_number_of_samples": fn(lambda s, x: s.f(x) / len(x), **one),
    "vmap_inside": fn(lambda s, x: torch.func.vmap(lambda v: torch.tanh(s.f(v)))(x), **one),
    "jvp_inside": fn(with_jvp, **one),
}


def errors(model: nn.Module, refusable: bool) -> list[float]:
    """Relative errors of the kernels that were not refused: square and not, in several blocks."""
    x, z = torch.randn(7, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    found = []
    for other in (None, z):
        expected = oracle.ntk(model, x, other)
        for block in (None, 2, 1):
            try:
                plan = entk.plan_ntk(model, x, other, block=block)
                kernel = entk.ntk(model, x, other, plan=plan)
            except entk.EntkError:
                if not refusable:
                    raise
                continue
            found.append(tolerance.error(kernel, expected))
    return found


@pytest.mark.parametrize("name", SERVED)
def test_served_exactly(name):
    torch.manual_seed(1)
    found = errors(SERVED[name]().double().eval(), refusable=False)
    assert max(found) <= tolerance.FLOAT64


@pytest.mark.parametrize("name", SERVED_OR_REFUSED)
def test_served_exactly_or_refused(name):
    torch.manual_seed(1)
    found = errors(SERVED_OR_REFUSED[name]().double().eval(), refusable=True)
    assert max(found, default=0.0) <= tolerance.FLOAT64


def test_samples_are_left_alone():
    """An in-place activation may come first in a model."""
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    x = torch.randn(5, 4)
    before = x.clone()
    entk.ntk(model, x)
    assert torch.equal(x, before)


def overwrite_tokens(self, tokens: Tensor) -> Tensor:
    tokens[:, 0] = 0
    return self.f(self.e(tokens).flatten(1))


def test_tokens_are_left_alone():
    model = fn(overwrite_tokens, e=lambda: nn.Embedding(5, 3), f=linear(6, 2))().double()
    tokens = torch.tensor([[1, 2], [3, 4], [0, 1]])
    before = tokens.clone()
    found = entk.ntk(model.eval(), tokens)
    assert torch.equal(tokens, before)
    assert tolerance.error(found, oracle.ntk(model, tokens)) <= tolerance.FLOAT64


def test_weights_are_left_alone_by_an_embedding_with_max_norm():
    """F.embedding rescales the rows it looks up, in place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Flatten(), nn.Linear(6, 2)).eval()
    before = copy.deepcopy(model.state_dict())
    entk.ntk(model, torch.tensor([[0, 1], [2, 2]]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_reentrant_checkpoint_is_not_mistaken_for_an_unused_layer():
    """Plain autograd.grad sees nothing of it either, but backward() does."""
    torch.manual_seed(0)
    model = fn(
        lambda s, x: checkpoint(s.f, x.requires_grad_(), use_reentrant=True), f=linear(4, 2)
    )()
    x = torch.randn(3, 4)
    try:
        found = entk.ntk(model.eval(), x.clone())
    except entk.EntkError:
        return
    assert found.any()


def test_a_batch_that_only_later_samples_split():
    """The samples looked at first all go to one expert; a later one does not."""
    torch.manual_seed(0)
    model = fn(routed, f=linear(4, 2), g=linear(4, 2))().double().eval()
    x = torch.rand(64, 4, dtype=torch.float64)
    x[5, 0] = -1.0
    with pytest.raises(entk.UnsupportedModelError, match="took another path"):
        entk.ntk(model, x)


@pytest.mark.parametrize("strategy", ["rows", "pairs", "fused"])
def test_channels_last(strategy):
    """Another memory format is another layout of the same numbers."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, 2)),
        *(nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()),
    )
    model = model.double().eval()
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    expected = oracle.ntk(model, x)
    last = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    found = entk.ntk(last, x, plan=entk.plan_ntk(last, x, strategy=strategy))
    assert tolerance.error(found, expected) <= tolerance.FLOAT64
