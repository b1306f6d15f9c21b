"""Small valid files of every kind that is read, and what is in them: where mutants come from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import nn

import entk
import entk.shards
from entk import Rates
from entk.fields import from_json
from entk.plan import Plan
from entk.shard import readable_tiles
from twophase import config, recorder, sources
from twophase.rundir import RunDir
from twophase.sections import Data
from twophase.sweep import Sweep


class Kind(NamedTuple):
    """A file below a folder, and a reader: folder -> what it takes the file to hold."""

    file: str
    read: Callable[[Path], Any]
    lossless: bool = True  # every accepted change of its content is a change of what it says
    around: str = "run"  # what goes along when it is copied: this folder


STATE = {"model.w": torch.arange(24.0).reshape(4, 6) / 7, "model.n": torch.tensor(3)}
RECORD = {"chaos": [{"t0": 0, "draw": 1, "l2": 0.1 + 0.2}], "note": "é"}
ROWS = [{"arm": "schedule", "step": 0, "loss": 1 / 3}, {"arm": "constant", "step": 5, "loss": 2e-9}]


def numbers(value: Any) -> Any:
    """Tensors and arrays as bytes, so that two readings can be compared."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: numbers(v) for key, v in value.items()}
    return [numbers(v) for v in value] if isinstance(value, list | tuple) else value


def _kernel(folder: Path) -> Any:
    with entk.open_kernel(folder / "k.h5") as file:
        parts = [file.layer(name) for name in file.layers]
        return [file[:], *parts, file.layers, file.provenance, file.plan.to_json()]


def _tiles(folder: Path) -> Any:
    """As write_ntk goes on: the plan of request.json, and each shard that belongs to it."""
    parts = folder / "k.h5.parts"
    shards = entk.shards.Shards(folder / "k.h5", json.loads((folder / "asked.json").read_text()))
    plan = shards.begun()
    found = {}
    for shard in sorted(parts.glob("shard-*.h5")):
        for tile in readable_tiles(shard, plan, shards.belongs):
            with h5py.File(shard) as file:
                group = file[f"{tile[0]:06d}-{tile[1]:06d}"]
                found[tile] = {name: part[()] for name, part in group.items()}
    if len(found) < len(list(plan.tiles())):
        raise entk.KernelFileError("a shard was refused")  # its tiles are computed again
    return [plan.to_json(), sorted(found.items())]


def _run(read: Callable[[RunDir], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(RunDir.open(folder))


def _rates(folder: Path) -> Any:
    """As `measure_rates` reads what it kept."""
    try:
        return from_json(Rates, (folder / "rates.json").read_text())
    except ValueError as error:
        raise entk.InputError(str(error)) from None


KINDS = {
    "kernel (HDF5)": Kind("k.h5", _kernel),
    "shard (HDF5)": Kind("k.h5.parts/shard-000001-000000.h5", _tiles),
    "request of shards (JSON)": Kind("k.h5.parts/request.json", _tiles),
    "plan (JSON)": Kind("plan.json", lambda f: Plan.from_json(text(f / "plan.json")), False),
    "rates (JSON)": Kind("rates.json", _rates, False),
    "run's config (TOML)": Kind("config.toml", _run(lambda run: run.config)),
    "config (TOML)": Kind("c.toml", lambda f: config.build(config.read(f / "c.toml")), False),
    "sweep (TOML)": Kind("sweep/sweep.toml", lambda f: Sweep.open(f / "sweep")),
    "checkpoint (safetensors)": Kind(
        "checkpoints/schedule/step-000000.safetensors",
        _run(lambda run: run.load_state(run.checkpoint("schedule", 0))),
    ),
    "record of a twin (JSON)": Kind(
        "chaos/t0-000000-draw1.json", _run(lambda run: run.load_record(run.twin(0, 1)))
    ),
    "table (CSV)": Kind("tables/train.csv", _run(lambda run: run.load_table("train"))),
    "checksum of a table": Kind("tables/train.csv.sha256", _run(lambda r: r.load_table("train"))),
    "data (npz)": Kind("d.npz", lambda f: sources.read(Data(source=str(f / "d.npz")))),
    "recorded state (pt)": Kind("own/step-00000005.pt", lambda f: _own(f, "pt"), False),
    "others' state (safetensors)": Kind(
        "own/step-00000005.safetensors", lambda f: _own(f, "safetensors"), False
    ),
}


def _own(folder: Path, suffix: str) -> Any:
    path = folder / "own" / f"step-00000005.{suffix}"
    return recorder.weights(recorder.read(path), path)


def text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise entk.InputError(str(error)) from None


def write(folder: Path) -> None:
    """All of them, the same every time."""
    torch.manual_seed(0)
    run = RunDir.create(folder, config.build({"name": "seeds", "training": {"steps": 2000}}))
    (folder / "c.toml").write_text(config.dump(run.config))
    run.save_state(run.checkpoint("schedule", 0), STATE, arm="schedule", step=0)
    run.save_record(run.twin(0, 1), RECORD)
    run.save_table("train", tuple(ROWS[0]), ROWS)
    Sweep.create(folder / "sweep", run.config, {"seed": [0, 1], "training.rate": [0.1, 0.3]})
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(6, 3)
    plan = entk.plan_ntk(model, x, block=3, memory="1GB", rates="nominal")
    entk.write_ntk(folder / "k.h5", model, x, plan=plan, by_layer=True).close()
    _begin(folder, model, x, plan)
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "rates.json").write_text('{"rows": 5e10, "pairs": 3e10, "measured": true}')
    rng = np.random.default_rng(0)
    images = {
        f"x_{p}": rng.integers(0, 255, (n, 4, 4), np.uint8) for p, n in (("train", 9), ("test", 3))
    }
    labels = {f"y_{p}": np.arange(n) % 3 for p, n in (("train", 9), ("test", 3))}
    np.savez_compressed(folder / "d.npz", **images, **labels)
    twophase_recorder = recorder.Recorder(folder / "own", steps=[5])
    twophase_recorder(5, model)
    (folder / "own" / "step-00000005.safetensors").write_bytes(_safetensors(model))


def _begin(folder: Path, model: nn.Module, x: torch.Tensor, plan: entk.Plan) -> None:
    """A kernel that was interrupted when all its shards were there."""
    before = entk.shards.SHARD_SECONDS, entk.shards.Shards.finish
    asked = []

    def stop(self, *_):
        asked.append(self.request)
        raise KeyboardInterrupt

    entk.shards.SHARD_SECONDS, entk.shards.Shards.finish = -1, stop
    try:
        (folder / "begin").mkdir()
        entk.write_ntk(folder / "begin" / "k.h5", model, x, plan=plan, by_layer=True)
    except KeyboardInterrupt:
        pass
    finally:
        entk.shards.SHARD_SECONDS, entk.shards.Shards.finish = before
    (folder / "begin" / "k.h5.parts").rename(folder / "k.h5.parts")
    (folder / "begin").rmdir()
    for shard in (folder / "k.h5.parts").glob("shard-*.h5"):  # without what tells its writer
        shard.rename(shard.with_name(f"{shard.stem.rpartition('-')[0]}.h5"))
    (folder / "asked.json").write_text(json.dumps(asked[0]))


def _safetensors(model: nn.Module) -> bytes:
    from safetensors.torch import save

    return save(model.state_dict())


def as_bytes(value: Any) -> bytes:
    """Of what a reader gave, to compare."""
    out = io.StringIO()
    out.write(repr(numbers(value)))
    return out.getvalue().encode()
