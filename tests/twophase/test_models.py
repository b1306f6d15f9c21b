import pytest
import torch
import torch.nn.functional as F

import entk
from twophase import config, models
from twophase.errors import UserError

CIFAR = torch.zeros(3, 32, 32)


def build(name, sample=CIFAR, classes=10, **model):
    return models.build(config.build({"model": {"name": name, **model}}), sample, classes)


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # open_lth's, as their layers add up; the last is torchvision's vgg16_bn on one pooled pixel
        ("resnet20", 272_474),
        ("vgg16", 14_728_266),
        ("vgg16-dropout", 14_723_136 + 513 * 4096 + 4097 * 4096 + 4097 * 10),
    ],
)
def test_parameter_counts_of_the_paper(name, count):
    assert size(build(name)) == count


def test_resnet20_of_option_a_has_no_shortcut_parameters():
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert size(build("resnet20", shortcut="pad")) == 272_474 - shortcuts


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
@pytest.mark.parametrize("side", [7, 8])
def test_thin_resnet_runs_at_odd_sizes_and_any_width(shortcut, side):
    model = build(
        "thin-resnet", torch.zeros(2, side, side), 3, widths=[3, 4, 7], blocks=2, shortcut=shortcut
    )
    out = model(torch.randn(5, 2, side, side))
    assert out.shape == (5, 3)
    assert out.isfinite().all()


def test_pad_shortcut_is_a_strided_copy_among_zeros():
    x = torch.randn(1, 2, 4, 4)
    out = models.Padded(3, 2)(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()


def test_init_is_the_seeds_alone():
    torch.manual_seed(1)
    one = build("thin-resnet", torch.zeros(1, 8, 8), 4, widths=[3, 4])
    torch.manual_seed(2)
    two = build("thin-resnet", torch.zeros(1, 8, 8), 4, widths=[3, 4])
    other = models.build(
        config.build({"seed": 1, "model": {"widths": [3, 4]}}), torch.zeros(1, 8, 8), 4
    )
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.conv.weight, other.conv.weight)


def test_open_lth_init_statistics():
    """Kaiming fan-in: variance 2 / fan_in; biases within 1 / sqrt(fan_in); scales over [0, 1]."""
    model = build("vgg16")
    conv = model.features[40]  # 512 -> 512
    fan_in = 512 * 9
    assert conv.weight.var().item() == pytest.approx(2 / fan_in, rel=0.01)
    assert 0.9 * fan_in**-0.5 < conv.bias.abs().max().item() <= fan_in**-0.5
    scale = model.features[41].weight
    assert 0 <= scale.min() < 0.05
    assert 0.95 < scale.max() <= 1


def test_vgg16_dropout_head_starts_near_zero():
    last = build("vgg16-dropout").head[-1]
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not last.bias.any()


def test_mlp_takes_vectors_and_images():
    assert build("mlp", torch.zeros(6), 3, widths=[5])(torch.randn(2, 6)).shape == (2, 3)
    assert build("mlp", torch.zeros(1, 2, 3), 3, widths=[5])(torch.randn(2, 1, 2, 3)).shape == (
        2,
        3,
    )


@pytest.mark.parametrize(
    ("name", "sample", "options", "said"),
    [
        (
            "thin-resnet",
            torch.zeros(6),
            {},
            r"needs images \[C, H, W\].*\(6,\); use model.name=mlp",
        ),
        ("vgg16", torch.zeros(1, 8, 8), {}, "at least 16 x 16 pixels"),
        ("thin-resnet", CIFAR, {"widths": [8, 4], "shortcut": "pad"}, "widths that do not shrink"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(name, sample, options, said):
    with pytest.raises(UserError, match=said):
        build(name, sample, **options)


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_entk_covers_every_parameter_by_a_rule(shortcut):
    model = build("thin-resnet", torch.zeros(1, 8, 8), 3, widths=[3, 4], shortcut=shortcut).eval()
    plan = entk.plan_ntk(model, torch.randn(2, 1, 8, 8))
    assert {line.name for line in plan.layers} == {n for n, _ in model.named_parameters()}
    assert all(line.rule != "torch.func" for line in plan.layers)


def test_a_shortcut_of_few_channels_is_the_strided_convolution():
    """It reads the same pixels, and training it again and again does not damage memory."""
    block = models.BasicBlock(3, 4, 2, "projection")
    strided = torch.nn.Conv2d(3, 4, 1, 2, bias=False)
    strided.weight = block.shortcut[0].weight
    x = torch.randn(16, 3, 8, 8)
    torch.testing.assert_close(block.shortcut[0](x), strided(x))
    wide = models.BasicBlock(8, 16, 2, "projection")
    assert list(block.state_dict()) == list(wide.state_dict())
    for _ in range(300):
        y = block(x.to(memory_format=torch.channels_last).requires_grad_())
        y.square().sum().backward()


def test_a_stride_of_two_leaves_a_quarter_of_the_pixels():
    one, two = (build("thin-resnet", widths=[3, 4], stride=s) for s in (1, 2))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(two.conv(x), one.conv(x)[:, :, ::2, ::2])
    assert two.blocks[0](F.relu(two.conv(x))).shape == (2, 3, 16, 16)


def test_init_scale_multiplies_the_weights_and_nothing_else():
    options = ("thin-resnet", torch.zeros(1, 8, 8), 4)
    plain, same = build(*options), build(*options, init_scale=1.0)
    scaled = build(*options, init_scale=0.3)
    assert all(torch.equal(p, same.state_dict()[k]) for k, p in plain.state_dict().items())
    for name, p in plain.named_parameters():
        expected = p * 0.3 if p.dim() > 1 else p
        assert torch.equal(scaled.get_parameter(name), expected), name
