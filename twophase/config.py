"""What a run is: every number that its results depend on."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from twophase.errors import UserError
from twophase.sections import Arm, Chaos, Cone, Data, Kernels, Linear, Model, Section, Training

LARGEST = 1 << 20  # bytes of a file with a config


class Config(Section):
    """A whole run. `twophase run CONFIG.toml` takes exactly these keys."""

    name: str = "run"
    """the directory is runs/<name> unless --out says otherwise"""
    seed: Annotated[int, Field(ge=0)] = 0
    """every random number is a function of it and of the step"""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("schedule", "constant")
    """with the drops of the rate, and without; one run up to the first drop"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where networks are trained and measured; each has bits of its own"""
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
            "chaos.horizons": (self.chaos.horizons, last),
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
        kinds = {self.data.source, self.model.name, *self.arms}
        if "own" in kinds and kinds != {"own"}:
            raise ValueError("own training is what twophase.Study makes of a folder of checkpoints")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms: {list(self.arms)} has one twice")
        if len(set(self.linear.variants)) < len(self.linear.variants):
            raise ValueError(f"linear.variants: {list(self.linear.variants)} has one twice")
        if self.linear.regression and self.model.name == "gpt" and self.kernels.positions == "all":
            raise ValueError("linear.regression needs kernels.positions=last, or 0: no regression")
        if self.linear.switch and self.linear.arm not in self.arms:
            raise ValueError(f"linear.arm: {self.linear.arm!r} is not in arms {list(self.arms)}")
        if self.chaos.lockstep == "on" and self.chaos.noise == "fresh":
            raise ValueError(
                "chaos.lockstep: 'on' trains all twins of a t0 on the same batches, chaos.noise="
                "'fresh' gives each its own; use chaos.lockstep=off"
            )
        return self

    @property
    def in_lockstep(self) -> bool:
        """Whether the twins of a t0 are trained at once."""
        if self.chaos.lockstep == "auto":
            return self.device == "cuda" and self.chaos.noise == "same"
        return self.chaos.lockstep == "on"

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that this run can have: the laboratory's own, or what is made of checkpoints."""
        if "own" not in self.arms:
            return ("train", "chaos", "kernels", "cone", "linear")
        return ("train", *(["chaos"] if self.chaos.t0 else []), "kernels", "cone")

    @property
    def measured(self) -> tuple[int, ...]:
        """t1: steps at which twins are compared."""
        return tuple(sorted({*self.chaos.t1, self.training.steps}))

    def compared(self, t0: int) -> tuple[int, ...]:
        """Every t1 of the twins of t0."""
        ends = {t0 + h for h in self.chaos.horizons if t0 + h <= self.training.steps}
        return tuple(sorted({t1 for t1 in self.measured if t1 > t0} | ends))

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps whose full state the main run keeps."""
        grids = [self.chaos.t0, self.measured, self.kernels.steps, self.linear.switch]
        grids += [self.compared(t0) for t0 in self.chaos.t0]
        parting = self.training.milestones[:1]
        first = () if "own" in self.arms else (0,)
        return tuple(sorted({*first, *parting, *(s for grid in grids for s in grid)}))

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
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"--set {text!r}: it is no UTF-8")
    try:
        put(values, key.strip(), parse(value.strip()))
    except UserError as error:
        raise UserError(f"--set {text!r}: {error}") from None


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested values."""
    *path, leaf = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"{part} is a value, not a section")
    values[leaf] = value


def parse(text: str) -> Any:
    """A TOML value; what is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = Config
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"config: unknown key {key!r:.80}; allowed here: {', '.join(section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"config: {message}"
    return f"config: {key:.80}={first['input']!r:.80}: {message[0].lower()}{message[1:]:.200}"


def read(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST or not path.is_file():
            raise ValueError(f"no file, or one of {size} bytes; expected at most {LARGEST}")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    except RecursionError:
        reason = "nested too deep"
    raise UserError(f"config {path}: not readable as TOML ({reason:.200})")


def dump(config: Config) -> str:
    """The config as TOML with every key written out; `build(tomllib.loads(dump(c))) == c`."""
    values = config.model_dump(mode="json")
    lines = [f"{k} = {toml(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for section, content in values.items():
        if isinstance(content, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{k} = {toml(v)}" for k, v in content.items() if v is not None]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """JSON scalars and lists are TOML as well, but for a raw DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
