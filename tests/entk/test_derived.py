"""Parameters that meet the data by way of another tensor, and which path serves them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import entk
from entk.factors import OUTPUTS
from tests import oracle, tolerance
from tests.cases import Case, fn, of, raw, seq


def low_rank(s, x):
    return s.g(torch.tanh(F.linear(x, s.w + s.b @ s.a)))


def standardised(s, x):
    w = s.f.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
    return F.conv2d(x, w, s.f.bias).relu().mean((2, 3))


def positions(s, x):
    return s.f(torch.tanh(s.e(x) + s.p(torch.arange(x.shape[1]))).flatten(1))


def relative(s, x):
    """A bias table that is computed by a small network, added to the scores of attention."""
    steps = torch.arange(x.shape[1], dtype=x.dtype)
    table = s.two(torch.tanh(s.one((steps[:, None] - steps)[..., None])))[..., 0]
    attended = torch.softmax(s.q(x) @ x.mT + table, -1) @ x
    return s.f(attended.flatten(1))


def class_token(s, x):
    h = torch.cat([s.token.expand(len(x), -1, -1), s.e(x)], 1)
    return s.f(torch.tanh(h + s.p).sum(1)) * s.gain


# The hooks of both leave a tensor with a graph in the module after each call, so that torch
# refuses to copy it; hence no_grad, and a fresh model for the oracle.
@torch.no_grad()
def pruned():
    layer = nn.Linear(6, 5)
    prune.random_unstructured(layer, "weight", amount=0.5)
    return layer


@torch.no_grad()
def old_weight_norm():
    return nn.utils.weight_norm(nn.Linear(4, 5))


def masked_twice(s, x):
    w = s.f.weight * torch.eye(4, dtype=x.dtype)
    return F.linear(torch.tanh(F.linear(x, w)), w, s.f.bias) + s.f(x)


def added_in_place(s, x):
    x += s.p.sum()
    h = s.f(x)
    same = h
    h += s.p
    h.add_(s.q)
    h[:, :2] += s.r  # a view
    return torch.tanh(same) * x[:, :3] + h


def shared(s, x):
    return torch.tanh(x @ s.w.T) @ s.w + torch.tanh(F.linear(x, s.w)) @ s.v


def cross_attention(s, x):
    y, weights = s.mha(x[:, :2], x[:, 1:], x[:, :3], average_attn_weights=False)
    return y.flatten(1)[:, :4] + weights.flatten(1)[:, :4]


def masked_attention(s, x):
    keep = torch.tensor([False, False, True])
    causal = torch.ones(3, 3, dtype=torch.bool).triu(1)
    y, _ = s.mha(x, x, x, keep.expand(len(x), 3), attn_mask=causal, need_weights=False)
    return y.flatten(1)[:, ::2]  # the first query shows the mask, the last one the padding


def mask_of_each_head(s, x):
    bias = torch.linspace(-1, 1, 9, dtype=x.dtype).view(1, 3, 3).expand(len(x) * 2, 3, 3)
    return s.mha(x, x, x, attn_mask=bias)[0].sum(1)


def added_to_a_view(s, x):
    h = s.f(x)
    h[:, :2].add_(s.p)
    return torch.tanh(h)


def average_weights(s, x):
    y, weights = s.mha(x, x, x)
    return y.flatten(1)[:, :4] + weights.flatten(1)[:, :4]


def bag_of_weighted(s, x):
    weights = torch.linspace(-1, 2, x.shape[1], dtype=s.w.dtype).expand(len(x), -1)
    return s.f(torch.tanh(F.embedding_bag(x, s.w, per_sample_weights=weights, mode="sum")))


CASES = [
    Case("low_rank", fn(low_rank, w=raw(5, 4), a=raw(2, 4), b=raw(5, 2), g=of(nn.Linear, 5, 2)), (4,)),
    Case("weight_norm", seq(of(lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 2))), nn.Tanh, nn.Flatten, of(nn.Linear, 12, 2)), (2, 3, 3)),
    Case("old_weight_norm", seq(of(old_weight_norm), nn.Tanh, of(nn.Linear, 5, 2)), (4,)),
    Case("spectral_norm", seq(of(lambda: parametrizations.spectral_norm(nn.Linear(4, 5))), nn.Tanh, of(nn.Linear, 5, 2)), (4,)),
    Case("orthogonal", seq(of(lambda: parametrizations.orthogonal(nn.Linear(4, 4))), nn.Tanh, of(nn.Linear, 4, 2)), (4,)),
    Case("pruned", seq(of(pruned), nn.Tanh, of(nn.Linear, 5, 2)), (6,)),
    Case("standardised", fn(standardised, f=of(nn.Conv2d, 2, 3, 3)), (2, 4, 4)),
    Case("positions", fn(positions, e=of(nn.Embedding, 7, 4), p=of(nn.Embedding, 9, 4), f=of(nn.Linear, 12, 2)), (3,), tokens=7),
    Case("positions_of_floats", fn(lambda s, x: s.f((s.e(x) + s.p.weight[: x.shape[1]]).flatten(1)), e=of(nn.Linear, 2, 4), p=of(nn.Embedding, 9, 4), f=of(nn.Linear, 12, 2)), (3, 2)),
    Case("relative", fn(relative, one=of(nn.Linear, 1, 3), two=of(nn.Linear, 3, 1), q=of(nn.Linear, 4, 4), f=of(nn.Linear, 12, 2)), (3, 4)),
    Case("class_token", fn(class_token, token=raw(1, 1, 4), p=raw(1, 4, 4), e=of(nn.Linear, 2, 4), f=of(nn.Linear, 4, 3), gain=raw(3)), (3, 2)),
    Case("masked_twice", fn(masked_twice, f=of(nn.Linear, 4, 4)), (4,)),
    Case("shared", fn(shared, w=raw(5, 4), v=raw(5, 4)), (4,)),
    Case("data_times_raw_first", fn(lambda s, x: s.f(torch.tanh(torch.einsum("ni,ij->nj", x, s.w))) + s.b, w=raw(4, 5), f=of(nn.Linear, 5, 3), b=raw(3)), (4,)),
    Case("added_in_place", fn(added_in_place, f=of(nn.Linear, 4, 3), p=raw(3), q=raw(1, 3), r=raw(2)), (4,)),
    Case("matrix_products", fn(lambda s, x: torch.addmm(s.b, torch.tanh(x.reshape(-1, 4) @ s.w), s.v).view(len(x), -1), w=raw(4, 5), v=raw(5, 2), b=raw(2)), (3, 4)),
    Case("products_of_a_sequence", fn(lambda s, x: torch.matmul(torch.tanh(torch.matmul(x, s.w)), s.v).sum(1), w=raw(4, 5), v=raw(5, 2)), (3, 4)),
    Case("scales", fn(lambda s, x: s.g * torch.tanh(s.f(x) * s.h) * s.k, f=of(nn.Linear, 4, 3), g=raw(3), h=raw(1, 1, 3), k=raw(2, 1)), (2, 4)),
    Case("cross_attention", fn(cross_attention, mha=of(nn.MultiheadAttention, 4, 2, batch_first=True)), (4, 4)),
    Case("separate_projections", fn(lambda s, x: s.mha(x, x[..., :3], x[..., 1:])[0].flatten(1)[:, :4], mha=of(nn.MultiheadAttention, 4, 2, kdim=3, vdim=3, batch_first=True, bias=False)), (3, 4)),
    Case("masked_attention", fn(masked_attention, mha=of(nn.MultiheadAttention, 4, 2, batch_first=True)), (3, 4)),
    Case("mask_of_each_head", fn(mask_of_each_head, mha=of(nn.MultiheadAttention, 4, 2, batch_first=True)), (3, 4)),
    Case("keys_of_its_own", fn(lambda s, x: s.mha(x, x, x)[0].sum(1), mha=of(nn.MultiheadAttention, 4, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True)), (3, 4)),
    Case("transformer_encoder", fn(lambda s, x: s.t(x).mean(1), t=of(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True), 2, enable_nested_tensor=False))), (3, 4)),
    Case("transformer_decoder", fn(lambda s, x: s.t(x[:, :2], x[:, 1:]).mean(1), t=of(nn.TransformerDecoderLayer, 4, 2, 6, 0.0, batch_first=True)), (3, 4)),
    Case("bag_mean", seq(of(nn.EmbeddingBag, 7, 3), nn.Tanh, of(nn.Linear, 3, 2)), (5,), tokens=7),
    Case("bag_sum_padding", seq(of(nn.EmbeddingBag, 7, 3, mode="sum", padding_idx=2), nn.Tanh, of(nn.Linear, 3, 2)), (5,), tokens=7),
    Case("bag_mean_padding", seq(of(nn.EmbeddingBag, 3, 3, padding_idx=-1), nn.Tanh, of(nn.Linear, 3, 2)), (3,), tokens=3),
    Case("bag_max", seq(of(nn.EmbeddingBag, 7, 3, mode="max"), nn.Tanh, of(nn.Linear, 3, 2)), (5,), tokens=7),
    Case("instance_norm_1d", seq(of(nn.Conv1d, 2, 3, 2), of(nn.InstanceNorm1d, 3, affine=True, track_running_stats=True), nn.Tanh, nn.Flatten), (2, 5)),
    Case("prelu_one_slope", seq(of(nn.Conv2d, 2, 3, 2), nn.PReLU, nn.Flatten), (2, 3, 3)),
    Case("prelu_each_channel", seq(of(nn.Conv2d, 2, 3, 2), of(nn.PReLU, 3), nn.Flatten), (2, 3, 3)),
    Case("transposed_1d", seq(of(nn.ConvTranspose1d, 4, 6, 3, 2, 1, 1, 2, True, 2), nn.Tanh, nn.Flatten), (4, 3)),
    Case("transposed_2d", seq(of(nn.ConvTranspose2d, 2, 3, (2, 3), (3, 2), (1, 2), (2, 1)), nn.Tanh, nn.Flatten), (2, 3, 2)),
    Case("transposed_3d", seq(of(nn.ConvTranspose3d, 2, 2, (1, 2, 3), 2, 0, 1, 1, False), nn.Tanh, nn.Flatten), (2, 2, 1, 2)),
    Case("added_to_a_view", fn(added_to_a_view, f=of(nn.Linear, 4, 3), p=raw(2)), (4,)),
    Case("by_frequency", seq(of(nn.Embedding, 2, 3, scale_grad_by_freq=True), nn.Flatten, of(nn.Linear, 12, 2)), (4,), tokens=2),
    Case("mixed_with_tokens", fn(lambda s, x: s.f(torch.maximum(s.e(x), s.p).flatten(1)), e=of(nn.Embedding, 7, 4), p=raw(3, 4), f=of(nn.Linear, 12, 2)), (3,), tokens=7),
    Case("matrix_of_heads", fn(lambda s, x: torch.tanh(x @ s.w).flatten(1), w=raw(2, 4, 2)), (2, 2, 4)),
    Case("options_by_name", fn(lambda s, x: torch.tanh(F.conv2d(x, s.w, stride=2)).flatten(1), w=raw(2, 2, 2, 2)), (2, 4, 4)),
    Case("padding_from_the_end", fn(lambda s, x: s.f(F.embedding(x, s.w, padding_idx=-1).flatten(1)), w=raw(3, 2), f=of(nn.Linear, 8, 2)), (4,), tokens=3),
    Case("alpha", fn(lambda s, x: torch.tanh(torch.add(s.f(x), s.p, alpha=2)), f=of(nn.Linear, 4, 3), p=raw(3)), (4,)),
    Case("average_weights", fn(average_weights, mha=of(nn.MultiheadAttention, 4, 2, batch_first=True)), (3, 4)),
    Case("bag_of_weighted", fn(bag_of_weighted, w=raw(7, 3), f=of(nn.Linear, 3, 2)), (5,), tokens=7),
    Case("transposed_depthwise", seq(of(nn.ConvTranspose2d, 3, 6, 2, 1, 0, 0, 3, dilation=2), nn.Tanh, nn.Flatten), (3, 2, 2)),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}
# what has no rule after all
FALLBACK = {
    "added_to_a_view": {"p"},
    "alpha": {"p"},
    "mixed_with_tokens": {"p"},
    "by_frequency": {"0.weight", "2.weight", "2.bias"},
    "matrix_of_heads": {"w"},
    "added_in_place": {"r"},
    "data_times_raw_first": {"w"},
    "keys_of_its_own": {"mha.in_proj_weight", "mha.in_proj_bias", "mha.bias_k", "mha.bias_v"}
    | {"mha.out_proj.weight", "mha.out_proj.bias"},
}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_float64(name, outputs):
    model, x, z = BY_NAME[name].make()
    for other in (None, z):
        for strategy in ("rows", "pairs", "fused"):
            plan = entk.plan_ntk(model, x, other, outputs=outputs, strategy=strategy, block=2)
            found = entk.ntk(model, x, other, outputs=outputs, plan=plan)
            expected = oracle.ntk(BY_NAME[name].make()[0], x, other, outputs)
            assert tolerance.error(found, expected) <= tolerance.FLOAT64


@pytest.mark.parametrize("name", BY_NAME)
def test_which_path(name):
    model, x, _ = BY_NAME[name].make()
    plan = entk.plan_ntk(model, x)
    found = {c.name for c in plan.layers if c.rule.startswith("torch.func")}
    assert found == FALLBACK.get(name, set())
    assert {c.name for c in plan.layers} == {n for n, _ in model.named_parameters()}
    assert all(c.strategy != "none" for c in plan.layers)


@pytest.mark.parametrize("name", BY_NAME)
def test_jacobian(name):
    model, x, _ = BY_NAME[name].make()
    expected = oracle.jacobian(model, x)
    found = entk.jacobian(model, x)
    scale = max(j.norm().item() for j in expected.values())
    for parameter, j in expected.items():
        assert (found[parameter] - j).norm() <= tolerance.FLOAT64 * scale


@pytest.mark.parametrize("name", BY_NAME)
def test_float32_and_one_sample(name):
    model, x, _ = BY_NAME[name].make()
    model, x = model.float(), (x.float() if x.is_floating_point() else x)
    exact = oracle.ntk(model, x)
    plain = oracle.ntk(model, x, dtype=torch.float32)
    found = entk.ntk(model, x)
    assert tolerance.error(found, exact) <= tolerance.limit(plain, exact)
    one = entk.ntk(model, x[:1])
    # sums of other batches are other roundings, twice that of one
    assert tolerance.error(one, exact[:1, :, :1]) <= 2 * tolerance.limit(plain, exact)


def test_a_hypernetwork_is_not_taken_for_a_weight():
    """A weight that comes from the data mixes samples, and is refused."""
    model = fn(lambda s, x: F.linear(x, s.f(x.mean(0)).view(2, 4)), f=of(nn.Linear, 4, 8))()
    with pytest.raises(entk.UnsupportedModelError, match="samples"):
        entk.ntk(model.eval(), torch.randn(5, 4))


def test_samples_that_cannot_be_traced():
    """A model that looks at its input in NumPy runs as before."""
    model = fn(
        lambda s, x: s.f(x) * torch.from_numpy(x.numpy()).sum(1, keepdim=True),
        f=of(nn.Linear, 4, 3),
    )()
    x = torch.randn(5, 4)
    expected = oracle.ntk(model, x)
    assert tolerance.error(entk.ntk(model, x), expected) <= 1e-6
