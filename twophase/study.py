"""The analyses on a run that was trained elsewhere: a folder of checkpoints and a network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twophase import belongs, chaos, cone, device, environment, kernels, recorder, train
from twophase import config as configs
from twophase import data as datasets
from twophase.config import Config
from twophase.data import Dataset
from twophase.disk import alone
from twophase.errors import UserError
from twophase.perturb import perturb
from twophase.rundir import RunDir
from twophase.train import State

ARM = "own"
Samples = tuple[Tensor, Tensor]
Advance = Callable[[dict[str, Any], int, int], dict[str, Any]]


@dataclass(frozen=True)
class _OwnRun(RunDir):
    """A run directory whose checkpoints are files of the user's."""

    files: dict[int, Path]

    def checkpoint(self, arm: str, step: int) -> Path:
        return self.files[step]

    def load_state(self, path: Path) -> State:
        return _model(recorder.weights(recorder.read(path), path))


def _model(state: dict[str, Tensor]) -> State:
    return {f"model.{k}": v for k, v in state.items()}


@contextmanager
def _ours() -> Iterator[None]:
    """One thread: sums split by threads would make bits depend on the machine.

    The caller's generator is left where it was.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)


class Study:
    """Kernels, cone and twins of any classifier's training run, and the report on them.

        study = twophase.Study("runs/mine", "checkpoints", Net, train=(x, y), test=(x_test, y_test))
        study.cone()
        study.twins(advance)        # where the settings have chaos.t0
        study.report()              # runs/mine/report.html

    out: directory of what is computed; what exists there is not computed again. checkpoints: see
    `recorder.checkpoints`. build: makes the network, of inputs x [N, ...] and outputs [N, O], to
    load them into. train, test: inputs and labels [N], as the network takes them. settings: keys as
    in docs/config.md, "key=value", of the sections chaos, kernels and cone, and seed and device.

    Each of the three holds the directory for itself (`entk.exclusive`).

    Raises UserError: fewer than three checkpoints, they do not fit the network, or `out` was begun
    with other checkpoints, samples or another network.
    """

    def __init__(
        self,
        out: str | Path,
        checkpoints: str | Path,
        build: Callable[[], nn.Module],
        *,
        train: Samples,
        test: Samples,
        settings: Sequence[str] = (),
    ):
        _check_arguments(build, train, test)
        files = recorder.checkpoints(checkpoints)
        config = _config(_name(Path(out)), list(files), len(train[0]), settings)
        self.data = _samples(train, test, build, config)
        with torch.random.fork_rng():  # the caller's generator may be training a run
            _fits(build(), files)
            _runs(build(), self.data)
            used = {step: files[step] for step in config.checkpoints}
            found = belongs.of_study(self.data, used, _built(build, used))
        run = RunDir.create(Path(out), config, found)
        belongs.check(run, found)
        self.run = _OwnRun(run.path, run.config, files)

    def cone(self) -> None:
        """Scores, kernels and their distances at every checkpoint."""
        run, start = self.run, time.monotonic()
        with alone(run.path), _ours():
            train.evaluate(run, self.data)
            for job in kernels.jobs(run.config):
                if not all(path.exists() for path in kernels.files(run, *job)):
                    kernels.measure(run, self.data, *job)
            kernels.collect(run, self.data)
            cone.stage(run)
            environment.record(run, "cone", time.monotonic() - start)

    def twins(self, advance: Advance) -> None:
        """Perturb at each `chaos.t0`, train on with the caller's loop, compare with the run.

        advance(state, start, stop) -> state: what a checkpoint holds at step `start`, trained on to
        `stop` exactly as the run was: the same batches, rates, augmentation and masks. Whether it
        does so is measured: the twin with eps = 0 has to equal the run. It is called with as many
        threads as there are when `twins` is.
        """
        run, start = self.run, time.monotonic()
        if not run.config.chaos.t0:
            raise UserError(
                "twins: no step to perturb at; give Study settings=['chaos.t0=[...]'] of steps "
                f"that have a checkpoint: {', '.join(map(str, run.files))}"
            )
        with alone(run.path):
            for t0, draws in chaos.jobs(run.config):
                for draw in draws:
                    if not run.twin(t0, draw).exists():
                        self._twin(advance, t0, draw)
            chaos.collect(run)
            environment.record(run, "twins", time.monotonic() - start)

    def _twin(self, advance: Advance, t0: int, draw: int) -> None:
        run, config = self.run, self.run.config
        whole = recorder.read(run.files[t0])
        before = _model(recorder.weights(whole, run.files[t0]))
        with _ours():
            moved = perturb(config, self.data, before, t0, draw)
        state, step, lane = _with(whole, moved), t0, {}
        for t1 in config.compared(t0):
            state, step = advance(state, step, t1), t1
            lane[t1] = _model(recorder.weights(state, Path("the state that advance returned")))
            _same_tensors(before, lane[t1])
        main = {t1: run.load_state(run.files[t1]) for t1 in lane}
        found: dict[str, list] = {name: [] for name in chaos.TABLES}
        pair = chaos.Pair(ARM, t0, draw, before, moved, main, lane)
        with _ours():
            chaos.measure(config, self.data, pair, {}, found)
        run.save_record(run.twin(t0, draw), found)

    def report(self) -> Path:
        """report.html, from what has been computed."""
        from twophase import report  # matplotlib takes a second

        with alone(self.run.path):
            report.write(self.run)
        return self.run.report


def _name(out: Path) -> str:
    """Of the folder when the study began: it may have another by now."""
    if (out / "config.toml").exists():
        return RunDir.open(out).config.name
    return out.resolve().name


def _config(name: str, steps: list[int], samples: int, settings: Sequence[str]) -> Config:
    if isinstance(settings, str):
        raise UserError(f"Study: settings={settings!r} is one text; expected a list of such")
    if len(steps) < 3:
        raise UserError(f"a study needs at least three checkpoints, there are {len(steps)}")
    gaps = Counter(b - a for a, b in pairwise(steps))
    lag = gaps.most_common(1)[0][0]
    lags = [k * lag for k in (1, 2, 4) if any(s + k * lag in steps for s in steps)]
    values = {
        "name": name,
        "arms": [ARM],
        "data": {"source": ARM},
        "model": {"name": ARM},
        "training": {"steps": steps[-1]},
        "chaos": {"t0": []},
        "kernels": {"steps": steps, "probe": min(64, samples)},
        "cone": {"tau": sorted({steps[0], steps[len(steps) // 4], steps[len(steps) // 2]})},
        "linear": {"switch": []},
    }
    values["cone"]["lags"] = lags
    config = configs.build(values, settings)
    missing = sorted(set(config.checkpoints) - set(steps))
    if missing:
        raise UserError(
            f"no checkpoint at steps {missing[:5]}, which chaos.t0, chaos.t1, chaos.horizons or "
            f"kernels.steps ask for; there are {', '.join(map(str, steps))}"
        )
    if config.chaos.growth or config.in_lockstep or config.chaos.noise == "fresh":
        raise UserError(
            "chaos.growth, chaos.lockstep and chaos.noise=fresh need twophase's own training loop"
        )
    if config.chaos.align != "none":
        raise UserError("chaos.align knows the units of twophase's own networks only")
    return config


def _samples(
    given: Samples, test: Samples, build: Callable[[], nn.Module], config: Config
) -> Dataset:
    for name, (x, y) in {"train": given, "test": test}.items():
        bad = y.dtype != torch.int64 or y.dim() != 1 or len(x) != len(y) or len(y) == 0
        if bad or int(y.min()) < 0:
            raise UserError(
                f"{name}: inputs {tuple(x.shape)} and labels {y.dtype} {tuple(y.shape)}; expected "
                "as many int64 labels [N], none below 0, as inputs [N, ...]"
            )
    if config.kernels.probe > len(given[0]):
        raise UserError(
            f"kernels.probe={config.kernels.probe}: there are only {len(given[0])} training samples"
        )
    device.check(config.device)
    tensors = [v.to(config.device) for v in (*given, *test)]
    classes = 1 + int(max(given[1].max(), test[1].max()))
    scored = datasets.scored(config.data, len(given[0]))
    sha256 = datasets.digests(*given, *test)
    return Dataset(*tensors, classes, flipped=0, scored=scored, build=build, sha256=sha256)


def _check_arguments(build: Callable[[], nn.Module], *parts: Samples) -> None:
    for part in parts:
        pair = isinstance(part, tuple | list) and len(part) == 2
        if not pair or not all(isinstance(t, Tensor) and t.dim() for t in part):
            raise UserError("Study: train= and test= are pairs of tensors, inputs and labels")
    if not callable(build) or isinstance(build, nn.Module):
        raise UserError("Study: build is a function that makes the network, as the class itself is")


def _runs(model: nn.Module, data: Dataset) -> None:
    """Raises UserError: the network does not take these inputs, or has no output for a label."""
    x = data.x_train[:2].cpu()
    try:
        with torch.no_grad():
            y = model.eval()(x)
    except Exception as error:  # whatever a network of the caller's raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"the network does not take inputs {tuple(x.shape)} {x.dtype}: {reason:.200}"
        ) from None
    if not isinstance(y, Tensor) or y.dim() != 2 or y.shape[1] < data.classes:
        found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise UserError(
            f"the network returns {found} for {len(x)} inputs and labels go up to "
            f"{data.classes - 1}; expected [N, O] with an output for each label"
        )


def _fits(model: nn.Module, files: dict[int, Path]) -> None:
    """Raises UserError: the first or the last checkpoint is not of this network, or it is none."""
    if not isinstance(model, nn.Module):
        raise UserError(f"Study: build() gave {type(model).__name__}, expected an nn.Module")
    for path in (files[min(files)], files[max(files)]):
        try:
            model.load_state_dict(recorder.weights(recorder.read(path), path))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} does not fit the network: {reason:.200}") from None


def _built(build: Callable[[], nn.Module], files: dict[int, Path]) -> nn.Module:
    """The network as the last checkpoint has it."""
    model, last = build(), files[max(files)]
    model.load_state_dict(recorder.weights(recorder.read(last), last))
    return model


def _same_tensors(before: State, after: State) -> None:
    one, two = ({k: v.shape for k, v in state.items()} for state in (before, after))
    wrong = sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
    if wrong:
        raise UserError(
            f"the state that advance returned has another {wrong[0].removeprefix('model.')!r}, or "
            "none, than the checkpoint; return what a checkpoint holds"
        )


def _with(whole: dict[str, Any], moved: State) -> dict[str, Any]:
    """The checkpoint with the model's tensors replaced, under the keys that they had."""
    inner = next((k for k in recorder.WEIGHTS if isinstance(whole.get(k), dict)), None)
    old = whole if inner is None else whole[inner]
    values = dict(zip(old, moved.values(), strict=True))
    return values if inner is None else {**whole, inner: values}
