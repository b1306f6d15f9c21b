"""What is timed: a network, how many samples, how many outputs, which output mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import networks
from twophase import config, models


def _twophase(**model) -> Callable[[int], nn.Module]:
    def build(outputs: int) -> nn.Module:
        return models.build(config.build({"model": model}), torch.zeros(3, 32, 32), outputs)

    return build


def _resnet18(outputs: int) -> nn.Module:
    from torchvision.models import resnet18  # takes a second, and only this case needs it

    return resnet18(num_classes=outputs)


IMAGE = (3, 32, 32)
# name -> (network, shape of a sample, number of tokens if it is made of those)
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...], int]] = {
    **{f"MLP 3x{w}": (partial(networks.mlp, width=w), (3072,), 0) for w in (512, 1024, 2048)},
    "LeNet": (networks.lenet, (1, 28, 28), 0),
    "ResNet-20": (_twophase(name="resnet20"), IMAGE, 0),
    "WRN-16-4": (networks.wide_resnet, IMAGE, 0),
    "VGG-16": (_twophase(name="vgg16"), IMAGE, 0),
    "ResNet-18": (_twophase(widths=(64, 128, 256, 512), blocks=2), IMAGE, 0),
    "ResNet-18 224": (_resnet18, (3, 224, 224), 0),
    "ViT": (networks.vit, IMAGE, 0),
    "GPT": (networks.gpt, (128,), 256),
    "LSTM": (networks.LSTM, (28, 28), 0),
}


@dataclass(frozen=True)
class Case:
    network: str
    n: int
    o: int = 10
    outputs: str = "all"
    m: int | None = None  # None: the square kernel of x

    def __str__(self) -> str:
        size = f"N={self.n}" if self.m is None else f"N={self.n} M={self.m}"
        return f"{self.network} {size} O={self.o} {self.outputs}"

    def make(self) -> tuple[nn.Module, Tensor, Tensor | None]:
        """(model in eval mode, x, z), float32 and the same every time."""
        build, shape, tokens = NETWORKS[self.network]
        torch.manual_seed(0)
        model = build(self.o)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):  # as after training, not the identity
                nn.init.normal_(layer.running_mean, 0, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
        counts = (self.n, self.m or 1)
        if tokens:
            x, z = (torch.randint(tokens, (count, *shape)) for count in counts)
        else:
            x, z = (torch.randn(count, *shape) for count in counts)
        return model.eval(), x, None if self.m is None else z


SHORT = [
    Case("MLP 3x2048", 64),
    Case("LeNet", 128),
    Case("ResNet-20", 64),
    Case("VGG-16", 16),
    Case("ViT", 16),
]
FULL = [
    *(Case("MLP 3x2048", n) for n in (16, 64, 128, 512)),
    *(Case("MLP 3x2048", 64, o) for o in (1, 100)),
    *(Case(f"MLP 3x{width}", 64) for width in (512, 1024)),
    *(Case("LeNet", n) for n in (128, 512)),
    *(Case("ResNet-20", n) for n in (16, 64, 256)),
    *(Case("ResNet-20", 64, o) for o in (1, 100)),
    *(Case("ResNet-20", 64, outputs=mode) for mode in ("diagonal", "trace", "sum")),
    Case("ResNet-20", 64, m=32),
    Case("WRN-16-4", 32),
    *(Case("VGG-16", n) for n in (16, 32, 64)),
    *(Case("VGG-16", 16, outputs=mode) for mode in ("diagonal", "trace", "sum")),
    Case("ResNet-18", 16),
    *(Case("ViT", 16, outputs=mode) for mode in ("all", "trace")),
    *(Case("GPT", 16, o) for o in (10, 100)),
    Case("LSTM", 32),
]
# the last is a slice of 60,000 x 50,000, the single-logit kernel of an ImageNet-sized data set
GPU = [*SHORT, Case("VGG-16", 512), Case("ResNet-20", 512), Case("ResNet-18 224", 1000, 1, m=1000)]
BY_NAME = {str(case): case for case in (*SHORT, *FULL, *GPU)}
