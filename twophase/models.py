"""The networks of the paper and small ones of their kind; plain modules, initialised from the seed.

ResNet-20 and VGG-16 follow open_lth (Frankle et al. 2020, arXiv 1912.05671): Kaiming-normal
(fan-in) weights, biases uniform within 1/sqrt(fan-in), batch-norm scales uniform in [0, 1].
vgg16-dropout follows torchvision's VGG-16 on a 1 x 1 average pool, whose head starts near zero.
Small networks start their scales at 1 and their biases at 0; for gpt and vit see transformers.py.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twophase import seeds, transformers
from twophase.config import Config
from twophase.errors import UserError

OPEN_LTH = ("resnet20", "vgg16")
VGG16 = (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3)


class Padded(nn.Module):
    """Shortcut without parameters: every other pixel, missing channels are zero."""

    def __init__(self, more: int, stride: int):
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class Subsampled(nn.Conv2d):
    """A 1x1 convolution with a stride, on the pixels that it reads.

    For numbers of channels that are no multiple of 8, the backward pass of the strided one writes
    beyond its buffers on processors without AVX-512 (oneDNN's jit_1x1:avx2 in torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs == outputs:
            return
        if shortcut == "projection":
            kind = nn.Conv2d if inputs % 8 == outputs % 8 == 0 else Subsampled
            self.shortcut = nn.Sequential(
                kind(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        elif outputs < inputs:
            raise UserError("model.shortcut='pad' needs widths that do not shrink")
        else:
            self.shortcut = Padded(outputs - inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR stem, stages of basic blocks, the first block of later stages at stride 2."""

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: tuple[int, ...],
        blocks: int,
        shortcut: str,
        stride: int = 1,
    ):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for i, width in enumerate(widths):
            for j in range(blocks):
                stages.append(BasicBlock(inputs, width, 2 if i > 0 and j == 0 else 1, shortcut))
                inputs = width
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, channels: int, classes: int, dropout: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for width in VGG16:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers.append(nn.ReLU())
                channels = width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(512, classes)
        if dropout:
            hidden = [
                *(nn.Linear(512, 4096), nn.ReLU(), nn.Dropout()),
                *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
            ]
            self.head = nn.Sequential(*hidden, nn.Linear(4096, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class MLP(nn.Module):
    def __init__(self, inputs: int, widths: tuple[int, ...], classes: int):
        super().__init__()
        sizes = (inputs, *widths)
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def build(config: Config, sample: Tensor, classes: int) -> nn.Module:
    """The config's network for samples like `sample` [C, H, W] or [D], initialised by the seed."""
    name, options = config.model.name, config.model
    _check(name, sample)
    generator = seeds.generator(config.seed, "init")
    if name in ("gpt", "vit"):
        model = transformers.build(options, sample, classes)
    elif name == "mlp":
        model = MLP(sample.numel(), options.widths, classes)
    elif name == "thin-resnet":
        shape = (options.widths, options.blocks, options.shortcut, options.stride)
        model = ResNet(sample.shape[0], classes, *shape)
    elif name == "resnet20":
        model = ResNet(sample.shape[0], classes, (16, 32, 64), 3, options.shortcut)
    else:
        model = VGG(sample.shape[0], classes, dropout=name == "vgg16-dropout")
    if name in ("gpt", "vit"):
        transformers.initialise(model, generator)
    else:
        _initialise(model, name, generator)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() > 1):  # no biases, no norm scales
            weight *= options.init_scale
    return model


def _check(name: str, sample: Tensor) -> None:
    """Raises UserError: the network does not take such samples."""
    tokens = not sample.is_floating_point()
    if tokens != (name == "gpt"):
        found = "tokens" if tokens else "numbers"
        raise UserError(
            f"model.name={name!r} does not take {found}, which the samples are; model.name=gpt and "
            "data.source=text belong together"
        )
    if name not in ("mlp", "gpt") and sample.dim() != 3:
        raise UserError(
            f"model.name={name!r} needs images [C, H, W], the samples have shape "
            f"{tuple(sample.shape)}; use model.name=mlp"
        )
    if name.startswith("vgg16") and min(sample.shape[1:]) < 16:
        raise UserError(f"model.name={name!r} needs images of at least 16 x 16 pixels")


def _initialise(model: nn.Module, name: str, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _initialise_weights(module, name, generator)
        elif isinstance(module, nn.BatchNorm2d) and name in OPEN_LTH:
            nn.init.uniform_(module.weight, generator=generator)


def _initialise_weights(
    module: nn.Conv2d | nn.Linear, name: str, generator: torch.Generator
) -> None:
    if name == "vgg16-dropout" and isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01, generator=generator)
    else:
        mode = "fan_out" if name == "vgg16-dropout" else "fan_in"
        nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu", generator=generator)
    if module.bias is None:
        return
    bound = module.weight[0].numel() ** -0.5 if name in OPEN_LTH else 0.0
    nn.init.uniform_(module.bias, -bound, bound, generator=generator)
