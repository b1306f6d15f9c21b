"""Bad data, checkpoints and calls of Recorder and Study: one line that names the offender."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import entk
import twophase
from tests.twophase.files import arrays, load, write
from twophase import kernels, recorder
from twophase.errors import UserError

X, Y = torch.ones(8, 3), torch.arange(8) % 2


def npz(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: load(write(folder / "d.npz", **changes))


def raw(name: str, content: bytes) -> Callable[[Path], Any]:
    """An .npz with one member more, or another in the place of x_train."""

    def call(folder: Path) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for key, array in arrays().items():
                if f"{key}.npy" != name:
                    part = io.BytesIO()
                    np.save(part, array)
                    file.writestr(f"{key}.npy", part.getvalue())
            file.writestr(name, content)
        (folder / "d.npz").write_bytes(out.getvalue())
        load(folder / "d.npz")

    return call


def header(text: str) -> bytes:
    line = text.encode() + b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def file(content: bytes) -> Callable[[Path], Any]:
    def call(folder: Path) -> None:
        (folder / "d.npz").write_bytes(content)
        load(folder / "d.npz")

    return call


def fifo(folder: Path) -> None:
    os.mkfifo(folder / "d.npz")
    load(folder / "d.npz")


def fifo_in_place_of_a_checkpoint(folder: Path) -> None:
    os.mkfifo(folder / "step-1.pt")
    recorder.read(folder / "step-1.pt")


def images(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part / "a").mkdir(parents=True)
        (folder / part / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    load(folder)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def study(folder: Path, model: Any = None, train: Any = (X, Y), **options: Any) -> twophase.Study:
    """A study of five checkpoints of a linear network."""
    net = nn.Linear(3, 2)
    record = twophase.Recorder(folder / "own", steps=range(5))
    for step in range(5):
        record(step, net)
    options = {"settings": ["kernels.probe=4"]} | options
    build = model or (lambda: nn.Linear(3, 2))
    return twophase.Study(
        folder / "study", folder / "own", build, train=train, test=(X, Y), **options
    )


def checkpoint(content: Any) -> Callable[[Path], Any]:
    def call(folder: Path) -> None:
        if isinstance(content, bytes):
            (folder / "step-1.pt").write_bytes(content)
        else:
            torch.save(content, folder / "step-1.pt")
        recorder.weights(recorder.read(folder / "step-1.pt"), folder / "step-1.pt")

    return call


def two_of_one_step(folder: Path) -> None:
    (folder / "a-1.pt").write_bytes(b"")
    (folder / "b-01.pth").write_bytes(b"")
    recorder.checkpoints(folder)


def kernel_of_another_run(folder: Path) -> None:
    asked = {}
    for step, x in enumerate((X, X, X + 1)):
        with entk.write_ntk(folder / f"{step}.h5", nn.Linear(3, 2), x) as kernel:
            asked[folder / f"{step}.h5"] = kernel.provenance["request"]
        if step < 2:
            kernels.check_alike(asked)  # other weights, the same samples: steps of one run
    kernels.check_alike(asked)


CALLS: dict[str, tuple[Callable[[Path], Any], str]] = {
    # arrays
    "no labels": (npz(y_train=None), "it has no array 'y_train'"),
    "objects": (npz(x_train=np.array([{}, {}], dtype=object)), "not readable as .npz"),
    "NaN": (npz(x_train=np.full((6, 4, 4), np.nan)), "x_train has NaN or infinity"),
    "infinity": (npz(x_test=np.full((3, 4, 4), np.inf)), "x_test has NaN or infinity"),
    "complex": (npz(x_train=np.ones((6, 4, 4), complex)), "x_train is complex128"),
    "negative label": (npz(y_train=np.array([-1, 0, 1, 0, 1, 2])), "y_train has label -1"),
    "huge label": (npz(y_train=np.array([10**12, 0, 1, 0, 1, 2])), "y_train has label 1000000000000, expected classes below"),
    "labels that are no integers": (npz(y_train=np.ones(6)), "y_train is float64 (6,), expected integers"),
    "other lengths": (npz(y_train=np.arange(5)), "y_train has 5 labels for 6 samples"),
    "no samples": (npz(x_test=np.ones((0, 4, 4)), y_test=np.arange(0)), "y_test has 0 labels"),
    "other shapes": (npz(x_test=np.ones((3, 5, 5), np.uint8)), "differ in shape"),
    "text": (npz(x_train=np.array(["a"] * 6)), "x_train is <U1"),
    "a pickle": (file(b"\x80\x04\x95"), "not readable as .npz"),
    "an npy": (file(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }") + b"0000"), "not readable as .npz"),
    "an empty file": (file(b""), "not readable as .npz"),
    "a pipe": (fifo, "not readable as .npz (there is no such file, looked for at /"),
    "shape bomb": (raw("x_train.npy", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }") + b"0000"), "says shape (1000000000000,) float32, which is more than"),
    "decompression bomb": (raw("x_train.npy", bytes(120 << 20)), "unpacks from"),
    "header with code": (raw("x_train.npy", header("__import__('os').mkdir('touched')")), "not readable as .npz"),
    "huge header": (raw("x_train.npy", header("{'descr': '<f4', " + " " * 20_000 + "}")), "not readable as .npz"),
    "damaged images": (images, "an image of train/ is not readable"),
    # recorder and study
    "no steps": (lambda f: twophase.Recorder(f, steps=[]), "steps=[], expected at least one whole number"),
    "steps below 0": (lambda f: twophase.Recorder(f, steps=[-1]), "steps=[-1], expected"),
    "steps of None": (lambda f: twophase.Recorder(f, steps=None), "steps=None, expected"),
    "steps of text": (lambda f: twophase.Recorder(f, steps=["0"]), "steps=['0'], expected"),
    "a step that is none": (lambda f: twophase.Recorder(f, steps=[0])("0", nn.Linear(2, 2)), "called with step='0'"),
    "a model that is none": (lambda f: twophase.Recorder(f, steps=[0])(0, None), "a NoneType, expected the number"),
    "no folder of checkpoints": (lambda f: recorder.checkpoints(f / "none"), "is no folder"),
    "no checkpoints": (lambda f: recorder.checkpoints(f), "has no checkpoints"),
    "two checkpoints of a step": (two_of_one_step, "are both of step 1"),
    "a checkpoint that runs code": (checkpoint(Evil()), "not readable as a checkpoint"),
    "a checkpoint of noise": (checkpoint(b"\x80\x02noise"), "not readable as a checkpoint"),
    "a checkpoint that is a pipe": (fifo_in_place_of_a_checkpoint, "there is no such file"),
    "an empty checkpoint": (checkpoint(b""), "not readable as a checkpoint"),
    "a checkpoint of a list": (checkpoint([1, 2]), "holds a list, expected a state dict"),
    "a checkpoint without tensors": (checkpoint({"a": 1}), "no state dict in it"),
    "too few checkpoints": (lambda f: (twophase.Recorder(f / "c", steps=[0])(0, nn.Linear(3, 2)), twophase.Study(f / "s", f / "c", lambda: nn.Linear(3, 2), train=(X, Y), test=(X, Y))), "at least three checkpoints, there are 1"),
    "state of another network": (lambda f: study(f, lambda: nn.Linear(3, 5)), "does not fit the network"),
    "a network in the place of its maker": (lambda f: study(f, nn.Linear(3, 2)), "build is a function that makes the network"),
    "data that is no pair": (lambda f: study(f, train=X), "train= and test= are pairs"),
    "data of lists": (lambda f: study(f, train=([1.0], [0])), "train= and test= are pairs"),
    "inputs of another shape": (lambda f: study(f, train=(torch.ones(8, 7), Y)), "the network does not take inputs (2, 7)"),
    "labels out of range": (lambda f: study(f, train=(X, Y + 3)), "labels go up to 4; expected [N, O] with an output for each"),
    "labels below 0": (lambda f: study(f, train=(X, Y - 1)), "int64 labels [N], none below 0"),
    "labels that are floats": (lambda f: study(f, train=(X, Y.float())), "labels torch.float32"),
    "twins without a step": (lambda f: study(f).twins(lambda state, a, b: state), "twins: no step to perturb at"),
    "a step without a checkpoint": (lambda f: study(f, settings=["kernels.probe=4", "chaos.t0=[9]"]), "chaos.t0"),
    "advance that gives nothing": (lambda f: study(f, settings=["kernels.probe=4", "chaos.t0=[0]"]).twins(lambda state, a, b: None), "advance returned: a NoneType, expected"),
    "a kernel of another run": (kernel_of_another_run, "2.h5 is not a kernel of the run that"),
    "one text as settings": (lambda f: study(f, settings="kernels.probe=4"), "is one text; expected a list of such"),
    "a maker of nothing": (lambda f: study(f, lambda: None), "build() gave NoneType, expected an nn.Module"),
    "unknown setting": (lambda f: study(f, settings=["kernel.probe=4"]), "unknown key 'kernel'"),
}  # fmt: skip


@pytest.mark.timeout(60)  # a pipe that is opened is waited for
@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = CALLS[name]
    with pytest.raises(UserError) as found:
        call(tmp_path)
    assert words in str(found.value)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) - len(str(tmp_path)) < 400
    assert not Path("touched").exists()
