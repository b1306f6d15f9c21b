"""Small pre-norm transformers: GPT on tokens, ViT on patches of images.

Attention is written as products and a softmax: they have the second derivatives that growth and
linearised models need, which fused kernels lack. Weights start normal with variance 1 / fan-in,
embeddings and positions with deviation 0.02 (Radford et al. 2019), and what a block adds is smaller
by sqrt(2 blocks).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twophase.errors import UserError
from twophase.sections import Model

EMBEDDING = 0.02


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / q.shape[-1] ** 0.5  # [N, heads, T, T]
        if self.causal:
            later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Logits [N, T, V] of the next token at each position of tokens [N, T]."""

    def __init__(self, vocabulary: int, length: int, width: int, blocks: int, heads: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        return self.head(self.norm(self.blocks(x)))


class ViT(nn.Module):
    """Logits [N, classes] of the mean over patches, which see one another."""

    def __init__(
        self, image: tuple[int, ...], classes: int, patch: int, width: int, blocks: int, heads: int
    ):
        super().__init__()
        channels, height, across = image
        self.patch = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.empty((height // patch) * (across // patch), width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT + self.position  # [N, T, width]
        return self.head(self.norm(self.blocks(x)).mean(1))


def build(model: Model, sample: Tensor, classes: int) -> GPT | ViT:
    """The transformer for samples like `sample`: tokens [T] or an image [C, H, W]."""
    if len(model.widths) != 1 or model.widths[0] % model.heads:
        raise UserError(
            f"model.widths={list(model.widths)}: {model.name} has one, a multiple of "
            f"model.heads={model.heads}; for example model.widths=[{16 * model.heads}]"
        )
    sizes = (model.widths[0], model.blocks, model.heads)
    if model.name == "gpt":
        return GPT(classes, len(sample), *sizes)
    if any(side % model.patch for side in sample.shape[1:]):
        sides = " x ".join(map(str, sample.shape[1:]))
        raise UserError(f"model.patch={model.patch} does not divide the sides of {sides} images")
    return ViT(tuple(sample.shape), classes, model.patch, *sizes)


def initialise(model: GPT | ViT, generator: torch.Generator) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            scale = module.weight[0].numel() ** -0.5
            if name.endswith(("attention.out", "down")):
                scale /= (2 * len(model.blocks)) ** 0.5
            nn.init.normal_(module.weight, 0, scale, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0, EMBEDDING, generator=generator)
    nn.init.normal_(model.position, 0, EMBEDDING, generator=generator)
