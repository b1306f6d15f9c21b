"""Attention and bags of embeddings, from functions that have rules.

nn.MultiheadAttention, and with it the transformer layers, is one call of a Python function that
torch hands over whole. Here it is its projections by F.linear, and attention between them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _mask(given: Tensor | None, like: Tensor) -> Tensor | None:
    """As what is added to the scores: minus infinity where a boolean one is true."""
    if given is None or given.dtype != torch.bool:
        return given
    return torch.zeros_like(given, dtype=like.dtype).masked_fill_(given, -torch.inf)


def multi_head_attention(
    query: Tensor,  # [L, N, E]
    key: Tensor,  # [S, N, E]
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: None,
    bias_v: None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: None = None,
    static_v: None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """F.multi_head_attention_forward, for what `plain_attention` lets through."""
    if query is key is value and not use_separate_proj_weight:
        projected = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        separate = (q_proj_weight, k_proj_weight, v_proj_weight)
        weights = separate if use_separate_proj_weight else in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        inputs = (query, key, value)
        projected = [F.linear(*each) for each in zip(inputs, weights, biases, strict=True)]
    q, k, v = (t.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for t in projected)
    scores = q @ k.mT * q.shape[-1] ** -0.5  # [N, H, L, S]
    mask = _mask(attn_mask, scores)
    if mask is not None:
        scores = scores + (mask.unflatten(0, (query.shape[1], -1)) if mask.dim() == 3 else mask)
    padding = _mask(key_padding_mask, scores)
    if padding is not None:
        scores = scores + padding[:, None, None]
    attended = torch.softmax(scores, -1)
    if training and dropout_p:
        attended = F.dropout(attended, dropout_p, training=True)
    y = (attended @ v).permute(2, 0, 1, 3).flatten(2)
    y = F.linear(y, out_proj_weight, out_proj_bias)
    if not need_weights:
        return y, None
    return y, attended.mean(1) if average_attn_weights else attended


def plain_attention(
    query, key, value, dim, heads, weight, bias, bias_k, bias_v, zero, *args, **kwargs
) -> bool:
    """A batch, and neither learned nor given keys beside those of the input."""
    statics = [*args[11:13], kwargs.get("static_k"), kwargs.get("static_v")]
    given = any(s is not None for s in (bias_k, bias_v, *statics))
    return query.dim() == 3 and not zero and not given


def embedding_bag(
    input: Tensor,  # [N, T]
    weight: Tensor,
    offsets: None = None,
    max_norm: None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """F.embedding_bag, for what `plain_bag` lets through."""
    each = F.embedding(input, weight, padding_idx)
    if mode == "max":
        return each.max(1).values
    if per_sample_weights is not None:
        each = each * per_sample_weights[..., None]
    if padding_idx is None:
        return each.sum(1) if mode == "sum" else each.mean(1)
    inside = input != padding_idx % len(weight)
    total = (each * inside[..., None]).sum(1)
    return total if mode == "sum" else total / inside.sum(1).clamp(min=1)[:, None]


def plain_bag(
    input, weight, offsets=None, max_norm=None, norm_type=2, scale_grad_by_freq=False, mode="mean",
    sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=None,
) -> bool:  # fmt: skip
    """Bags as rows of a matrix; the weight is not renormalised, the derivative not rescaled."""
    supported = mode in ("sum", "mean") or (mode == "max" and padding_idx is None)
    return input.dim() == 2 and max_norm is None and not scale_grad_by_freq and supported


UNROLLED: dict[Callable, Callable] = {
    F.multi_head_attention_forward: multi_head_attention,
    F.embedding_bag: embedding_bag,
}
CONDITIONS: dict[Callable, Callable] = {
    F.multi_head_attention_forward: plain_attention,
    F.embedding_bag: plain_bag,
}
