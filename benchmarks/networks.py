"""Networks of the benchmark cases beyond those of twophase, initialised as PyTorch does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(outputs: int, width: int) -> nn.Module:
    """Three hidden layers on CIFAR-sized vectors; of 2048, the case of Novak et al. 2022."""
    layers: list[nn.Module] = []
    for inputs in (3072, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def lenet(outputs: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, outputs)),
    )


class PreActivation(nn.Module):
    """Block of a wide residual network (Zagoruyko and Komodakis 2016)."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != width
        self.down = nn.Conv2d(inputs, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        short = x if self.down is None else self.down(h)
        return short + self.conv2(F.relu(self.bn2(self.conv1(h))))


def wide_resnet(outputs: int) -> nn.Module:
    """WRN-16-4: 2.7 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    inputs = 16
    for width, stride in ((64, 1), (128, 2), (256, 2)):
        layers += [PreActivation(inputs, width, stride), PreActivation(width, width, 1)]
        inputs = width
    tail = (nn.BatchNorm2d(256), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *tail, nn.Linear(256, outputs))


class Transformer(nn.Module):
    """Pre-norm blocks with fused attention; `causal` reads the last token, else their mean."""

    def __init__(self, embed: nn.Module, tokens: int, width: int, depth: int, outputs: int, causal):
        super().__init__()
        self.embed, self.causal, self.heads = embed, causal, width // 32
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = (x.flatten(2).mT if x.dim() == 4 else x) + self.position
        for i, qkv in enumerate(self.qkv):
            parts = qkv(self.norms[2 * i](x)).unflatten(-1, (3, self.heads, -1))
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            x = x + self.out[i](h.transpose(1, 2).flatten(2))
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x))))
        x = self.norms[-1](x)
        return self.head(x[:, -1] if self.causal else x.mean(1))


def vit(outputs: int) -> nn.Module:
    """Patches of 4, T = 64, width 192, 6 blocks: 2.7 million parameters."""
    return Transformer(nn.Conv2d(3, 192, 4, 4), 64, 192, 6, outputs, causal=False)


def gpt(outputs: int) -> nn.Module:
    """T = 128, 256 tokens, width 192, 4 blocks; the logits of the next token, `outputs` of them."""
    return Transformer(nn.Embedding(256, 192), 128, 192, 4, outputs, causal=True)


class LSTM(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(28, 128, batch_first=True), nn.Linear(128, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])
