"""The odd cases of curvlinops, written anew.

After test/cases.py and test/utils.py of curvlinops (github.com/f-dangel/curvlinops, MIT): samples
in dictionaries, functions of a dict of parameters, sequence axes, weights shared over positions,
feature maps of varying size, and models whose passes differ, which have to be noticed.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import entk
from tests.cases import fn, of, raw, seq
from tests.ported.case import Ported, Refused, size

linear = nn.Linear
mlp = seq(of(linear, 6, 5), nn.ReLU, of(linear, 5, 3))


class Called(nn.Module):
    """A function f(parameters, x), and the dict of parameters that it is called with."""

    def __init__(self, function: Callable[[dict, Tensor], Tensor], **shapes: tuple[int, ...]):
        super().__init__()
        self.function = function
        self.dict = nn.ParameterDict({k: torch.randn(*shape) for k, shape in shapes.items()})

    def forward(self, x: Tensor) -> Tensor:
        return self.function(dict(self.dict), x)


@dataclass
class Answer:
    """As transformers' models return: logits and things beside them."""

    logits: Tensor
    states: tuple[Tensor, ...] | None = None


def two_layers(p: dict, x: Tensor) -> Tensor:
    return torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]


def unrolled(p: dict, x: Tensor) -> Tensor:
    """A recurrence whose matrix is used at each of four steps."""
    h = torch.zeros_like(x)
    for _ in range(4):
        h = torch.tanh(h @ p["w"] + x)
    return h


def attending(p: dict, x: Tensor) -> Tensor:
    """Attention by matrices alone, x @ W.T throughout."""
    q, k, v = (x @ p[name].T for name in ("q", "k", "v"))
    return F.scaled_dot_product_attention(q, k, v).mean(1)


def masked(self, t: dict) -> Answer:
    """Of tokens and a mask over them, as language models take them."""
    weight = (t["attention_mask"] + 1).to(self.e.weight.dtype)[..., None]
    hidden = (self.e(t["input_ids"]) * weight).sum(1)
    return Answer(self.f(torch.tanh(hidden)))


class Doubting(nn.Module):
    """Noise on the weights, drawn in each pass."""

    def __init__(self):
        super().__init__()
        self.f = linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.f.weight + torch.randn_like(self.f.weight), self.f.bias)


class Alternating(nn.Module):
    """Each pass takes the other sign."""

    def __init__(self):
        super().__init__()
        self.f, self.sign = linear(6, 3), 1

    def forward(self, x: Tensor) -> Tensor:
        self.sign = -self.sign
        return self.sign * self.f(x)


unet = seq(
    of(nn.Conv2d, 3, 2, 3, 2, 1),
    of(nn.Conv2d, 2, 2, 3, padding=1),
    of(nn.Upsample, scale_factor=2, mode="nearest"),
    of(nn.Conv2d, 2, 3, 3, padding=1),
)
lenet = seq(
    of(nn.Conv2d, 1, 3, 5),
    nn.ReLU,
    of(nn.MaxPool2d, 2),
    of(nn.Conv2d, 3, 4, 3),
    nn.ReLU,
    of(nn.MaxPool2d, 2),
    nn.Flatten,
    of(linear, 4, 3),
)

CASES = [
    Ported("classes_of_an_mlp", mlp, (6,)),
    Ported("one_output_of_an_mlp", seq(of(linear, 6, 5), nn.ReLU, of(linear, 5, 1)), (6,)),
    Ported("sequence_mlp", mlp, (4, 6)),
    Ported("sequence_mlp_classes_second", fn(lambda s, x: s.f(x).mT, f=mlp), (4, 6)),
    Ported("sequence_mlp_averaged", fn(lambda s, x: s.f(x).mean(1), f=mlp), (4, 6)),
    Ported("images_mlp", fn(lambda s, x: s.f(x.flatten(2).mT).mean(1), f=seq(of(linear, 3, 4), nn.ReLU, of(linear, 4, 2))), (3, 2, 3)),
    Ported("conv_expanded", fn(lambda s, x: s.f(s.c(x).permute(0, 2, 3, 1)).relu(), c=of(nn.Conv2d, 2, 3, 2), f=of(linear, 3, 2)), (2, 3, 3)),
    Ported("conv_reduced", fn(lambda s, x: s.f(s.c(x).mean((2, 3))), c=of(nn.Conv2d, 2, 3, 2), f=of(linear, 3, 2)), (2, 4, 4)),
    Ported("unet", fn(lambda s, x: s.f(x).permute(0, 2, 3, 1), f=unet), (3, 4, 4), modes=("trace", "sum")),
    Ported("lenet", lenet, (1, 14, 14)),
    Ported("tied_encoder_and_decoder", fn(lambda s, x: F.linear(torch.relu(s.f(x)), s.f.weight.T, s.b), f=of(linear, 6, 4), b=raw(6)), (6,)),
    Ported("weight_of_a_conv_and_a_linear", fn(lambda s, x: F.linear(F.conv2d(x, s.w).relu().mean((2, 3)), s.w.flatten(1)[:, :3]), w=raw(3, 2, 2, 2)), (2, 3, 3)),
]  # fmt: skip

PYTREES = [
    Ported("function_of_parameters", of(Called, two_layers, w1=(6, 4), b1=(4,), w2=(4, 3)), size(6), strategies=("rows",), pytree=True),
    Ported("function_unrolled", of(Called, unrolled, w=(3, 3)), size(3), strategies=("rows",), pytree=True),
    Ported("function_attending", of(Called, attending, q=(4, 4), k=(4, 4), v=(3, 4)), size(3, 4), strategies=("rows",), pytree=True),
    Ported("dict_of_x", fn(lambda s, t: s.f(t["x"]), f=mlp), {"x": size(6)}, pytree=True),
    Ported("user_dict_of_x", fn(lambda s, t: s.f(t["x"]), f=mlp), UserDict({"x": size(6)}), pytree=True),
    Ported("dict_with_an_unused_tensor", fn(lambda s, t: s.f(t["x"]), f=mlp), {"x": size(6), "label": size()}, pytree=True),
    Ported("dict_of_sequences", fn(lambda s, t: s.f(t["x"]) + t["y"], f=mlp), {"x": size(4, 6), "y": size(4, 1)}, pytree=True),
    Ported("tokens_and_mask_to_logits", fn(masked, e=of(nn.Embedding, 3, 4), f=of(linear, 4, 3)), {"input_ids": size(5, tokens=3), "attention_mask": size(5, tokens=2)}, pytree=True),
]  # fmt: skip

REFUSED = [
    Refused("dropout_in_training", seq(of(linear, 6, 5), nn.Dropout, nn.ReLU, of(linear, 5, 2)), (6,), entk.ModelStateError, r"layer '1' \(Dropout\) is in training mode"),
    Refused("batch_norm1d_in_training", seq(of(linear, 6, 5), of(nn.BatchNorm1d, 5), nn.ReLU, of(linear, 5, 2)), (6,), entk.ModelStateError, r"layer '1' \(BatchNorm1d\) is in training mode"),
    Refused("batch_norm_in_training_by_function", fn(lambda s, x: F.batch_norm(s.f(x), None, None, training=True), f=of(linear, 6, 3)), (6,), entk.ModelStateError, "batch_norm is called with training=True"),
    Refused("dropout_by_function", fn(lambda s, x: F.dropout(s.f(x), 0.5), f=of(linear, 6, 3)), (6,), entk.ModelStateError, "dropout is called with training=True"),
    Refused("attention_dropout_in_training", fn(lambda s, x: s.a(x, x, x)[0].mean(1), a=of(nn.MultiheadAttention, 4, 2, dropout=0.5, batch_first=True)), (3, 4), entk.ModelStateError, r"'a' \(MultiheadAttention\) is in training mode"),
    Refused("recurrent_dropout_in_training", fn(lambda s, x: s.r(x)[0].mean(1), r=of(nn.LSTM, 4, 3, 2, dropout=0.5, batch_first=True)), (3, 4), entk.ModelStateError, r"'r' \(LSTM\) is in training mode"),
    Refused("random_relu_in_training", seq(of(linear, 6, 5), nn.RReLU, of(linear, 5, 2)), (6,), entk.ModelStateError, "rrelu is called with training=True"),
    Refused("noise_on_the_inputs", fn(lambda s, x: s.f(x + 0.1 * torch.randn_like(x)), f=mlp), (6,), entk.UnsupportedModelError, "two forward passes differ"),
    Refused("noise_on_the_weights", Doubting, (6,), entk.UnsupportedModelError, "two forward passes differ"),
    Refused("noise_on_the_outputs", fn(lambda s, x: s.f(x) + 0.1 * torch.rand(3), f=mlp), (6,), entk.UnsupportedModelError, "two forward passes differ"),
    Refused("another_sign_each_pass", Alternating, (6,), entk.UnsupportedModelError, "two forward passes differ"),
    Refused("samples_shuffled", fn(lambda s, x: s.f(x[torch.randperm(len(x))]), f=mlp), (6,), entk.UnsupportedModelError, "mixes the samples"),
]  # fmt: skip
