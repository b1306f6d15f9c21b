"""Forty layers drawn from the grids of Opacus' per-sample gradient tests, with a fixed seed.

After opacus/tests/grad_samples/*_test.py of Opacus (github.com/pytorch/opacus, Apache-2.0), which
draws from these grids with hypothesis. Channels are 1, 3 or 6 instead of 1, 3 or 32, images are
smaller, and a head brings all positions to two outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import torch
from torch import nn

from tests.cases import fn, of, raw, seq, settled
from tests.ported.case import Ported

SOME = ("all", "trace")


def name_of(kind: str, options: dict) -> str:
    values = [f"{key}{value}" for key, value in options.items()]
    text = "_".join(["opacus", kind, *values])
    return "".join(c if c.isalnum() or c == "_" else "x" if c == "," else "" for c in text)


def layer(kind: Callable, sample: tuple[int, ...], *args, **kwargs) -> Callable:
    parts = (of(kind, *args, **kwargs), nn.Tanh, nn.Flatten, of(nn.LazyLinear, 2))
    return settled(seq(*parts), sample)


def channels(draw: Random, most: int) -> tuple[int, int, int]:
    """Inputs, outputs (more or fewer), and groups that divide both."""
    inputs = draw.choice([1, 3, 6])
    outputs = draw.choice([2 * inputs, max(1, inputs // 3)])
    fitting = [g for g in range(1, most + 1) if inputs % g == 0 and outputs % g == 0]
    return inputs, outputs, draw.choice(fitting)


# by the number of spatial axes: the bounds of each, kernel, stride, padding, dilation
GRIDS: dict[int, tuple] = {
    1: (((6, 10),), (2, 3), (1, 2), (0, 1, 2), (1,)),
    2: (((10, 11),) * 2, (2, 3, 4), (1, 2), (0, 2, "same", "valid"), (1, 2, 3)),
    3: (
        ((3, 4), (5, 6), (5, 6)),
        *((2, 3, (1, 2, 3)), (1, 2, (1, 2, 3)), (0, 2, (1, 2, 3), "same", "valid")),
        (1, (1, 2, 2)),
    ),
}


def convolution(draw: Random, dims: int) -> Ported:
    inputs, outputs, groups = channels(draw, 12 if dims == 1 else 16)
    bounds, *choices = GRIDS[dims]
    sample = (inputs, *(draw.randint(*b) for b in bounds))
    kernel, stride, padding, dilation = map(draw.choice, choices)
    stride = 1 if padding == "same" else stride
    options = {"k": kernel, "s": stride, "p": padding, "d": dilation, "g": groups}
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    build = layer(kind, sample, inputs, outputs, kernel, stride, padding, dilation, groups)
    return Ported(name_of(f"conv{dims}d_{inputs}to{outputs}", options), build, sample, modes=SOME)


def norms(draw: Random) -> Iterator[Ported]:
    for groups in (1, 4, 8):
        build = layer(nn.GroupNorm, (8, 3, 4), groups, 8)
        yield Ported(f"opacus_group_norm_{groups}", build, (8, 3, 4), modes=SOME)
    for axes, sample in ((1, (5,)), (1, (3, 5)), (2, (3, 5)), (2, (2, 3, 5)), (3, (2, 3, 4))):
        build = layer(nn.LayerNorm, sample, sample[-axes:])
        yield Ported(f"opacus_layer_norm_{axes}_of_{len(sample)}", build, sample, modes=SOME)
    for dims, kind in enumerate((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), 1):
        sample = (draw.randint(1, 3), *(draw.randint(2, 4) for _ in range(dims)))
        build = layer(kind, sample, sample[0], affine=True)
        yield Ported(f"opacus_instance_norm_{dims}d", build, sample, modes=SOME)
    yield Ported("opacus_rms_norm", layer(nn.RMSNorm, (3, 5), 5), (3, 5), modes=SOME)


def of_three(self, x: torch.Tensor) -> torch.Tensor:
    """Query, key and value stand on the last axis; time first, as Opacus' attention has it."""
    q, k, v = x.transpose(0, 1).unbind(-1)
    return self.attention(q, k, v)[0].mean(0)


def attention(draw: Random) -> Ported:
    keys = ("bias", "add_bias_kv", "add_zero_attn")
    options = {key: draw.random() < 0.5 for key in keys}
    heads, own = draw.choice([1, 2]), draw.random() < 0.5
    sizes = {"kdim": 4, "vdim": 4} if own else {}
    part = of(nn.MultiheadAttention, 4, heads, **options, **sizes)
    name = name_of(f"attention_{heads}", {k: int(v) for k, v in (options | {"own": own}).items()})
    return Ported(name, fn(of_three, attention=part), (4, 4, 3), modes=("all",))


def recurrent(draw: Random) -> Ported:
    kind = draw.choice([nn.RNN, nn.GRU, nn.LSTM])
    options = {"num_layers": draw.choice([1, 2]), "bias": draw.random() < 0.5}
    options |= {"batch_first": draw.random() < 0.5, "bidirectional": draw.random() < 0.5}
    first = options["batch_first"]

    def forward(self, x):
        y = self.rnn(x if first else x.transpose(0, 1))[0]
        return y.mean(1 if first else 0)

    build = fn(forward, rnn=of(kind, 4, 3, **options))
    name = name_of(kind.__name__, {k: int(v) for k, v in options.items()})
    return Ported(name, build, (draw.randint(1, 3), 4), modes=("all",))


def others(draw: Random) -> Iterator[Ported]:
    for dims in (2, 3):
        bias, sample = draw.random() < 0.5, (3, 2, 6)[3 - dims :]
        build = layer(nn.Linear, sample, 6, 8, bias=bias)
        yield Ported(f"opacus_linear_{dims}_bias{bias}", build, sample, modes=SOME)
    for sample in ((5,), (4, 2), (3, 2, 2)):
        build = seq(of(nn.Embedding, draw.randint(2, 8), 3), nn.Tanh, nn.Flatten)
        build = seq(build, of(nn.Linear, 3 * torch.Size(sample).numel(), 2))
        yield Ported(f"opacus_embedding_{len(sample)}", build, sample, tokens=2, modes=SOME)
    for mode in ("sum", "mean"):
        build = of(nn.EmbeddingBag, 6, 3, mode=mode)
        yield Ported(f"opacus_embedding_bag_{mode}", build, (4,), tokens=6, modes=SOME)
    append = fn(
        lambda s, x: s.f(torch.cat([x, s.b.expand(len(x), 1, 3)], 1)).tanh().mean(1),
        f=of(nn.Linear, 3, 2),
        b=raw(3),
    )
    yield Ported("opacus_sequence_bias", append, (4, 3), modes=SOME)


def sample(seed: int, wanted: int) -> list[Ported]:
    """All norms and the small kinds, then draws of convolutions, attention and recurrences."""
    draw = Random(seed)
    found = {case.name: case for case in (*norms(draw), *others(draw))}
    kinds = [lambda: attention(draw), lambda: recurrent(draw)]
    kinds += [lambda d=d: convolution(draw, d) for d in (1, 2, 2, 3)]
    while len(found) < wanted:
        case = kinds[len(found) % len(kinds)]()
        found.setdefault(case.name, case)
    return list(found.values())


CASES = sample(seed=0, wanted=40)
