"""Activations with parameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from entk.rules.base import Arguments, Rows, Rule, over_positions, register


def slope(arguments: Arguments, x: Tensor) -> Rows:
    """y = x where x > 0, else w x; w is one number or one for each channel (axis 1)."""
    below = x.clamp(max=0)[:, None]
    if arguments["weight"].numel() == 1:
        return lambda g: (g * below).flatten(2).sum(2, keepdim=True)
    return lambda g: over_positions(g * below)


register(Rule("prelu", ("input", "weight"), rows={"weight": slope}, batch_first=True), F.prelu)
