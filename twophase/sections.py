"""The sections of a config: every key with its type, its bounds, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Arm = Literal["schedule", "constant", "own"]  # own: trained elsewhere, see twophase.study
Network = Literal["mlp", "thin-resnet", "resnet20", "vgg16", "vgg16-dropout", "gpt", "vit", "own"]
Steps = tuple[Annotated[int, Field(ge=0)], ...]
Count = Annotated[int, Field(ge=1)]
LONGEST = 10**9  # steps of a run
Variant = Annotated[str, Field(pattern=r"^(taylor|tangent|nonlinear-frozen)(-keep)?(-running)?$")]


def _at_least_a_megabyte(value: str) -> str:
    if float(value[:-2]) * {"MB": 1, "GB": 1000}[value[-2:]] < 1:
        raise ValueError("a kernel needs more; at least 1MB")
    return value


Memory = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(MB|GB)$"), AfterValidator(_at_least_a_megabyte)
]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # docs/config.md is made of them
    )


class Data(Section):
    """Where samples come from and what is done to them."""

    source: str = "digits"
    """digits, breast_cancer, wine, text, cifar10, cifar100, mnist, an .npz file or a folder"""
    root: str = "data"
    """where torchvision keeps its downloads"""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of training labels redrawn, uniformly over all classes"""
    augment: Literal["none", "shift", "crop-flip"] = "none"
    """what each sample goes through at each step; crop-flip mirrors half of them as well"""
    pad: Count = 1
    """pixels of the random shift or crop"""
    train: Count | None = None
    """use only so many training samples, a fixed random choice; left out: all"""
    test: Count | None = None
    """use only so many test samples"""
    scored: Count | None = None
    """losses, errors and batch-norm statistics are of so many training samples; left out: all"""
    context: Count = 64
    """characters of a sample of text"""


class Model(Section):
    """Which network."""

    name: Network = "thin-resnet"
    """resnet20 and vgg16 as in open_lth, vgg16-dropout as in torchvision; gpt takes text"""
    widths: tuple[Count, ...] = (16, 32, 64)
    """hidden layers of mlp, stages of thin-resnet; gpt and vit have one"""
    blocks: Count = 1
    """basic blocks per stage of thin-resnet, all blocks of gpt and vit"""
    shortcut: Literal["projection", "pad"] = "projection"
    """where a ResNet changes width: options B and A of He et al. 2015"""
    stride: Count = 1
    """of the first convolution of thin-resnet; 2 leaves a quarter of the work"""
    heads: Count = 4
    """of attention in gpt and vit; they divide the width"""
    patch: Count = 4
    """pixels along the side of a patch of vit; they divide the side of the image"""
    init_scale: Annotated[float, Field(gt=0, le=1e38)] = 1.0
    """factor on the initial weights; biases and scales of batch norm are left"""


class Training(Section):
    """Stochastic gradient descent with momentum on the cross-entropy."""

    steps: Annotated[int, Field(ge=1, le=LONGEST)] = 2000
    """updates of the main run"""
    batch: Count = 64
    """samples per step; the last batch of an epoch may be short"""
    rate: Annotated[float, Field(gt=0, le=1e38)] = 0.1  # float32 has to hold it
    """learning rate"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of the optimiser"""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """on all parameters, as torch.optim.SGD has it"""
    milestones: Steps = ()
    """steps at which arm "schedule" multiplies the rate by gamma"""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """factor of the rate at a milestone"""
    save_every: Count = 1000
    """steps of the main run, a twin or a switch that an interruption can cost at most"""


class Chaos(Section):
    """Twins: perturb at t0, train on, compare at t1."""

    t0: Steps = (0, 100, 500, 1000)
    """steps at which twins are perturbed"""
    t1: Steps = ()
    """steps at which they are compared; the last step is always among them"""
    horizons: tuple[Count, ...] = ()
    """compared as well so many steps after t0, so that late twins have as long as early ones"""
    draws: Annotated[int, Field(ge=1, le=10_000)] = 2
    """perturbed twins per t0, beside one control with eps = 0"""
    eps: Annotated[float, Field(ge=0)] = 1e-7
    """size of the perturbation"""
    kind: Literal["gaussian", "layerwise", "one-weight", "gradient", "ulp"] = "gaussian"
    """its direction; ulp moves every parameter to a neighbouring float and has no eps"""
    scale: Literal["total-l2", "per-coordinate", "relative"] = "total-l2"
    """eps is its norm, the deviation of each entry, or its norm over that of the weights"""
    noise: Literal["same", "fresh"] = "same"
    """fresh: perturbed twins have an order of samples, augmentation and dropout of their own"""
    lockstep: Literal["auto", "on", "off"] = "off"
    """on: all twins of a t0 and the run trained at once and compared there; auto: on with cuda"""
    growth: Annotated[int, Field(ge=0)] = 0
    """steps after t0 during which the distance is recorded at each, under the same noise"""
    align: Literal["none", "weights", "activations"] = "none"
    """barriers at the last step also after hidden units are renamed to match, by what"""
    alphas: Annotated[int, Field(ge=3, le=10_000)] = 11
    """points on the straight line between two networks, ends included"""
    baseline: Literal["linear", "mean", "raw"] = "linear"
    """what a barrier is above: the line between the ends, their mean, or nothing"""
    batchnorm: Literal["reestimate", "interpolate", "ends"] = "reestimate"
    """statistics on that line: of the training set at each point, between those of the ends as
    training left them, or those of the nearer end"""


class Kernels(Section):
    """The empirical tangent kernel of a fixed probe set at each step of a grid."""

    probe: Count = 64
    """training inputs in it, chosen by the seed and not augmented"""
    outputs: Literal["all", "diagonal", "trace", "sum"] = "all"
    """output mode, as in entk.ntk"""
    positions: Literal["last", "all"] = "last"
    """of a sequence model, whose outputs: those at the last position, or all; of others all"""
    steps: Annotated[Steps, Field(min_length=1)] = tuple(range(0, 2001, 250))
    """steps at which the kernel is computed"""
    memory: Memory = "1GB"
    """budget of a kernel in each worker, at least 1MB"""
    by_layer: bool = False
    """keep the kernel of each layer too, each as large as the whole, for cones layer by layer"""


class Cone(Section):
    """Which pairs of those kernels are followed."""

    tau: Steps = (500, 1000)
    """reference steps, each among kernels.steps"""
    lags: tuple[Count, ...] = (250, 500)
    """differences over which the turn of the kernel is measured, each between two kernels.steps"""


class Linear(Section):
    """Switch to the linearised model at t and train on; or to kernel regression."""

    switch: Steps = (0, 1000)
    """steps t; 0 is the lazy run"""
    arm: Arm = "schedule"
    """whose checkpoints and rate are used"""
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = ("taylor",)
    """what is trained on: the Taylor model, its tangent alone (without the network's outputs at t),
    or the network itself with batch norm frozen; momentum starts at zero unless -keep follows,
    batch-norm statistics are re-estimated at t unless -running follows"""
    rate_factor: Annotated[float, Field(gt=0, le=1e38)] = 1.0
    """factor of the rate after t"""
    regression: Annotated[int, Field(ge=0)] = 0
    """training inputs of a kernel regression with the kernel of t, of kernels.outputs; 0: none"""
