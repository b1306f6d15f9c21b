import pytest
import torch
import torch.nn.functional as F

import entk
from twophase import config, data, kernels, models, train, transformers
from twophase.errors import UserError

IMAGE, TOKENS = torch.zeros(2, 4, 6), torch.zeros(5, dtype=torch.int64)
SMALL = {"widths": [8], "blocks": 2, "heads": 2, "patch": 2}


def build(name, seed=0, classes=7, **model):
    built = config.build({"seed": seed, "model": {"name": name, **SMALL, **model}})
    return models.build(built, TOKENS if name == "gpt" else IMAGE, classes)


def batch(name, n=3):
    generator = torch.Generator().manual_seed(3)
    if name == "gpt":
        return torch.randint(7, (n, 5), generator=generator)
    return torch.randn((n, 2, 4, 6), generator=generator)


def test_attention_is_that_of_torch():
    x = torch.randn(3, 5, 8)
    for causal in (False, True):
        layer = transformers.Attention(8, 2, causal)
        q, k, v = (
            part.reshape(3, 5, 2, 4).transpose(1, 2) for part in layer.qkv(x).split(8, dim=2)
        )
        found = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        expected = layer.out(found.transpose(1, 2).reshape(3, 5, 8))
        torch.testing.assert_close(layer(x), expected)


def test_gpt_sees_what_came_before_and_nothing_else():
    model, x = build("gpt"), batch("gpt", 1)
    out = model(x)
    assert out.shape == (1, 5, 7)
    for place in range(5):
        other = x.clone()
        other[0, place] = (other[0, place] + 1) % 7
        changed = (model(other) - out).abs().amax(2)[0] > 0
        assert changed.tolist() == [t >= place for t in range(5)]


def test_vit_is_a_mean_over_patches_that_have_places():
    model, x = build("vit"), batch("vit")
    assert model(x).shape == (3, 7)
    swapped = torch.cat([x[..., 2:4], x[..., :2], x[..., 4:]], 3)
    assert not torch.allclose(model(swapped), model(x), atol=1e-4)
    with torch.no_grad():
        model.position.zero_()
    torch.testing.assert_close(model(swapped), model(x))


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("gpt", 7 * 8 + 5 * 8 + 2 * 8 + 8 * 7),
        ("vit", (2 * 4 + 1) * 8 + 6 * 8 + 2 * 8 + 9 * 7),
    ],
)
def test_parameter_counts(name, ends):
    block = 9 * 24 + 9 * 8 + 9 * 32 + 33 * 8 + 4 * 8
    assert sum(p.numel() for p in build(name).parameters()) == 2 * block + ends


@pytest.mark.parametrize("name", ["gpt", "vit"])
def test_init_is_the_seeds_alone_and_scaled(name):
    torch.manual_seed(1)
    one = build(name, widths=[64])
    torch.manual_seed(2)
    two, other = build(name, widths=[64]), build(name, seed=1, widths=[64])
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.position, other.position)
    assert one.position.std().item() == pytest.approx(0.02, rel=0.2)
    assert one.blocks[0].up.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert one.blocks[1].down.weight.std().item() == pytest.approx(1 / 16 / 2, rel=0.05)
    assert not one.blocks[0].attention.qkv.bias.any()


@pytest.mark.parametrize("name", ["gpt", "vit"])
def test_entk_serves_every_parameter_by_a_rule_and_agrees_with_autograd(name):
    model, x = build(name).double().eval(), batch(name)
    if name == "vit":
        x = x.double()
    options = kernels.options(config.build({"model": {"name": name, **SMALL}}))
    plan = entk.plan_ntk(model, x, select=options.get("select"), strict=True)
    assert {line.name for line in plan.layers} == {n for n, _ in model.named_parameters()}
    found = entk.ntk(model, x, **options)
    rows = []
    for out in model(x).reshape(3, -1, 7)[:, -1].flatten():  # the last position, of vit the only
        grads = torch.autograd.grad(out, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    jacobian = torch.stack(rows)
    torch.testing.assert_close(found.reshape(21, 21), jacobian @ jacobian.mT)


def test_positions_chooses_outputs_of_sequence_models_only():
    last = {"model": {"name": "gpt", **SMALL}}
    every = {**last, "kernels": {"positions": "all"}}
    model, x = build("gpt").eval(), batch("gpt")
    shapes = [entk.ntk(model, x, **kernels.options(config.build(c))).shape for c in (last, every)]
    assert shapes == [(3, 7, 3, 7), (3, 35, 3, 35)]
    assert "select" not in kernels.options(config.build({"model": {"name": "vit", **SMALL}}))


@pytest.mark.parametrize(
    ("values", "below"),
    [
        ({"data": {"source": "text", "context": 16}, "model": {"name": "gpt"}}, 0.65),
        ({"data": {"source": "digits"}, "model": {"name": "vit"}}, 0.5),
    ],
)
def test_momentum_trains_it(values, below):
    """The loss on the test set after 200 steps, as a share of that at the start."""
    model = {**SMALL, "widths": [32], "heads": 4, **values["model"]}
    training = {"steps": 2000, "rate": 0.1 if model["name"] == "gpt" else 0.03}
    c = config.build(values | {"model": model, "training": training})
    samples = data.load(c)
    start = train.initial(c, samples)
    end = train.advance(c, samples, "constant", start, 0, (200,))[200]
    before, after = (
        train.scores(train.network(c, samples, s), samples)["test_loss"] for s in (start, end)
    )
    assert after < below * before


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gpt", {"widths": [8, 8]}, r"model.widths=\[8, 8\]: gpt has one, a multiple of model.h"),
        ("vit", {"heads": 3}, r"model.widths=\[8\]: vit has one, .*heads=3; .*widths=\[48\]"),
        ("vit", {"patch": 3}, "model.patch=3 does not divide the sides of 4 x 6 images"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(name, options, said):
    with pytest.raises(UserError, match=said):
        build(name, **options)


@pytest.mark.parametrize(
    ("name", "sample", "said"),
    [
        ("gpt", IMAGE, "model.name='gpt' does not take numbers"),
        (
            "mlp",
            TOKENS,
            "model.name='mlp' does not take tokens, .*data.source=text belong together",
        ),
        ("vit", torch.zeros(6), r"needs images \[C, H, W\]"),
    ],
)
def test_samples_of_another_kind_are_one_line(name, sample, said):
    with pytest.raises(UserError, match=said):
        models.build(config.build({"model": {"name": name, **SMALL}}), sample, 7)
