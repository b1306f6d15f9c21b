"""Structures of TorchJD's architectures, written anew at small widths.

After tests/utils/architectures.py and tests/unit/autogram/test_engine.py of TorchJD
(github.com/TorchJD/torchjd, MIT). What it expects to fail (a parameter of two modules, a
submodule's parameters used without it, a batched RNN) is served here like the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import entk
from tests.cases import fn, of, raw, seq
from tests.ported.case import Ported, Refused, size

linear = nn.Linear
ROWS = {"strategies": ("rows",)}  # no parameter has a rule, hence none another way


class Sharing(nn.Module):
    """Two modules that own the same parameter."""

    def __init__(self):
        super().__init__()
        w = nn.Parameter(torch.randn(5, 3))
        self.a, self.b = (fn(lambda s, x: x @ s.w, w=lambda: w)() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x.square() / 5)


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Counting(nn.Module):
    """Each pass replaces a buffer, which the outputs may depend on."""

    def __init__(self, weight: float):
        super().__init__()
        self.w, self.weight = nn.Parameter(torch.randn(4, 3)), weight
        self.register_buffer("passes", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        return (x + self.weight * self.passes) @ self.w


class Restless(nn.InstanceNorm2d):
    """In training mode for ever: its statistics are each sample's own."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


class Told(nn.Module):
    """Takes a word beside the tensor."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 3))

    def forward(self, word: str, input: Tensor) -> Tensor:
        y = input @ self.w
        return 2 * y if word == "twice" else y


def frozen(*shape: int):
    return lambda: nn.Parameter(torch.randn(*shape), requires_grad=False)


def spread(tree: dict) -> list[Tensor]:
    """The five tensors of an {"one": [(a, [b, c]), d], "two": e}."""
    (a, (b, c)), d = tree["one"]
    return [a, b, c, d, tree["two"]]


def five(self) -> list[Tensor]:
    return [self.w1, self.w2, self.w3, self.w4, self.w5]


def nested(y: list[Tensor]) -> dict:
    return {"first": (y[0], [y[1], y[2]]), "second": y[3], "third": ([(y[4],)],)}


def collected(tree: dict) -> Tensor:
    (a, (b, c)), d, ([(e,)],) = tree.values()
    return torch.cat([a, b, c, d, e], 1)


def cut(x: Tensor) -> dict:
    a, b, c, d, e = x.split([2, 3, 4, 2, 3], 1)
    return {"one": [(a, [b, c]), d], "two": e}


def two_products(self, pair) -> tuple[Tensor, Tensor]:
    a, b = pair
    return a @ self.a1 + b @ self.b1, a @ self.a2 + b @ self.b2


def mixed_tree(x: Tensor) -> dict:
    """Tensors, numbers and words."""
    a, b, c, d = x.split([2, 3, 2, 3], 1)
    return {"zero": "-", "one": [(a, b, "-", 0.2, [0.3, "-"]), c, 0.4], "two": d, "three": 0.5}


def of_mixed_tree(self, x: dict) -> Tensor:
    (a, b, _, ka, (kb, _)), c, kc = x["one"]
    return ka * a @ self.w1 + kb * b @ self.w2 + kc * c @ self.w3 + x["three"] * x["two"] @ self.w4


def fork(self, x: Tensor) -> Tensor:
    h = torch.relu(self.fc0(x))
    return self.fc4(torch.relu(self.fc2(torch.relu(self.fc1(h))) + self.fc3(h)))


def ignoring(self, x: Tensor) -> Tensor:
    for part in (self.none, self.nones, self.empty, self.empties):
        part(x)
    return self.f(x)


IN5 = {"w1": raw(2, 2), "w2": raw(3, 3), "w3": raw(4, 2), "w4": raw(2, 1), "w5": raw(3, 2)}
OUT5 = {"w1": raw(4, 2), "w2": raw(4, 3), "w3": raw(4, 1), "w4": raw(4, 2), "w5": raw(4, 3)}
TREE = {"one": [(size(2), [size(3), size(4)]), size(2)], "two": size(3)}
PAIR = (size(3), size(3))
miso = fn(lambda s, p: p[0] @ s.a + p[1] @ s.b, a=raw(3, 4), b=raw(3, 4))
mimo = fn(two_products, a1=raw(3, 2), b1=raw(3, 2), a2=raw(3, 4), b2=raw(3, 4))
sipo = fn(lambda s, x: nested([x @ w for w in five(s)]), **OUT5)
piso = fn(
    lambda s, t: torch.cat([x @ w for x, w in zip(spread(t), five(s), strict=True)], 1), **IN5
)
pipo = fn(lambda s, t: nested([x @ w for x, w in zip(spread(t), five(s), strict=True)]), **IN5)
FORK = {
    "fc0": of(linear, 9, 4),
    "fc1": of(linear, 4, 5),
    "fc2": of(linear, 5, 3),
    "fc3": of(linear, 4, 3),
    "fc4": of(linear, 3, 2),
}
MIXED = {"w1": raw(2, 3), "w2": raw(3, 3), "w3": raw(2, 3), "w4": raw(3, 3)}
IGNORED = {
    "none": fn(lambda s, x: None, w=raw(4, 3)),
    "nones": fn(lambda s, x: {"one": [None, ()], "two": None}, w=raw(4, 3)),
    "empty": fn(lambda s, x: (), w=raw(4, 3)),
    "empties": fn(lambda s, x: {"one": [(), ()], "two": [[], []]}, w=raw(4, 3)),
}
cifar10 = fn(
    lambda s, x: s.head(s.body(x)),
    body=seq(
        of(nn.Conv2d, 3, 4, 3),
        nn.ReLU,
        of(nn.Conv2d, 4, 8, 3, groups=4),
        seq(of(nn.MaxPool2d, 2), nn.ReLU),
        of(nn.Conv2d, 8, 8, 3, groups=8),
        seq(of(nn.MaxPool2d, 3), nn.ReLU, nn.Flatten),
    ),
    head=seq(of(linear, 8, 6), nn.ReLU, of(linear, 6, 3)),
)

CASES = [
    Ported("overly_nested", seq(seq(seq(seq(seq(of(linear, 4, 5), nn.ReLU), of(linear, 5, 4)), nn.ReLU, of(linear, 4, 3)), nn.ReLU, of(linear, 3, 4), nn.ReLU), of(linear, 4, 3)), (4,)),
    Ported("simple_branched", fn(fork, **FORK), (9,)),
    Ported("as_many_samples_as_inputs", fn(fork, **FORK), (9,), n=9, m=9),
    *(Ported(f"only_{layer}", fn(fork, **FORK), (9,), params=(f"{layer}.weight", f"{layer}.bias"), modes=("all",)) for layer in FORK),
    Ported("only_first_and_last", fn(fork, **FORK), (9,), params=("fc4.weight", "fc0.bias")),
    Ported("miso_branched", fn(lambda s, x: s.f((x, x)), f=miso), (3,), **ROWS),
    Ported("mimo_branched", fn(lambda s, x: torch.cat(s.f((x, x)), 1), f=mimo), (3,), **ROWS),
    Ported("sipo_branched", fn(lambda s, x: collected(s.f(x)), f=sipo), (4,), **ROWS),
    Ported("piso_branched", fn(lambda s, x: s.f(cut(x)), f=piso), (14,), **ROWS),
    *(Ported(f"pipo_branched_{n}", fn(lambda s, x: collected(s.f(cut(x))), f=pipo), (14,), n=n, m=n, **ROWS) for n in (1, 2, 8)),
    Ported("no_tensor_output", fn(ignoring, f=of(linear, 4, 3), **IGNORED), (4,)),
    Ported("buffered", fn(lambda s, x: s.f(s.b(x)), b=Buffered, f=of(linear, 4, 3)), (4,)),
    Ported("parameter_reuse_in_a_module", fn(lambda s, x: x @ s.w + (x.square() / 5) @ s.w, w=raw(5, 3)), (5,), **ROWS),
    Ported("parameter_reuse_between_modules", Sharing, (5,), **ROWS),
    Ported("module_reuse", fn(lambda s, x: s.f(x) + s.f(x.square() / 5), f=of(linear, 5, 3)), (5,)),
    Ported("some_unused_parameter", fn(lambda s, x: x @ s.w, unused=raw(5, 3), w=raw(5, 3)), (5,), **ROWS),
    Ported("some_frozen_parameter", fn(lambda s, x: x @ s.w + (x.square() / 5) @ s.u, u=frozen(5, 3), w=raw(5, 3)), (5,), **ROWS),
    Ported("some_frozen_module", fn(lambda s, x: s.a(x) + s.b(x.square() / 5), a=of(lambda: linear(5, 3).requires_grad_(False)), b=of(linear, 5, 3)), (5,)),
    Ported("trainable_but_unused_in_a_frozen_module", fn(lambda s, x: s.f(s.odd(x)), odd=fn(lambda s, x: x @ s.u, u=frozen(5, 3), w=raw(5, 3)), f=of(linear, 3, 2)), (5,)),
    Ported("some_unused_output", fn(lambda s, x: (s.a(x), s.b(x))[1], a=of(linear, 4, 5), b=of(linear, 4, 3)), (4,)),
    Ported("output_of_0_axes", fn(lambda s, x: s.f(x).squeeze(1) / 5, f=of(linear, 5, 1)), (5,)),
    Ported("output_of_1_axis", fn(lambda s, x: s.f(x) / 5, f=of(linear, 5, 3)), (5,)),
    Ported("output_of_2_axes", fn(lambda s, x: torch.stack([s.f(x), s.g(x)], 1), f=of(linear, 5, 3), g=of(linear, 5, 3)), (5,)),
    Ported("output_of_3_axes", fn(lambda s, x: torch.einsum("ni,iabc->nabc", x, s.w), w=raw(4, 2, 3, 2)), (4,), **ROWS),
    Ported("output_of_4_axes", fn(lambda s, x: torch.einsum("ni,iabcd->nabcd", x, s.w), w=raw(4, 2, 3, 1, 2)), (4,), **ROWS),
    Ported("rnn_over_a_batch", fn(lambda s, x: s.rnn(x)[0], rnn=of(nn.RNN, 4, 3, batch_first=True)), (6, 4)),
    Ported("dropout2d_at_rest", fn(lambda s, x: s.d(s.f(s.d(x))), f=of(nn.Conv2d, 3, 2, 3), d=of(nn.Dropout2d, 0.5)), (3, 4, 4)),
    Ported("submodule_parameters_used_directly", fn(lambda s, x: x @ s.f.weight.T + s.f.bias, f=of(linear, 2, 3)), (2,), **ROWS),
    Ported("submodule_parameters_also_used_directly", fn(lambda s, x: x @ s.f.weight.T + s.f.bias + s.f(x), f=of(linear, 2, 3)), (2,)),
    Ported("word_as_argument", fn(lambda s, x: s.f("twice", x), f=Told), (2,), **ROWS),
    Ported("word_as_keyword", fn(lambda s, x: s.f(word="twice", input=x), f=Told), (2,), **ROWS),
    Ported("word_as_output", fn(lambda s, x: s.f(x)[1], f=fn(lambda s, x: ("word", x @ s.w), w=raw(2, 3))), (2,), **ROWS),
    Ported("mixed_tree_as_argument", fn(lambda s, x: s.g(mixed_tree(s.f(x))), f=of(linear, 4, 10), g=fn(of_mixed_tree, **MIXED)), (4,)),
    Ported("mixed_tree_as_keyword", fn(lambda s, x: s.g(x=mixed_tree(s.f(x))), f=of(linear, 4, 10), g=fn(of_mixed_tree, **MIXED)), (4,)),
    Ported("free_parameter", fn(lambda s, x: s.f(torch.relu(x @ s.w)), w=raw(4, 5), f=seq(of(linear, 5, 6), nn.ReLU, of(linear, 6, 4), nn.ReLU, of(linear, 4, 3))), (4,)),
    Ported("no_free_parameter", seq(of(linear, 4, 5, bias=False), nn.ReLU, of(linear, 5, 6), nn.ReLU, of(linear, 6, 4), nn.ReLU, of(linear, 4, 3)), (4,)),
    Ported("instance_norm_with_running_statistics", fn(lambda s, x: s.f(x).mean((2, 3)), f=of(nn.InstanceNorm2d, 3, affine=True, track_running_stats=True)), (3, 4, 4)),
    Ported("instance_norm_in_training", fn(lambda s, x: s.f(x).square().mean((2, 3)), f=of(Restless, 3, affine=True, track_running_stats=True)), (3, 4, 4)),
    Ported("passes_counted", of(Counting, 0.0), (4,), **ROWS),
    Ported("cifar10_model", cifar10, (3, 16, 16)),
]  # fmt: skip

PYTREES = [
    Ported("two_inputs_one_output", miso, PAIR, pytree=True, **ROWS),
    Ported("two_inputs_two_outputs", mimo, PAIR, pytree=True, **ROWS),
    Ported("tree_of_outputs", sipo, size(4), pytree=True, **ROWS),
    Ported("tree_of_inputs", piso, TREE, pytree=True, **ROWS),
    Ported("trees_of_inputs_and_outputs", pipo, TREE, pytree=True, **ROWS),
    Ported("frozen_output_beside_another", fn(lambda s, x: ((x.square() / 5) @ s.u, x @ s.w), u=frozen(5, 3), w=raw(5, 3)), size(5), pytree=True, **ROWS),
    Ported("rnn_outputs_and_state", fn(lambda s, x: (s.rnn(x)[0], {"state": s.rnn(x)[1].transpose(0, 1)}), rnn=of(nn.RNN, 4, 3, batch_first=True)), size(6, 4), modes=("all", "trace"), strategies=("rows", "fused"), pytree=True),
    Ported("attention_of_three_inputs", fn(lambda s, t: s.mha(*t)[0], mha=of(nn.MultiheadAttention, 4, 2, batch_first=True, kdim=3, vdim=5)), (size(3, 4), size(2, 3), size(2, 5)), pytree=True),
    Ported("transformer", fn(lambda s, t: s.t(*t), t=of(nn.Transformer, 4, 2, 1, 1, 6, 0.0, batch_first=True)), (size(2, 4), size(3, 4)), modes=("all", "trace"), strategies=("rows", "fused"), pytree=True),
    Ported("transformer_large", fn(lambda s, t: s.t(*t), t=of(nn.Transformer, 16, 4, 2, 2, 32, 0.0, batch_first=True)), (size(4, 16), size(2, 16)), modes=("trace",), strategies=("rows", "fused"), n=2, m=1, float32=False, pytree=True),
]  # fmt: skip

REFUSED = [
    Refused("dropout2d_in_training", seq(of(nn.Dropout2d, 0.5), of(nn.Conv2d, 3, 2, 3), nn.Flatten), (3, 4, 4), entk.ModelStateError, r"layer '0' \(Dropout2d\) is in training mode"),
    Refused("batch_norm_without_running_statistics", fn(lambda s, x: s.f(x).mean((2, 3)), f=of(lambda: nn.BatchNorm2d(3, track_running_stats=False).eval())), (3, 4, 4), entk.ModelStateError, "track_running_stats=False"),
    Refused("batch_norm_in_training", fn(lambda s, x: s.f(x).mean((2, 3)), f=of(nn.BatchNorm2d, 3)), (3, 4, 4), entk.ModelStateError, r"'f' \(BatchNorm2d\) is in training mode"),
    Refused("passes_counted_in_the_outputs", of(Counting, 1.0), (4,), entk.UnsupportedModelError, "two forward passes differ"),
    Refused("randomness", fn(lambda s, x: (x * torch.zeros_like(x).normal_()) @ s.w, w=raw(4, 3)), (4,), entk.UnsupportedModelError, "two forward passes differ"),
]  # fmt: skip
