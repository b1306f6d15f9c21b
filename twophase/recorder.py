"""Checkpoints of a training loop that is not twophase's, and reading those of anyone."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from twophase.disk import alone, write_atomic
from twophase.errors import UserError

NAME = re.compile(r"(\d+)\.(pt|pth|ckpt|bin|safetensors)$")
WEIGHTS = ("model", "state_dict", "model_state_dict")  # of Recorder and many, Lightning, tutorials
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


class Recorder:
    """Saves a training loop's state at the steps that an analysis needs.

    Call it with every step, before the update that leads from it to the next:

        recorder = twophase.Recorder("checkpoints", steps=range(0, 1001, 50))
        for step in range(1000):
            recorder(step, model, optimizer=optimizer)
            ...                                      # one update
        recorder(1000, model, optimizer=optimizer)

    What is named besides the model (an optimizer, a scheduler, anything with a state_dict, tensors,
    numbers) is saved with it, so that twins can start from the whole state. Each file appears by a
    rename: one that exists is complete. From its first file on the folder is this recorder's alone
    (`entk.exclusive`), so of the processes of a distributed loop one has to call it.

    Raises UserError: steps that cannot be, what cannot be read back, a disk that refuses;
    LockedError: another one's folder.
    """

    def __init__(self, folder: str | Path, steps: Iterable[int]):
        self.folder = Path(folder)
        self.steps = frozenset(steps if isinstance(steps, Iterable) else ())
        if not self.steps or not all(type(s) is int and s >= 0 for s in self.steps):
            raise UserError(
                f"Recorder: steps={steps!r:.80}, expected at least one whole number, none below 0"
            )
        self._held: AbstractContextManager | None = None

    def __call__(self, step: int, model: nn.Module, **more: Any) -> Path | None:
        """The file of this step; None if it is not among the steps."""
        if not isinstance(step, int) or not hasattr(model, "state_dict"):
            raise UserError(
                f"Recorder: called with step={step!r:.80} and a {type(model).__name__}, expected "
                "the number of the step and a module"
            )
        if step not in self.steps:
            return None
        if self._held is None:
            held = alone(self.folder)
            held.__enter__()  # until this recorder is gone, or its process
            self._held = held
        parts = {"model": model, **more}
        state = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}
        path = self.folder / f"step-{step:08d}.pt"
        write_atomic(path, _bytes(state))
        return path


def _bytes(state: dict[str, Any]) -> bytes:
    """As torch.save writes it; raises UserError: `read` would refuse it when training is over."""
    out = io.BytesIO()
    try:
        torch.save(state, out)
        out.seek(0)
        _load(out, "meta")
    except Exception as error:  # whatever pickle makes of it
        parts = [{name: value} for name, value in state.items()]
        for part in parts if len(parts) > 1 else ():
            _bytes(part)  # raises for the one that it is
        raise UserError(
            f"Recorder: what it was given, {state!r:.80}, cannot be read back; give tensors, "
            "numbers, texts, and lists and dicts of them, a NumPy number as float(x)"
        ) from error
    return out.getvalue()


def _load(file: Path | io.BytesIO, device: str) -> Any:
    """No code in it is run; on "meta" no numbers are read."""
    return torch.load(file, map_location=device, weights_only=True)


def checkpoints(folder: str | Path) -> dict[int, Path]:
    """{step: file}: the last number in a file's name is its step.

    Raises UserError: no folder, no such files, or two of one step.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; checkpoints are looked for there")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.search(path.name)
        if match is None or path.name.startswith("."):
            continue
        step = int(match[1])
        if step in found:
            raise UserError(f"{folder}: {found[step].name} and {path.name} are both of step {step}")
        found[step] = path
    if not found:
        raise UserError(
            f"{folder} has no checkpoints: files whose name ends in the step, as step-500.pt does, "
            "with .pt, .pth, .ckpt, .bin or .safetensors"
        )
    return dict(sorted(found.items()))


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; no code in it is run.

    Raises UserError: not readable as tensors and plain values.
    """
    try:
        if not path.is_file():  # a pipe would block
            raise FileNotFoundError("there is no such file")
        if path.suffix == ".safetensors":
            return load_file(path)
        found = _load(path, "cpu")
    except Exception as error:  # a damaged file can make the reader raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: not readable as a checkpoint ({reason:.200}); save state dicts, as "
            "torch.save of model.state_dict() does"
        ) from None
    if not isinstance(found, dict):
        raise UserError(
            f"{path}: holds a {type(found).__name__}, expected a state dict, or a dict with one as "
            f"{', '.join(WEIGHTS)}"
        )
    return found


def weights(state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The model's state dict in what `read` gives, without prefixes of wrappers."""
    if not isinstance(state, dict):
        raise UserError(f"{path}: a {type(state).__name__}, expected what a checkpoint holds")
    found = next((state[k] for k in WEIGHTS if isinstance(state.get(k), dict)), state)
    if not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(
            f"{path}: no state dict in it, neither by itself nor as {', '.join(WEIGHTS)}; it has "
            f"{', '.join(map(str, list(state)[:5])) or 'nothing'}"
        )
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in found):
            found = {k.removeprefix(prefix): v for k, v in found.items()}
    return found
