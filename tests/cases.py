"""Named tiny models, two sets of samples each; every kernel test runs over all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N, M = 5, 3


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    tokens: int = 0  # integer inputs below this number
    n: int = N
    m: int = M

    def make(self, dtype=torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
        """(model in eval mode, x, z), the same every time."""
        torch.manual_seed(sum(map(ord, self.name)))
        model = self.build()
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm | nn.LayerNorm):
                if module.weight is not None:
                    nn.init.normal_(module.weight, 1, 0.3)
                if getattr(module, "bias", None) is not None:
                    nn.init.normal_(module.bias)
        if self.tokens:
            x, z = (torch.randint(self.tokens, (k, *self.sample)) for k in (self.n, self.m))
        else:
            x, z = (torch.randn(k, *self.sample).to(dtype) for k in (self.n, self.m))
        return model.to(dtype).eval(), x, z


class Fn(nn.Module):
    """A model from modules or parameters by name and a function of them and x."""

    def __init__(self, forward: Callable, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor):
        return self.function(self, x)


def fn(forward: Callable, **parts: Callable) -> Callable[[], nn.Module]:
    """Parts are made anew, and in order, for each model."""
    return lambda: Fn(forward, **{name: make() for name, make in parts.items()})


def seq(*makers: Callable) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(make() for make in makers))


def of(kind: Callable, *args, **kwargs) -> Callable:
    return lambda: kind(*args, **kwargs)


def raw(*shape: int) -> Callable:
    return lambda: nn.Parameter(torch.randn(*shape))


class Block(nn.Module):
    """Residual block; option "A" pads the shortcut with zeros, "B" convolves it."""

    def __init__(self, inputs: int, outputs: int, stride: int, option: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.option, self.stride, self.extra = option, stride, outputs - inputs
        if option == "B":
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.option == "B":
            out += self.down(x)
        else:
            out += F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu_(out)


class TinyGPT(nn.Module):
    """Pre-norm causal transformer, T = 6, output embedding tied to the input's."""

    def __init__(self, vocabulary: int = 7, width: int = 8, tied: bool = True):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(6, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(
            torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf
        )
        x = x + self.out(scores.softmax(-1) @ v)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x[:, -1])


class SequenceFirst(nn.Module):
    """Transposes to [T, N, D] inside, as nn.Transformer does by default."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).mean(0)


def last_state(self, x: Tensor) -> Tensor:
    return self.rnn(x)[0][:, -1]


def conv2(*args, **kwargs) -> Callable[[], nn.Module]:
    return seq(of(nn.Conv2d, *args, **kwargs), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2))


def settled(build: Callable, sample: tuple[int, ...]) -> Callable:
    """Lazy layers get their shapes."""

    def make():
        model = build()
        model(torch.zeros(2, *sample))
        return model

    return make


def conv(name: str, *args, sample=(4, 6, 7), **kwargs) -> Case:
    return Case(name, settled(conv2(*args, **kwargs), sample), sample)


def overwritten(self, x: Tensor) -> Tensor:
    h = self.f(x)
    h[:, :2].mul_(2)
    h[:, 1:].add_(x[:, 1:])
    return h


def by_loop(self, x: Tensor) -> Tensor:
    return torch.stack([self.fc(F.relu(self.conv(image[None])).flatten()) for image in x])


def mixed_cut(self, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = self.a(x)
    return self.c(torch.tanh(h)) + self.b(x).detach() * self.d(x)


def tied_linears() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


CASES = [
    Case("linear", of(nn.Linear, 4, 3), (4,)),
    Case("linear_no_bias", of(nn.Linear, 4, 3, bias=False), (4,)),
    Case("linear_one_output", of(nn.Linear, 4, 1), (4,)),
    Case("linear_one_sample", seq(of(nn.Linear, 4, 3), nn.Tanh, of(nn.Linear, 3, 2)), (4,), n=1, m=1),
    Case("linear_tokens", seq(of(nn.Linear, 4, 3), nn.Tanh, nn.Flatten, of(nn.Linear, 18, 2)), (6, 4)),
    Case("linear_grid", seq(of(nn.Linear, 4, 2), nn.Tanh, nn.Flatten, of(nn.Linear, 12, 2)), (2, 3, 4)),
    Case("linear_three_axes", seq(of(nn.Linear, 3, 2), nn.Flatten), (2, 1, 2, 3)),
    Case("mlp", seq(of(nn.Linear, 6, 8), nn.ReLU, of(nn.Linear, 8, 8), nn.GELU, of(nn.Linear, 8, 4)), (6,)),
    Case("conv1d", settled(seq(of(nn.Conv1d, 3, 4, 3, 2, 1, 2), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2)), (3, 9)), (3, 9)),
    Case("conv1d_same_even", settled(seq(of(nn.Conv1d, 2, 4, 4, padding="same", groups=2, bias=False), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2)), (2, 5)), (2, 5)),
    Case("conv1d_circular", settled(seq(of(nn.Conv1d, 2, 3, 3, 2, 2, padding_mode="circular"), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2)), (2, 6)), (2, 6)),
    Case("conv3d", settled(seq(of(nn.Conv3d, 2, 3, (1, 2, 3), (1, 2, 1), (0, 1, 1)), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2)), (2, 3, 4, 4)), (2, 3, 4, 4)),
    Case("conv3d_groups", settled(seq(of(nn.Conv3d, 2, 4, 2, 1, 1, groups=2, padding_mode="replicate", bias=False), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2)), (2, 2, 3, 2)), (2, 2, 3, 2)),
    conv("conv2d", 4, 3, 3),
    conv("conv2d_no_bias", 4, 3, 3, bias=False),
    conv("conv2d_stride", 4, 3, (3, 2), (2, 3), (1, 0)),
    conv("conv2d_dilation", 4, 3, (2, 3), 1, (2, 1), (2, 2)),
    conv("conv2d_groups", 4, 6, 3, groups=2),
    conv("conv2d_depthwise", 4, 8, 3, 2, 1, groups=4),
    conv("conv2d_circular", 4, 3, 3, padding=1, padding_mode="circular"),
    conv("conv2d_reflect", 4, 3, 3, padding=(1, 2), padding_mode="reflect"),
    conv("conv2d_replicate", 4, 3, 3, 2, 1, padding_mode="replicate"),
    conv("conv2d_same", 4, 3, 3, padding="same", dilation=2),
    conv("conv2d_same_even", 4, 3, (2, 4), padding="same"),
    conv("conv2d_valid", 4, 3, 2, padding="valid"),
    Case("conv2d_one_pixel", seq(of(nn.Conv2d, 4, 3, 1), nn.Flatten), (4, 1, 1)),
    Case("batchnorm1d", seq(of(nn.Linear, 4, 5), of(nn.BatchNorm1d, 5), nn.Tanh, of(nn.Linear, 5, 2)), (4,)),
    Case("batchnorm2d", seq(of(nn.Conv2d, 2, 3, 3), of(nn.BatchNorm2d, 3), nn.ReLU, nn.Flatten), (2, 4, 4)),
    Case("batchnorm_plain", seq(of(nn.Conv2d, 2, 3, 3), of(nn.BatchNorm2d, 3, affine=False), nn.Flatten), (2, 4, 4)),
    Case("batchnorm1d_sequence", seq(of(nn.Conv1d, 2, 3, 2), of(nn.BatchNorm1d, 3), nn.Tanh, nn.Flatten), (2, 4)),
    Case("layernorm", seq(of(nn.Linear, 4, 5), of(nn.LayerNorm, 5), nn.Tanh, nn.Flatten), (3, 4)),
    Case("layernorm_two_axes", seq(of(nn.LayerNorm, (3, 4)), nn.Flatten, of(nn.Linear, 24, 2)), (2, 3, 4)),
    Case("layernorm_no_bias", seq(of(nn.LayerNorm, 4, bias=False), of(nn.Linear, 4, 2)), (4,)),
    Case("layernorm_plain", seq(of(nn.LayerNorm, 4, elementwise_affine=False), of(nn.Linear, 4, 2)), (4,)),
    Case("rmsnorm", seq(of(nn.RMSNorm, 4), of(nn.Linear, 4, 2)), (4,)),
    Case("groupnorm", seq(of(nn.Conv2d, 2, 4, 3), of(nn.GroupNorm, 2, 4), nn.ReLU, nn.Flatten), (2, 4, 4)),
    Case("embedding", seq(of(nn.Embedding, 5, 3), nn.Flatten, of(nn.Linear, 12, 2)), (4,), tokens=5),
    Case("embedding_padding", seq(of(nn.Embedding, 5, 3, padding_idx=1), nn.Flatten, of(nn.Linear, 12, 2)), (4,), tokens=3),
    Case("embedding_repeated", seq(of(nn.Embedding, 2, 3), nn.Tanh, nn.Flatten, of(nn.Linear, 15, 2)), (5,), tokens=2),
    Case("embedding_functional_tie", fn(lambda s, x: F.linear(s.f(s.e(x)).tanh().mean(1), s.e.weight), e=of(nn.Embedding, 5, 3), f=of(nn.Linear, 3, 3)), (4,), tokens=5),
    Case("instancenorm", seq(of(nn.Conv2d, 2, 3, 3), of(nn.InstanceNorm2d, 3, affine=True), nn.Flatten), (2, 5, 5)),
    Case("adaptive_weight", fn(lambda s, x: torch.einsum("noi,ni->no", s.f(x).view(-1, 2, 4), x), f=of(nn.Linear, 4, 8)), (4,)),
    Case("prelu", seq(of(nn.Linear, 4, 5), of(nn.PReLU, 5), of(nn.Linear, 5, 2)), (4,)),
    Case("conv_transpose", seq(of(nn.ConvTranspose2d, 2, 3, 3, 2), nn.Tanh, nn.Flatten, of(nn.Linear, 147, 2)), (2, 3, 3)),
    Case("bilinear", fn(lambda s, x: s.f(x[:, :3], x[:, 3:]), f=of(nn.Bilinear, 3, 2, 4)), (5,)),
    Case("lstm", fn(last_state, rnn=of(nn.LSTM, 3, 4, batch_first=True)), (5, 3)),
    Case("gru", fn(last_state, rnn=of(nn.GRU, 3, 4, batch_first=True)), (5, 3)),
    Case("rnn", fn(last_state, rnn=of(nn.RNN, 3, 4, batch_first=True, nonlinearity="relu", bias=False)), (5, 3)),
    Case("lstm_two_layers_both_ways", fn(last_state, rnn=of(nn.LSTM, 3, 4, 2, batch_first=True, bidirectional=True, dropout=0.2)), (4, 3)),
    Case("lstm_projected", fn(last_state, rnn=of(nn.LSTM, 3, 4, batch_first=True, proj_size=2)), (4, 3)),
    Case("gru_time_first", fn(lambda s, x: s.rnn(x.transpose(0, 1))[0].mean(0), rnn=of(nn.GRU, 3, 4, 2)), (4, 3)),
    Case("lstm_states", fn(lambda s, x: torch.cat([*s.rnn(x)[1]], 2)[0], rnn=of(nn.LSTM, 3, 2, batch_first=True)), (4, 3)),
    Case("lstm_cell", fn(lambda s, x: s.cell(x[:, 1], s.cell(x[:, 0]))[0], cell=of(nn.LSTMCell, 3, 4)), (2, 3)),
    Case("gru_cell", fn(lambda s, x: s.cell(x[:, 1], s.cell(x[:, 0])), cell=of(nn.GRUCell, 3, 4)), (2, 3)),
    Case("rnn_cell", fn(lambda s, x: s.cell(x[:, 1], s.cell(x[:, 0])), cell=of(nn.RNNCell, 3, 4, bias=False)), (2, 3)),
    Case("position_of_one", fn(lambda s, x: s.f((s.p + x).flatten(1)), f=of(nn.Linear, 12, 2), p=raw(1, 3, 1)), (3, 4)),
    Case("offset", fn(lambda s, x: torch.tanh(torch.add(s.f(x), s.p)), f=of(nn.Linear, 4, 3, bias=False), p=raw(3)), (2, 4)),
    Case("attention", fn(lambda s, x: s.mha(x, x, x)[0].flatten(1)[:, :3], mha=of(nn.MultiheadAttention, 4, 2, batch_first=True)), (3, 4)),
    Case("transformer", fn(lambda s, x: s.t(x).mean(1), t=of(nn.TransformerEncoderLayer, 4, 2, 6, 0.0, batch_first=True)), (3, 4)),
    Case("sequence_first", SequenceFirst, (3, 4)),
    Case("weight_norm", seq(of(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))), nn.Tanh, of(nn.Linear, 5, 2)), (4,)),
    Case("inplace_relu", seq(of(nn.Conv2d, 2, 3, 3), of(nn.ReLU, inplace=True), nn.Flatten, of(nn.Linear, 12, 2)), (2, 4, 4)),
    Case("inplace_relu_of_a_view", seq(of(nn.Conv2d, 2, 3, 3), of(nn.InstanceNorm2d, 3, affine=True), of(nn.ReLU, inplace=True), nn.Flatten, of(nn.Linear, 27, 2)), (2, 5, 5)),
    Case("module_twice", fn(lambda s, x: s.f(torch.tanh(s.f(x))), f=of(nn.Linear, 4, 4)), (4,)),
    Case("one_weight_two_linears", tied_linears, (4,)),
    Case("inplace_residual", fn(lambda s, x: s.b(torch.relu(s.a(x).add_(x))), a=of(nn.Linear, 4, 4), b=of(nn.Linear, 4, 2)), (4,)),
    Case("conv_twice", fn(lambda s, x: s.f(torch.tanh(s.f(x))).flatten(1), f=of(nn.Conv2d, 2, 2, 3, padding=1)), (2, 4, 4)),
    Case("two_lengths", fn(lambda s, x: s.f(x).sum(1) + s.f(torch.tanh(x[:, 0])), f=of(nn.Linear, 4, 3)), (5, 4)),
    Case("borrowed_weight", fn(lambda s, x: F.linear(torch.tanh(s.a(x)), s.a.weight.detach()) + F.linear(torch.tanh(s.b(x)), s.a.weight), a=of(nn.Linear, 4, 4), b=of(nn.Linear, 4, 4)), (4,)),
    Case("shared_bias", fn(lambda s, x: F.linear(torch.tanh(F.linear(x, s.u, s.b)), s.v, s.b), u=raw(3, 4), v=raw(3, 3), b=raw(3)), (4,)),
    Case("functional_conv", fn(lambda s, x: F.conv2d(x, s.w, padding=1).relu().mean((2, 3)), w=raw(3, 2, 3, 3)), (2, 4, 4)),
    Case("frozen", fn(lambda s, x: s.b(torch.tanh(s.a(x))), a=of(lambda: nn.Linear(4, 5).requires_grad_(False)), b=of(nn.Linear, 5, 2)), (4,)),
    Case("frozen_last", fn(lambda s, x: s.b(torch.tanh(s.a(x))), a=of(nn.Linear, 4, 5), b=of(lambda: nn.Linear(5, 2).requires_grad_(False))), (4,)),
    Case("unused", fn(lambda s, x: s.a(x), a=of(nn.Linear, 4, 2), b=of(nn.Linear, 3, 3)), (4,)),
    Case("dead_head", fn(lambda s, x: s.a(x) + 0 * s.b(x).detach(), a=of(nn.Linear, 4, 2), b=of(nn.Linear, 4, 2)), (4,)),
    Case("cut", fn(mixed_cut, a=of(nn.Linear, 4, 5), b=of(nn.Linear, 4, 2), c=of(nn.Linear, 5, 2), d=of(nn.Linear, 4, 2)), (4,)),
    Case("raw_scale", fn(lambda s, x: s.scale * s.f(x), f=of(nn.Linear, 4, 2), scale=raw(1)), (4,)),
    Case("scalar_parameter", fn(lambda s, x: s.scale * s.f(x), f=of(nn.Linear, 4, 2), scale=of(lambda: nn.Parameter(torch.tensor(1.5)))), (4,)),
    Case("number_added", fn(lambda s, x: torch.tanh(s.f(x) + s.p), f=of(nn.Linear, 4, 3), p=raw(1)), (4,)),
    Case("scalar_added", fn(lambda s, x: s.p + s.f(x)[:, 0], f=of(nn.Linear, 4, 2), p=of(lambda: nn.Parameter(torch.tensor(1.5)))), (4,)),
    Case("no_units", seq(of(nn.Linear, 4, 0), of(nn.Linear, 0, 3)), (4,)),
    Case("no_positions", fn(lambda s, x: s.g(torch.tanh(s.f(x[:, 2:]).sum(1) + x[:, 0])), f=of(nn.Linear, 4, 4), g=of(nn.Linear, 4, 2)), (2, 4)),
    Case("raw_matmul", fn(lambda s, x: torch.tanh(x @ s.w), w=raw(4, 3)), (4,)),
    Case("rule_and_raw", fn(lambda s, x: s.f(x) + (x @ s.f.weight.T), f=of(nn.Linear, 4, 3)), (4,)),
    Case("position", fn(lambda s, x: s.f((x + s.p).flatten(1)), f=of(nn.Linear, 12, 2), p=raw(3, 4)), (3, 4)),
    Case("flat_output", fn(lambda s, x: s.f(x)[:, 0], f=of(nn.Linear, 4, 2)), (4,)),
    Case("one_against_many", seq(of(nn.Conv2d, 2, 3, 2), nn.Tanh, nn.Flatten, of(nn.Linear, 12, 1)), (2, 3, 3), n=1, m=4),
    Case("samples_on_the_last_axis", fn(lambda s, x: s.f(x.permute(1, 2, 0).mT).tanh().sum(0), f=of(nn.Linear, 4, 2)), (3, 4)),
    Case("output_tensor", fn(lambda s, x: s.f(x).view(-1, 2, 3), f=of(nn.Linear, 4, 6)), (4,)),
    Case("tokens_flattened", fn(lambda s, x: s.g(torch.tanh(s.f(x.reshape(-1, 4)))).view(len(x), -1), f=of(nn.Linear, 4, 3), g=of(nn.Linear, 3, 2)), (3, 4)),
    Case("frames_flattened", fn(lambda s, x: s.f(x.flatten(0, 1)).relu().view(len(x), 3, -1).mean(2), f=of(nn.Conv2d, 2, 2, 3)), (3, 2, 4, 4)),
    Case("time_first_flattened", fn(lambda s, x: torch.tanh(s.f(x.transpose(0, 1).reshape(-1, 4))).view(3, len(x), -1).sum(0), f=of(nn.Linear, 4, 3)), (3, 4)),
    Case("sample_loop", fn(by_loop, conv=of(nn.Conv2d, 2, 3, 3), fc=of(nn.Linear, 12, 2)), (2, 4, 4)),
    Case("strided_input", fn(lambda s, x: s.f(x.transpose(1, 2)[..., ::2]).flatten(1), f=of(nn.Linear, 2, 3)), (4, 3)),
    Case("expanded_input", fn(lambda s, x: torch.tanh(s.f(x[:, None].expand(-1, 3, -1))).sum(1), f=of(nn.Linear, 4, 2)), (4,)),
    Case("views_overwritten", fn(overwritten, f=of(nn.Linear, 4, 4)), (4,)),
    Case("pools", settled(seq(of(nn.Conv2d, 2, 4, 3, padding=1), of(nn.MaxPool2d, 2), of(nn.AvgPool2d, 2), of(nn.AdaptiveAvgPool2d, 1), nn.Flatten, of(nn.LazyLinear, 2)), (2, 8, 8)), (2, 8, 8)),
    Case("dropout_eval", seq(of(nn.Linear, 4, 5), of(nn.Dropout, 0.5), of(nn.Linear, 5, 2)), (4,)),
    Case("resnet_a", seq(of(nn.Conv2d, 3, 4, 3, 1, 1), of(Block, 4, 6, 2, "A"), of(Block, 6, 6, 1, "A"), of(nn.AdaptiveAvgPool2d, 1), nn.Flatten, of(nn.Linear, 6, 3)), (3, 6, 6)),
    Case("resnet_b", seq(of(nn.Conv2d, 3, 4, 3, 1, 1), of(Block, 4, 6, 2, "B"), of(nn.AdaptiveAvgPool2d, 1), nn.Flatten, of(nn.Linear, 6, 3)), (3, 6, 6)),
    Case("vgg", seq(of(nn.Conv2d, 3, 4, 3, padding=1), of(nn.BatchNorm2d, 4), nn.ReLU, of(nn.MaxPool2d, 2), of(nn.Conv2d, 4, 6, 3, padding=1), nn.ReLU, of(nn.MaxPool2d, 2), nn.Flatten, of(nn.Linear, 24, 4)), (3, 8, 8)),
    Case("vit", fn(lambda s, x: s.head(s.block(s.patch(x).flatten(2).mT + s.position).mean(1)), patch=of(nn.Conv2d, 3, 4, 2, 2), position=raw(4, 4), block=of(nn.TransformerEncoderLayer, 4, 2, 6, 0.0, batch_first=True, norm_first=True), head=of(nn.Linear, 4, 2)), (3, 4, 4)),
    Case("gpt", of(TinyGPT, tied=False), (6,), tokens=7),
    Case("gpt_tied", TinyGPT, (6,), tokens=7, n=3, m=2),
]  # fmt: skip
