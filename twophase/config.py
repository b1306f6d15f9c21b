"""What a run is: every number that its results depend on."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from twophase.errors import UserError

Arm = Literal["schedule", "constant"]
Steps = tuple[Annotated[int, Field(ge=0)], ...]
Count = Annotated[int, Field(ge=1)]


def _at_least_a_megabyte(value: str) -> str:
    if float(value[:-2]) * {"MB": 1, "GB": 1000}[value[-2:]] < 1:
        raise ValueError("a kernel needs more; at least 1MB")
    return value


Memory = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(MB|GB)$"), AfterValidator(_at_least_a_megabyte)
]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # docs/config.md is made of them
    )


class Data(_Section):
    """Where samples come from and what is done to them."""

    source: str = "digits"
    """digits, cifar10, cifar100, mnist, a .npz file or an image folder"""
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


class Model(_Section):
    """Which network."""

    name: Literal["mlp", "thin-resnet", "resnet20", "vgg16", "vgg16-dropout"] = "thin-resnet"
    """resnet20 and vgg16 as in open_lth, vgg16-dropout as in torchvision"""
    widths: tuple[Count, ...] = (16, 32, 64)
    """hidden layers of mlp, stages of thin-resnet"""
    blocks: Count = 1
    """basic blocks per stage of thin-resnet"""
    shortcut: Literal["projection", "pad"] = "projection"
    """where a ResNet changes width: options B and A of He et al. 2015"""


class Training(_Section):
    """Stochastic gradient descent with momentum on the cross-entropy."""

    steps: Count = 2000
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
    """steps that an interruption can cost at most"""


class Chaos(_Section):
    """Twins: perturb at t0, train on with the same noise, compare at t1."""

    t0: Steps = (0, 100, 500, 1000)
    """steps at which twins are perturbed"""
    t1: Steps = ()
    """steps at which they are compared; the last step is always among them"""
    draws: Count = 2
    """perturbed twins per t0, beside one control with eps = 0"""
    eps: Annotated[float, Field(ge=0)] = 1e-7
    """size of the perturbation, a Gaussian direction over all parameters"""
    scale: Literal["total-l2", "per-coordinate", "relative"] = "total-l2"
    """eps is its norm, the deviation of each entry, or its norm over that of the weights"""
    alphas: Annotated[int, Field(ge=3)] = 11
    """points on the straight line between two networks, ends included"""
    baseline: Literal["linear", "mean", "raw"] = "linear"
    """what a barrier is above: the line between the ends, their mean, or nothing"""
    batchnorm: Literal["reestimate", "interpolate"] = "reestimate"
    """statistics on that line: of the training set at each point, or between those of the ends"""


class Kernels(_Section):
    """The empirical tangent kernel of a fixed probe set at each step of a grid."""

    probe: Count = 64
    """training inputs in it, chosen by the seed and not augmented"""
    outputs: Literal["all", "diagonal", "trace", "sum"] = "all"
    """output mode, as in entk.ntk"""
    steps: Annotated[Steps, Field(min_length=1)] = tuple(range(0, 2001, 250))
    """steps at which the kernel is computed"""
    memory: Memory = "1GB"
    """budget of a kernel in each worker, at least 1MB"""


class Cone(_Section):
    """Which pairs of those kernels are followed."""

    tau: Steps = (500, 1000)
    """reference steps, each among kernels.steps"""
    lags: tuple[Count, ...] = (250, 500)
    """differences over which the turn of the kernel is measured, each between two kernels.steps"""


class Linear(_Section):
    """Switch to the linearised model at t and train on."""

    switch: Steps = (0, 1000)
    """steps t; 0 is the lazy run"""
    arm: Arm = "schedule"
    """whose checkpoints and rate are used"""
    momentum: Literal["reset", "keep"] = "reset"
    """what becomes of the momentum buffers at t"""
    rate_factor: Annotated[float, Field(gt=0, le=1e38)] = 1.0
    """factor of the rate after t"""


class Config(_Section):
    """A whole run. `twophase run CONFIG.toml` takes exactly these keys."""

    name: str = "run"
    """the directory is runs/<name> unless --out says otherwise"""
    seed: Annotated[int, Field(ge=0)] = 0
    """every random number is a function of it and of the step"""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("schedule", "constant")
    """with the drops of the rate, and without; one run up to the first drop"""
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    chaos: Chaos = Chaos()
    kernels: Kernels = Kernels()
    cone: Cone = Cone()
    linear: Linear = Linear()

    @model_validator(mode="after")
    def _grids_lie_in_the_run(self) -> Config:
        last = self.training.steps
        # a twin and a switched run need at least one step after their start
        ends = {
            "training.milestones": (self.training.milestones, last),
            "chaos.t0": (self.chaos.t0, last - 1),
            "chaos.t1": (self.chaos.t1, last),
            "kernels.steps": (self.kernels.steps, last),
            "cone.tau": (self.cone.tau, last),
            "cone.lags": (self.cone.lags, last),
            "linear.switch": (self.linear.switch, last - 1),
        }
        for key, (grid, end) in ends.items():
            if any(a >= b for a, b in pairwise(grid)):
                raise ValueError(f"{key}: {list(grid)} does not increase; list each step once")
            if any(step > end for step in grid):
                raise ValueError(
                    f"{key}: {grid[-1]} is too late with training.steps={last}; at most {end}"
                )
        missing = sorted(set(self.cone.tau) - set(self.kernels.steps))
        if missing:
            have = list(self.kernels.steps)
            raise ValueError(f"cone.tau: {missing} have no kernel; kernels.steps has {have}")
        apart = sorted({b - a for a, b in combinations(self.kernels.steps, 2)})
        missing = [lag for lag in self.cone.lags if lag not in apart]
        if missing:
            possible = ", ".join(map(str, apart[:8])) + (", ..." if len(apart) > 8 else "")
            raise ValueError(
                f"cone.lags: no two of kernels.steps are {missing} apart; possible: "
                f"{possible or 'none, with a single step'}"
            )
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms: {list(self.arms)} has one twice")
        if self.linear.switch and self.linear.arm not in self.arms:
            raise ValueError(f"linear.arm: {self.linear.arm!r} is not in arms {list(self.arms)}")
        return self

    @property
    def measured(self) -> tuple[int, ...]:
        """t1: steps at which twins are compared."""
        return tuple(sorted({*self.chaos.t1, self.training.steps}))

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps whose full state the main run keeps."""
        grids = (self.chaos.t0, self.measured, self.kernels.steps, self.linear.switch)
        parting = self.training.milestones[:1]
        return tuple(sorted({0, *parting, *(s for grid in grids for s in grid)}))

    def rate(self, arm: str, step: int) -> float:
        """Learning rate of the update that leads from `step` to the next."""
        past = sum(step >= m for m in self.training.milestones) if arm == "schedule" else 0
        return self.training.rate * self.training.gamma**past


def build(values: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """A config from nested values and `key.sub=value` overrides; errors name the key.

    >>> build({"name": "mine"}, ["training.rate=0.3", "model.widths=[8, 16]"]).model.widths
    (8, 16)
    """
    # as JSON, where strict types still take a list for a tuple; a TOML date becomes a string
    values = json.loads(json.dumps(values, default=str))
    for text in overrides:
        _override(values, text)
    try:
        return Config.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(_one_line(error)) from None


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: expected key=value, for example training.steps=500")
    *path, leaf = key.strip().split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {text!r}: {part} is a value, not a section")
    values[leaf] = _parse(value.strip())


def _parse(text: str) -> Any:
    """A TOML value; what is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = Config
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"config: unknown key {key!r}; allowed here: {', '.join(section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"config: {message}"
    return f"config: {key}={first['input']!r}: {message[0].lower()}{message[1:]}"


def read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"config {path}: not readable as TOML ({error})") from None


def dump(config: Config) -> str:
    """The config as TOML with every key written out; `build(tomllib.loads(dump(c))) == c`."""
    values = config.model_dump(mode="json")
    lines = [f"{k} = {_toml(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for section, content in values.items():
        if isinstance(content, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{k} = {_toml(v)}" for k, v in content.items() if v is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON scalars and flat lists are TOML as well, but for a raw DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
