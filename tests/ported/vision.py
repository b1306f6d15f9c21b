"""Reduced networks of torchvision: narrow, few classes, two small images, few modes.

As AlexNet, SqueezeNet, ResNet-18, MobileNetV2 and MobileNetV3 stand in
tests/utils/architectures.py of TorchJD (github.com/TorchJD/torchjd, MIT), batch normalisation
replaced by instance or group normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from tests.ported.case import Ported
from twophase.sources import import_torchvision


def vision(name: str, **options) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision()  # also where its operators do not match this torch
        from torchvision import models

        return getattr(models, name)(**options)

    return build


def resnet18(**options) -> Callable[[], nn.Module]:
    """Convolutions from 256 or 512 channels to as many are frozen: 9 of its 11 million weights."""

    def build() -> nn.Module:
        model = vision("resnet18", **options)()
        for block in (*model.layer3, *model.layer4):
            for conv in (block.conv1, block.conv2):
                conv.requires_grad_(conv.in_channels != conv.out_channels)
        return model

    return build


def alexnet() -> nn.Module:
    """57 million of its 61 million weights are in the classifier, which is made narrow."""
    model = vision("alexnet", num_classes=2)()
    first, second = nn.Linear(256, 8), nn.Linear(8, 6)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        *(nn.Dropout(0.5), first, nn.ReLU(inplace=True)),
        *(nn.Dropout(0.5), second, nn.ReLU(inplace=True), nn.Linear(6, 2)),
    )
    return model


def mobilenet_v3() -> nn.Module:
    import_torchvision()
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    block = partial(InvertedResidualConfig, width_mult=0.25, dilation=1)
    settings = [
        block(16, 3, 16, 16, True, "RE", 2),
        block(16, 3, 72, 24, False, "RE", 2),
        block(24, 5, 96, 40, True, "HS", 2),
        block(40, 5, 120, 40, True, "HS", 1),
    ]
    norm = partial(nn.GroupNorm, 2, affine=True)
    return MobileNetV3(settings, 16, num_classes=2, norm_layer=norm)


instance = partial(nn.InstanceNorm2d, track_running_stats=False, affine=True)
two = {"n": 2, "m": 1, "float32": False}
mobilenet_v2 = vision("mobilenet_v2", width_mult=0.1, num_classes=2, norm_layer=instance)

CASES = [
    Ported("alexnet_reduced", alexnet, (3, 63, 63), modes=("trace",), **two),
    Ported("squeezenet", vision("squeezenet1_0", num_classes=2), (3, 32, 32), modes=("all",), **two),
    Ported("instance_norm_resnet18", resnet18(num_classes=2, norm_layer=instance), (3, 33, 33), modes=("trace",), strategies=("fused",), **two),
    Ported("group_norm_mobilenet_v3", mobilenet_v3, (3, 32, 32), modes=("all", "trace"), **two),
    Ported("instance_norm_mobilenet_v2", mobilenet_v2, (3, 33, 33), modes=("all",), strategies=("rows", "fused"), **two),
]  # fmt: skip
