"""What a run is: every number that its results depend on."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twophase.errors import UserError

Arm = Literal["schedule", "constant"]
Steps = tuple[Annotated[int, Field(ge=0)], ...]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """Where samples come from and what is done to them."""

    source: str = "digits"  # digits, cifar10, cifar100, mnist, a .npz file or an image folder
    root: str = "data"  # where torchvision keeps its downloads
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of training labels redrawn
    augment: Literal["none", "shift", "crop-flip"] = "none"
    pad: Count = 1  # pixels of the random shift or crop
    train: Count | None = None  # use only so many samples
    test: Count | None = None


class Model(_Section):
    """Which network."""

    name: Literal["mlp", "thin-resnet", "resnet20", "vgg16", "vgg16-dropout"] = "thin-resnet"
    widths: tuple[Count, ...] = (16, 32, 64)  # of mlp and thin-resnet
    blocks: Count = 1  # per stage of thin-resnet


class Training(_Section):
    """Stochastic gradient descent with momentum on the cross-entropy."""

    steps: Count = 2000
    batch: Count = 64
    rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    milestones: Steps = ()  # steps at which arm "schedule" multiplies the rate by gamma
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class Chaos(_Section):
    """Twins: perturb at t0, train on with the same noise, compare at t1."""

    t0: Steps = (0, 100, 500, 1000)
    t1: Steps = ()  # the last step is always among them
    draws: Count = 2
    eps: Annotated[float, Field(ge=0)] = 1e-7
    scale: Literal["total-l2", "per-coordinate", "relative"] = "total-l2"
    alphas: Annotated[int, Field(ge=3)] = 11
    baseline: Literal["linear", "mean", "raw"] = "linear"
    batchnorm: Literal["reestimate", "interpolate"] = "reestimate"


class Kernels(_Section):
    """The empirical tangent kernel of a fixed probe set at each step of a grid."""

    probe: Count = 64
    outputs: Literal["all", "diagonal", "trace", "sum"] = "all"
    steps: Steps = (0, 500, 1000, 2000)


class Cone(_Section):
    tau: Steps = (500, 1000)
    lags: tuple[Count, ...] = (100,)


class Linear(_Section):
    """Switch to the linearised model at t and train on."""

    switch: Steps = (0, 1000)
    arm: Arm = "schedule"
    momentum: Literal["reset", "keep"] = "reset"
    rate_factor: Annotated[float, Field(gt=0)] = 1.0


class Config(_Section):
    """A whole run. `twophase run CONFIG.toml` takes exactly these keys."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0)] = 0
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("schedule", "constant")
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
        grids = {
            "training.milestones": self.training.milestones,
            "chaos.t0": self.chaos.t0,
            "chaos.t1": self.chaos.t1,
            "kernels.steps": self.kernels.steps,
            "cone.tau": self.cone.tau,
            "linear.switch": self.linear.switch,
        }
        for key, grid in grids.items():
            if any(step > last for step in grid):
                raise ValueError(
                    f"{key}: {max(grid)} lies beyond the last step; at most training.steps={last}"
                )
        if not set(self.cone.tau) <= set(self.kernels.steps):
            missing = sorted(set(self.cone.tau) - set(self.kernels.steps))
            raise ValueError(f"cone.tau: {missing} are not in kernels.steps {self.kernels.steps}")
        if self.linear.switch and self.linear.arm not in self.arms:
            raise ValueError(f"linear.arm: {self.linear.arm!r} is not among arms {self.arms}")
        return self

    @property
    def measured(self) -> tuple[int, ...]:
        """t1: steps at which twins are compared."""
        return tuple(sorted({*self.chaos.t1, self.training.steps}))

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps whose full state the main run keeps."""
        grids = (self.chaos.t0, self.measured, self.kernels.steps, self.linear.switch)
        return tuple(sorted({0, self.training.steps, *(s for grid in grids for s in grid)}))

    def rate(self, arm: str, step: int) -> float:
        """Learning rate of the update that leads from `step` to the next."""
        past = sum(step >= m for m in self.training.milestones) if arm == "schedule" else 0
        return self.training.rate * self.training.gamma**past


def build(values: dict[str, Any], overrides: list[str] = ()) -> Config:
    """A config from nested values and `key.sub=value` overrides; errors name the key."""
    values = json.loads(json.dumps(values))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r}: expected key=value, for example training.steps=500")
        *path, leaf = key.strip().split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {text!r}: {part} is a value, not a section")
        place[leaf] = _parse(value.strip())
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_one_line(error)) from None


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
    return f"config: {key}={first['input']!r}: {message}"


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
    """JSON scalars and flat lists are TOML as well, but for the escape of DEL."""
    return json.dumps(value, ensure_ascii=True)
