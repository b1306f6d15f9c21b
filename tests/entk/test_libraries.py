"""Models of transformers and timm, built small from their configurations; nothing is downloaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk
from entk.factors import OUTPUTS
from tests import oracle, tolerance
from twophase.sources import import_torchvision

import_torchvision()  # with the schemas that a CPU build of torch lacks; both libraries import it
tf = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

TOKENS = torch.randint(50, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(TOKENS)
MASK[1, 4:] = MASK[3, 2:] = 0
SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}


def last(out):
    return out.logits[:, -1, :4]


class Plain(nn.Module):
    """One tensor in and one out, for the oracle."""

    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x):
        return self.call(self.model, x)


def gpt2():
    return tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    )


def bert():
    options = {"vocab_size": 50, "max_position_embeddings": 8, "num_labels": 3}
    return tf.BertForSequenceClassification(tf.BertConfig(**SMALL, **options))


def llama():
    options = {"vocab_size": 50, "max_position_embeddings": 8, "num_key_value_heads": 1}
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, **options))


def t5():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
    return tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=50, decoder_start_token_id=0, **sizes)
    )


def hf_vit():
    return tf.ViTForImageClassification(
        tf.ViTConfig(**SMALL, image_size=8, patch_size=4, num_labels=3)
    )


def images(side):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0)).double()


# name: model, what it is called with, which outputs, the same from one tensor, how many fall back
CASES = {
    "gpt2": (gpt2, {"input_ids": TOKENS}, last, TOKENS, lambda m, x: last(m(input_ids=x)), 0),
    "bert": (
        *(bert, {"input_ids": TOKENS, "attention_mask": MASK}, None, torch.cat([TOKENS, MASK], 1)),
        *(lambda m, x: m(input_ids=x[:, :6], attention_mask=x[:, 6:]).logits, 0),
    ),
    "llama": (llama, {"input_ids": TOKENS}, last, TOKENS, lambda m, x: last(m(input_ids=x)), 0),
    "t5": (
        *(t5, {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :3]}, last, TOKENS),
        *(lambda m, x: last(m(input_ids=x, decoder_input_ids=x[:, :3])), 1),
    ),
    "hf_vit": (
        *(hf_vit, {"pixel_values": images(8)}, "logits", images(8)),
        *(lambda m, x: m(pixel_values=x).logits, 0),
    ),
    "vit": (
        *(lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT), images(8), None),
        *(images(8), lambda m, x: m(x), 0),
    ),
    "convnext": (
        lambda: timm.create_model(
            "convnext_atto", num_classes=3, depths=(1,) * 4, dims=(4, 4, 8, 8)
        ),
        *(images(32), None, images(32), lambda m, x: m(x), 0),
    ),
}


def make(name):
    torch.manual_seed(0)
    return CASES[name][0]().double().eval()


@pytest.mark.parametrize("name", CASES)
def test_float64(name):
    _, x, select, packed, call, missing = CASES[name]
    model = make(name)
    plan = entk.plan_ntk(model, x, select=select)
    assert sum(c.rule.startswith("torch.func") for c in plan.layers) == missing
    full = oracle.ntk(Plain(model, call), packed)
    for outputs in OUTPUTS:
        found = entk.ntk(model, x, outputs=outputs, select=select)
        # RMSNorm of these is in float32 whatever the rest is in
        inside = name in ("llama", "t5")
        limit = 8 * torch.finfo(torch.float32).eps if inside else tolerance.FLOAT64
        assert tolerance.error(found, oracle.mode(full, outputs)) <= limit


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit"])
def test_the_linearised_model(name):
    _, x, select, _, _, _ = CASES[name]
    model = make(name)
    linear = entk.linearize(model, select=select)
    found = entk.ntk(linear, x)
    assert tolerance.error(found, entk.ntk(model, x, select=select)) <= tolerance.FLOAT64
