"""The networks of NNGeometry's tests, written anew, and what its source made us look at.

After tests/tasks.py of NNGeometry (github.com/tfjgeorge/nngeometry, MIT): normalised, transposed
and segmenting networks, subsets of layers. The second table holds what its
Gram matrix, by reading, gets wrong: a module used twice, double precision, groups, padding modes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases import Fn, fn, of, raw, seq, settled
from tests.ported.case import Ported

linear = nn.Linear


def weight_normed(self, x: Tensor) -> Tensor:
    """Rows of unit length, no gain, as its WeightNorm1d."""
    return F.linear(x, self.w / (self.w.norm(dim=1, keepdim=True) + 1e-5))


def weight_normed_conv(self, x: Tensor) -> Tensor:
    return F.conv2d(
        x, self.w / (self.w.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-5), stride=2
    )


def cosine(self, x: Tensor) -> Tensor:
    """Of unit rows and unit inputs."""
    w = self.w / (self.w.norm(dim=1, keepdim=True) + 1e-5)
    return F.linear(x / (x.norm(dim=1, keepdim=True) + 1e-5), w)


def weight_norm1d(inputs: int, outputs: int):
    return fn(weight_normed, w=raw(outputs, inputs))


def affine(features: int, bias: bool):
    if bias:
        return fn(lambda s, x: x * s.w + s.b, w=raw(features), b=raw(features))
    return fn(lambda s, x: x * s.w, w=raw(features))


def net(*parts, sample: tuple[int, ...]):
    """Parts with a ReLU between them."""
    inner = [part for p in parts for part in (p, nn.ReLU)][:-1]
    return settled(seq(*inner), sample)


def conv_net(norm=None, last=None, first=None):
    """Three convolutions between poolings, two linear layers."""
    first = first or of(nn.Conv2d, 1, 4, 3, 2, bias=norm is None)
    norms = (norm,) if norm else ()
    pool = of(nn.MaxPool2d, 2, 2)
    parts = (
        first,
        *norms,
        nn.ReLU,
        pool,
        of(nn.Conv2d, 4, 3, 2),
        nn.ReLU,
        of(nn.Conv2d, 3, 5, 3, 1, 1),
        nn.ReLU,
    )
    return seq(*parts, nn.Flatten, last or of(linear, 20, 4), nn.ReLU, of(linear, 4, 3))


def summed(self, x: Tensor) -> Tensor:
    """The sums of two layers' outputs, side by side."""
    return torch.stack([self.a(x).flatten(1).sum(1), self.b(x).flatten(1).sum(1)], 1)


def normed_both_ways(self, x: Tensor) -> Tensor:
    h = self.f(x)
    return torch.stack([self.a(h).flatten(1).sum(1), self.b(-h).flatten(1).sum(1)], 1)


def two_norms(self, x: Tensor) -> Tensor:
    pair = torch.cat([x, x.mT], 1)
    return self.f(torch.cat([self.a(pair).flatten(1), self.b(x.flatten(1))], 1))


def skip(self, x: Tensor) -> Tensor:
    h = F.relu(self.c1(x))
    return F.relu(self.c4(F.relu(self.c3(F.relu(self.c2(h)))) + h)).sum((2, 3))


class Doubled(Fn):
    """Buffers and parameters of double precision made under a default of single."""

    def __init__(self):
        super().__init__(lambda s, x: s.g(torch.relu(s.f(x) + s.shift)))
        self.f, self.g = linear(5, 4, dtype=torch.float64), linear(4, 3, dtype=torch.float64)
        self.register_buffer("shift", torch.full((4,), 1 / 3, dtype=torch.float64))


up = of(nn.ConvTranspose2d, 3, 2, 3, 2, 1, 1)
skipping = {
    "c1": of(nn.Conv2d, 1, 2, 3, 1, 1),
    "c2": of(nn.Conv2d, 2, 2, 3, 1, 1),
    "c3": of(nn.Conv2d, 2, 2, 3, 1, 1),
    "c4": of(nn.Conv2d, 2, 3, 3, 1, 1),
}
fc = net(of(linear, 9, 4), of(linear, 4, 4), of(linear, 4, 3), sample=(9,))
cropped = fn(lambda s, x: s.f(x[:, :, 2:-2, 2:-2].contiguous().flatten(1)), f=fc)
bn = of(nn.BatchNorm1d, 4)

CASES = [
    Ported("fc_of_a_crop", cropped, (1, 7, 7)),
    Ported("fc_last_layer_only", fc, (9,), params=("4.weight", "4.bias")),
    Ported("fc_batch_norm", net(seq(of(linear, 9, 4, bias=False), bn), seq(of(linear, 4, 4, bias=False), bn), of(linear, 4, 3), sample=(9,)), (9,)),
    Ported("fc_weight_norm", net(weight_norm1d(9, 4), weight_norm1d(4, 4), weight_norm1d(4, 3), sample=(9,)), (9,), strategies=("rows",)),
    Ported("fc_cosine", net(fn(cosine, w=raw(4, 9)), fn(cosine, w=raw(4, 4)), fn(cosine, w=raw(3, 4)), sample=(9,)), (9,), strategies=("rows",)),
    Ported("fc_affine", net(seq(of(linear, 9, 4, bias=False), affine(4, True)), seq(of(linear, 4, 4, bias=False), affine(4, False)), of(linear, 4, 3), sample=(9,)), (9,)),
    Ported("fc_layer_norm", net(seq(of(linear, 9, 4), of(nn.LayerNorm, 4)), of(linear, 4, 3), sample=(9,)), (9,)),
    Ported("fc_rms_norm", net(seq(of(linear, 9, 4), of(nn.RMSNorm, 4)), of(linear, 4, 3), sample=(9,)), (9,)),
    Ported("fc_rms_norm_over_two_axes", seq(of(linear, 4, 3), of(nn.RMSNorm, (2, 3)), nn.ReLU, nn.Flatten, of(linear, 6, 2)), (2, 4)),
    Ported("fc_segmentation", fn(lambda s, x: s.f(x).view(-1, 3, 2, 2), f=net(of(linear, 9, 4), of(linear, 4, 12), sample=(9,))), (9,)),
    Ported("conv_net", conv_net(), (1, 14, 14)),
    Ported("conv_net_batch_norm", conv_net(of(nn.BatchNorm2d, 4), last=seq(of(linear, 20, 4), bn)), (1, 14, 14)),
    Ported("conv_net_group_norm", conv_net(of(nn.GroupNorm, 2, 4)), (1, 14, 14)),
    Ported("conv_net_weight_norm", conv_net(first=fn(weight_normed_conv, w=raw(4, 1, 3, 3)), last=weight_norm1d(20, 4)), (1, 14, 14)),
    Ported("small_conv_weight_norm", fn(lambda s, x: s.f(x).sum((2, 3)), f=net(fn(weight_normed_conv, w=raw(4, 1, 3, 3)), fn(weight_normed_conv, w=raw(3, 4, 2, 2)), nn.Identity, sample=(1, 9, 9))), (1, 9, 9), strategies=("rows",)),
    Ported("sums_of_two_linears", fn(summed, a=of(linear, 9, 3), b=of(linear, 9, 7, bias=False)), (9,)),
    Ported("sums_of_two_convs", fn(summed, a=of(nn.Conv2d, 1, 5, 3), b=of(nn.Conv2d, 1, 3, 2, bias=False)), (1, 6, 6)),
    Ported("two_batch_norms_of_a_linear", fn(normed_both_ways, f=of(linear, 9, 5), a=of(nn.BatchNorm1d, 5), b=of(nn.BatchNorm1d, 5)), (9,), params=("b.weight", "b.bias", "a.weight", "a.bias")),
    Ported("two_batch_norms_of_a_conv", fn(normed_both_ways, f=of(nn.Conv2d, 1, 5, 3, 3), a=of(nn.BatchNorm2d, 5), b=of(nn.BatchNorm2d, 5)), (1, 7, 7), params=("b.weight", "b.bias", "a.weight", "a.bias")),
    Ported("batch_norms_before_a_linear", fn(two_norms, a=of(nn.BatchNorm2d, 2), b=of(nn.BatchNorm1d, 9), f=of(linear, 27, 3)), (1, 3, 3)),
    Ported("conv_net_with_a_skip", fn(skip, **skipping), (1, 5, 5)),
    Ported("transposed_conv_net", fn(lambda s, x: s.f(x).mean((2, 3)), f=seq(of(nn.Conv2d, 1, 3, 3, 2), nn.ReLU, up, nn.ReLU, of(nn.Conv2d, 2, 3, 3))), (1, 7, 7)),
    Ported("transposed_conv_of_a_vector", fn(lambda s, x: s.f(x[:, :, None, None]), f=seq(of(nn.ConvTranspose2d, 4, 3, 2), nn.ReLU, of(nn.ConvTranspose2d, 3, 1, 2, 2, bias=False))), (4,)),
]  # fmt: skip

CASES += [
    Ported("a_module_twice_in_a_row", fn(lambda s, x: s.g(s.f(torch.relu(s.f(x)))), f=of(linear, 4, 4), g=of(linear, 4, 3)), (4,)),
    Ported("a_module_twice_side_by_side", fn(lambda s, x: s.f(x) * s.f(x.flip(1)), f=of(linear, 4, 3)), (4,)),
    Ported("a_conv_twice_at_two_sizes", fn(lambda s, x: s.f(x).mean((2, 3)) + s.f(F.avg_pool2d(x, 2)).sum((2, 3)), f=of(nn.Conv2d, 2, 3, 3, padding=1)), (2, 4, 4)),
    Ported("a_norm_twice", fn(lambda s, x: s.n(torch.relu(s.n(s.f(x)))), f=of(linear, 4, 3), n=of(nn.LayerNorm, 3)), (4,)),
    Ported("a_batch_norm_twice", fn(lambda s, x: s.n(torch.relu(s.n(s.f(x)))).mean((2, 3)), f=of(nn.Conv2d, 1, 3, 2), n=of(nn.BatchNorm2d, 3)), (1, 4, 4)),
    Ported("double_under_a_single_default", Doubled, (5,), float32=False),
    *(Ported(f"groups_{g}_of_conv{d}d", settled(seq(of((nn.Conv1d, nn.Conv2d)[d - 1], 6, 12, 2, groups=g, bias=g != 3), nn.ReLU, nn.Flatten, of(nn.LazyLinear, 2)), (6, *(4,) * d)), (6, *(4,) * d)) for g in (2, 3, 6) for d in (1, 2)),
    *(Ported(f"padding_{mode}_of_conv{d}d", settled(seq(of((nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1], 2, 3, 3, stride=2, padding=2 if mode != "reflect" else 1, padding_mode=mode), nn.ReLU, nn.Flatten, of(nn.LazyLinear, 2)), (2, *(4,) * d)), (2, *(4,) * d)) for mode in ("reflect", "replicate", "circular") for d in (1, 2, 3)),
    Ported("group_norm_of_three_axes", seq(of(nn.Conv1d, 2, 4, 2), of(nn.GroupNorm, 2, 4), nn.ReLU, nn.Flatten), (2, 4)),
    Ported("group_norm_of_two_axes", seq(of(linear, 3, 4), of(nn.GroupNorm, 2, 4), nn.ReLU), (3,)),
    Ported("group_norm_of_five_axes", fn(lambda s, x: s.f(x).flatten(1).relu(), f=seq(of(nn.Conv3d, 1, 4, 2), of(nn.GroupNorm, 4, 4))), (1, 2, 3, 3)),
    Ported("transposed_conv_groups", settled(seq(of(nn.ConvTranspose2d, 4, 6, 2, 2, groups=2, bias=False), nn.ReLU, nn.Flatten, of(nn.LazyLinear, 2)), (4, 2, 2)), (4, 2, 2)),
]  # fmt: skip
