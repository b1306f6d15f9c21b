"""How far apart two networks are in what they say: their logits [N, O], and their features.

A sequence model has a row of logits for each position; it counts as a sample here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor, nn

import entk


def disagreement(a: Tensor, b: Tensor) -> float:
    """Share of samples on which two networks' logits [N, O] predict different classes.

    Source: eq. 6 of arXiv 2505.13900.
    """
    return (a.argmax(1) != b.argmax(1)).double().mean().item()


def independent_disagreement(a: Tensor, b: Tensor, y: Tensor) -> float:
    """What the disagreement would be if the two erred independently, each as often as it does.

    With error rates p and q, and wrong classes equally likely: 1 - (1 - p)(1 - q) - p q / (O - 1).
    Source: Fort et al. 2019 (arXiv 1912.02757), who divide the disagreement by it.
    """
    p, q = ((out.argmax(1) != y.flatten()).double().mean().item() for out in (a, b))
    return 1 - (1 - p) * (1 - q) - p * q / max(a.shape[1] - 1, 1)


def divergence(a: Tensor, b: Tensor) -> float:
    """Mean over samples of (KL(p|q) + KL(q|p)) / 2 in nats, p and q the softmax of each."""
    p, q = (out.double().log_softmax(1) for out in (a, b))
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(1).mean().item()


def softmax_distance(a: Tensor, b: Tensor) -> float:
    """Mean over samples of |softmax(a) - softmax(b)|_2, between 0 and sqrt(2)."""
    return (a.double().softmax(1) - b.double().softmax(1)).norm(dim=1).mean().item()


def prediction_distance(a: Tensor, b: Tensor) -> float:
    """Mean over samples of 1 - cosine of the logits, as |a/|a| - b/|b||^2 / 2."""
    u, v = (nn.functional.normalize(out.double(), dim=1) for out in (a, b))
    return 0.5 * (u - v).square().sum(1).mean().item()


def feature_distances(one: nn.Module, two: nn.Module, x: Tensor) -> dict[str, float]:
    """{layer: 1 - CKA of its outputs on x}, for each layer with a weight, in order of the model.

    Linear CKA of the features [N, everything else], centred over samples, in eval mode: the cosine
    of F F' and G G', so it is the kernel distance of these. Source: Kornblith et al. 2019 (arXiv
    1905.00414). A layer that says the same of all samples has no CKA and is left out.
    """
    first, second = (_features(model, x) for model in (one, two))
    found = {}
    for name, f in first.items():
        grams = [(c := part - part.mean(0)) @ c.mT for part in (f, second[name])]
        with suppress(entk.UndefinedDistanceError):
            found[name] = entk.kernel_distance(*grams)
    return found


def _features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """{layer: outputs [N, everything else], float64}, of the layers with a matrix or more."""
    layers = [
        name
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() > 1
    ]
    return {name: out.flatten(1).double() for name, out in outputs(model, x, layers).items()}


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """{name: what that module puts out for x}, in eval mode; later changes in place not in it."""
    found: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, out, name=name: found.update({name: out.clone()})
        )
        for name in names
    ]
    try:
        model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
