"""Random small models and requests for hypothesis: stacks of the layers that have rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from entk.factors import OUTPUTS

Maker = Callable[[], nn.Module]
VOCABULARY = 5
LEADING = ("linear", "norm", "residual", "tied", "raw", "weight_norm", "prelu")
POSITIONS = ("attention", "recurrent")
GRID = ("conv", "transposed", "batch", "group", "instance", "prelu", "raw", "residual")
STARTS = {
    "tokens": (1, 1),
    "bag": (1, 1),
    "leading": (1, 1, 1),
    "sequence": (1, 1),
    "signal": (1, 3),
    "image": (1, 3, 3),
}
# hypothesis repeats itself rather than being fair: what has to be met is named
FIRST = (
    *((start, None) for start in STARTS),
    *(("leading", kind) for kind in LEADING),
    *(("sequence", kind) for kind in POSITIONS),
    *((start, kind) for start in ("signal", "image") for kind in GRID),
)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *args, **kwargs):
        super().__init__()
        self.rnn = kind(*args, batch_first=True, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.mha = nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class Residual(nn.Module):
    """x + f(x); `twice` calls f again on what comes out: a weight that is used two times."""

    def __init__(self, make: Maker, twice: bool):
        super().__init__()
        self.f, self.twice = make(), twice

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.f(x)
        return y + self.f(torch.tanh(y)) if self.twice else y


class Tied(nn.Module):
    """Two layers, one weight."""

    def __init__(self, width: int):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


class Raw(nn.Module):
    """x combined with a parameter by hand: a scale, an offset or a matrix on the right."""

    def __init__(self, operation: str, *shape: int):
        super().__init__()
        self.operation, self.p = operation, nn.Parameter(torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(x, self.operation)(self.p)


def weight_normed(kind: type[nn.Module], *args) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(kind(*args))


def size(most: int, least: int = 1) -> st.SearchStrategy[int]:
    return st.integers(least, most)


def _sequence(draw, shape: tuple[int, ...], kind: str | None) -> Maker:
    """A layer for [..., D]; attention and recurrence where there is one axis of positions."""
    width = shape[-1]
    kind = kind or draw(st.sampled_from(LEADING if len(shape) != 2 else LEADING + POSITIONS))
    if kind == "linear":
        return partial(nn.Linear, width, draw(size(5)), bias=draw(st.booleans()))
    if kind == "weight_norm":
        return partial(weight_normed, nn.Linear, width, draw(size(5)))
    if kind == "norm" and width >= 3:  # of fewer numbers little is left but rounding
        return partial(draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm])), width)
    if kind == "residual":
        return partial(Residual, partial(nn.Linear, width, width), draw(st.booleans()))
    if kind == "raw":
        choices = [("mul", width), ("mul", 1), ("add", *shape), ("matmul", width, draw(size(4)))]
        return partial(Raw, *draw(st.sampled_from(choices)))
    if kind == "attention":
        heads = 2 if width % 2 == 0 and draw(st.booleans()) else 1
        return partial(Attention, width, heads, draw(st.booleans()))
    if kind == "recurrent":
        options = {"bias": draw(st.booleans()), "bidirectional": draw(st.booleans())}
        return partial(Recurrent, draw(st.sampled_from([nn.LSTM, nn.GRU])), width, 2, **options)
    return nn.PReLU if kind == "prelu" else partial(Tied, width)


def _grid(draw, shape: tuple[int, ...], kind: str | None) -> Maker:
    """A layer for [C, L] or [C, H, W]."""
    channels, axes = shape[0], len(shape) - 1
    kind = kind or draw(st.sampled_from(GRID))
    groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    convolution = getattr(nn, f"Conv{axes}d")
    if kind == "conv":
        padding, stride, dilation = draw(size(1, 0)), draw(size(2)), draw(size(2))
        most = [(length + 2 * padding - 1) // dilation + 1 for length in shape[1:]]
        options = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": draw(st.booleans()),
            "padding_mode": draw(st.sampled_from(["zeros", "circular", "replicate"])),
        }
        window = tuple(draw(size(min(3, m))) for m in most)
        return partial(convolution, channels, groups * draw(size(2)), window, **options)
    if kind == "transposed":
        window, stride, padding = draw(size(3, 2)), draw(size(2)), draw(size(1, 0))
        padding = 0 if min(shape[1:]) == 1 else padding
        options = {"groups": groups, "dilation": draw(size(2)), "output_padding": stride - 1}
        outputs = groups * draw(size(2))
        layer = getattr(nn, f"ConvTranspose{axes}d")
        return partial(layer, channels, outputs, window, stride, padding, **options)
    if kind == "batch":
        return partial(getattr(nn, f"BatchNorm{axes}d"), channels)
    positions = torch.Size(shape[1:]).numel()
    if kind == "group" and channels // groups * positions >= 3:
        return partial(nn.GroupNorm, groups, channels)
    if kind == "instance" and positions >= 3:
        return partial(getattr(nn, f"InstanceNorm{axes}d"), channels, affine=True)
    if kind == "raw":
        operation = draw(st.sampled_from(["mul", "add"]))
        return partial(Raw, operation, channels, *(1,) * axes)
    if kind == "residual":
        same = partial(convolution, channels, channels, 3, padding="same")
        return partial(Residual, same, draw(st.booleans()))
    return partial(nn.PReLU, channels)


@dataclass(frozen=True)
class Drawn:
    """A model that can be made again, and how many samples it gets."""

    layers: tuple[Maker, ...]
    sample: tuple[int, ...]
    tokens: bool
    n: int
    m: int
    seed: int

    def make(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
        """(model in eval mode, x, z), the same every time; norms are no identities."""
        torch.manual_seed(self.seed)
        model = nn.Sequential(*(make() for make in self.layers))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias)
            if getattr(module, "running_mean", None) is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        shapes = ((k, *self.sample) for k in (self.n, self.m))
        if self.tokens:
            x, z = (torch.randint(VOCABULARY, shape) for shape in shapes)
        else:
            x, z = (torch.randn(shape).to(dtype) for shape in shapes)
        return model.to(dtype).eval(), x, z


@st.composite
def models(draw, first: tuple[str, str | None] | None = None) -> Drawn:
    """One to three layers with rules and tanh between them, then a head.

    `first`: what goes in, and the kind of layer that gets it.
    """
    start, kind = first or (draw(st.sampled_from(tuple(STARTS))), None)
    layers: list[Maker] = []
    if start in ("tokens", "bag"):
        sample, shape = (draw(size(4, 2)),), (draw(size(4)),)
        options = {"padding_idx": draw(st.sampled_from([None, 0, -1]))}
        if start == "bag":
            layers.append(
                partial(
                    nn.EmbeddingBag,
                    *(VOCABULARY, *shape),
                    mode=draw(st.sampled_from(["sum", "mean"])),
                    **options,
                )
            )
        else:
            layers.append(partial(nn.Embedding, VOCABULARY, *shape, **options))
            shape = sample + shape
    else:
        least = STARTS[start] if kind is None else (3,) * len(STARTS[start])
        sample = shape = tuple(draw(size(low + 2, low)) for low in least)
    grid = start in ("signal", "image")
    for _ in range(draw(size(3))):
        make = (_grid if grid else _sequence)(draw, shape, kind)
        kind = None
        layers += [make, nn.Tanh]
        shape = tuple(make().eval()(torch.zeros(1, *shape)).shape[1:])
    layers += [nn.Flatten, partial(nn.Linear, torch.Size(shape).numel(), draw(size(4)))]
    seed = draw(size(1 << 16, 0))
    return Drawn(
        tuple(layers), sample, start in ("tokens", "bag"), draw(size(4)), draw(size(3)), seed
    )


@st.composite
def options(draw) -> dict:
    """What `plan_ntk` is asked for, with nothing that depends on the machine."""
    return {
        "outputs": draw(st.sampled_from(OUTPUTS)),
        "strategy": draw(st.sampled_from(["rows", "pairs", "fused"])),
        "block": draw(size(4)),
        "backend": draw(st.sampled_from(["torch", "auto"])),  # auto: native where it is built
        "rates": "nominal",
        "memory": "1GB",
    }
