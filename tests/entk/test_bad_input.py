"""Arguments that cannot be used: one line that names the offender, from every function.

More stand beside what they are about: models and options of `ntk` in test_inputs.py, forms of
samples in test_samples.py, kernels in test_distance.py, test_similarity.py and their like.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import entk
from tests.cases import fn, of

MODEL, X, Y = nn.Linear(3, 2), torch.ones(2, 3), torch.ones(2, 1)
STATE = MODEL.state_dict()
K = torch.eye(4) + 1
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


class Bad(NamedTuple):
    call: Callable[[], Any]
    error: type[entk.EntkError]
    words: tuple[str, ...]


def bad(call: Callable[[], Any], *words: str, error: type = entk.InputError) -> Bad:
    return Bad(call, error, words)


def state(**entries: float) -> nn.Module:
    """The network with one entry of a parameter or buffer set."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    values = dict(model.state_dict())
    for name, value in entries.items():
        values[name.replace("_", ".", 1)].view(-1)[0] = value
    return model


def sparse_layer() -> nn.Module:
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    return layer


def with_entry(value: float) -> torch.Tensor:
    x = torch.ones(5, 3)
    x[3, 1] = value
    return x


ROOT = fn(lambda s, x: s.f(x).square().sqrt(), f=of(nn.Linear, 3, 2))()
with torch.no_grad():
    ROOT.f.weight.fill_(1.0)
    ROOT.f.bias.zero_()
LATER = torch.ones(20, 3)
LATER[1] = 0.0  # not among the few that are looked at first
HUGE = nn.Linear(3, 2)
with torch.no_grad():
    HUGE.weight.fill_(1.0)
COMPLEX = nn.Linear(3, 2, dtype=torch.complex64)
INTEGERS = nn.Module()
INTEGERS.w = nn.Parameter(torch.ones(2, 3, dtype=torch.int64), requires_grad=False)
MIXED = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2).double())
TWICE = {"a.b": torch.ones(2), "a": {"b": torch.ones(2)}}
PLAN = entk.plan_ntk(MODEL, X, rates="nominal")


def linear(params, x):
    return x @ params["w"]


CALLS = {
    # kinds of arguments
    "write_ntk to None": bad(lambda: entk.write_ntk(None, MODEL, X), "path=None, expected a string"),
    "write_ntk to a number": bad(lambda: entk.write_ntk(3, MODEL, X), "path=3, expected a string"),
    "open_kernel of None": bad(lambda: entk.open_kernel(None), "path=None, expected a string"),
    "strict": bad(lambda: entk.ntk(MODEL, X, strict="yes"), "strict='yes', expected True or False"),
    "by_layer": bad(lambda: entk.ntk(MODEL, X, by_layer="no"), "by_layer='no', expected True"),
    "by_layer of a plan": bad(lambda: entk.plan_ntk(MODEL, X, by_layer=1), "by_layer=1, expected"),
    "by_layer of an error": bad(lambda: entk.sketch_error(MODEL, X, sketch=8, by_layer=0), "by_layer=0, expected"),
    "resume": bad(lambda: entk.write_ntk("k.h5", MODEL, X, resume="no"), "resume='no', expected"),
    "progress": bad(lambda: entk.ntk(MODEL, X, progress=3), "progress=3, expected True, False or a"),
    "no states": bad(lambda: entk.trajectory_distances(MODEL, None, X), "states is NoneType"),
    "empty states": bad(lambda: entk.trajectory_distances(MODEL, [], X), "states is empty"),
    "states of None": bad(lambda: entk.trajectory_distances(MODEL, [None], X), "state 0 does not fit the model"),
    "one state": bad(lambda: entk.trajectory_distances(MODEL, STATE, X), "expected a list of state"),
    "state of another model": bad(lambda: entk.trajectory_distances(MODEL, [STATE, NET.state_dict()], X), "state 1 does not fit the model"),
    "scratch": bad(lambda: entk.trajectory_distances(MODEL, [STATE], X, scratch="/nowhere/to/be"), "the folder scratch='/nowhere/to/be' does not exist"),
    "no kernels": bad(lambda: entk.kernel_distance_matrix(None), "kernels is NoneType, expected a"),
    "a path for kernels": bad(lambda: entk.kernel_distance_matrix("k.h5"), "kernels is str, expected"),
    # models
    "no model": bad(lambda: entk.ntk(None, X), "model is NoneType, expected a torch.nn.Module"),
    "a state dict": bad(lambda: entk.ntk(STATE, X), "model is OrderedDict", "expected a torch.nn.Module"),
    "TorchScript": bad(lambda: entk.ntk(torch.jit.trace(MODEL, X), X), "model is TorchScript", "pass the module"),
    "complex parameters": bad(lambda: entk.ntk(COMPLEX, X), "'weight' is torch.complex64", "expected float32 or float64", error=entk.InputError),
    "integer parameters": bad(lambda: entk.ntk(INTEGERS, X, params=["w"]), "'w' is torch.int64", "expected float32 or float64"),
    "mixed dtypes": bad(lambda: entk.ntk(MIXED, X), "mix float32 and float64", "convert"),
    "no parameters": bad(lambda: entk.ntk(nn.ReLU(), X), "no trainable parameter", "params="),
    "function without params": bad(lambda: entk.ntk(linear, X), "model is function", "params="),
    "empty dict of params": bad(lambda: entk.ntk(linear, X, params={}), "params= is an empty dict"),
    "number among params": bad(lambda: entk.ntk(linear, X, params={"w": 3}), "params= has int at 'w'"),
    "key of params": bad(lambda: entk.ntk(linear, X, params={3: torch.ones(2)}), "params= has the key 3"),
    "params twice": bad(lambda: entk.ntk(linear, X, params=TWICE), "params= has 'a.b' twice"),
    "dict of params for a module": bad(lambda: entk.ntk(MODEL, X, params=STATE), "params= is a dict of values", "pass names"),
    "unknown parameter": bad(lambda: entk.ntk(MODEL, X, params=["wieght"]), "'wieght', which the model does not have", "weight, bias"),
    # numbers that are none
    "NaN parameter": bad(lambda: entk.ntk(state(**{"0_weight": math.nan}), X), "parameter '0.weight' has NaN or infinity in 1 of 12"),
    "infinite parameter": bad(lambda: entk.ntk(state(**{"2_bias": math.inf}), X), "parameter '2.bias' has NaN or infinity in 1 of 2"),
    "NaN parameter of a distance": bad(lambda: entk.kernel_distance(state(), state(**{"0_bias": math.nan}), X), "parameter '0.bias' has NaN"),
    "NaN parameter of a jacobian": bad(lambda: entk.jacobian(state(**{"0_bias": math.nan}), X), "parameter '0.bias' has NaN"),
    "NaN parameter of a file": bad(lambda: entk.write_ntk("k.h5", state(**{"0_bias": math.nan}), X), "parameter '0.bias' has NaN"),
    "NaN in a state": bad(lambda: entk.trajectory_distances(MODEL, [{**STATE, "bias": torch.tensor([math.nan, 0])}], X), "parameter 'bias' has NaN"),
    "NaN buffer": bad(lambda: entk.ntk(state(**{"1_running_var": math.nan}), X), "outputs are not finite"),
    "NaN sample": bad(lambda: entk.ntk(MODEL, with_entry(math.nan)), "x has NaN or infinity in sample 3"),
    "infinite sample": bad(lambda: entk.ntk(MODEL, with_entry(-math.inf)), "x has NaN or infinity in sample 3"),
    "NaN in z": bad(lambda: entk.ntk(MODEL, X, with_entry(math.nan)), "z has NaN or infinity in sample 3"),
    "NaN in a tuple": bad(lambda: entk.ntk(Sum(), (X.repeat(3, 1)[:5], with_entry(math.nan))), "x[1] has NaN or infinity in sample 3"),
    "infinite derivative": bad(lambda: entk.ntk(ROOT, 0 * X), "a derivative of the outputs has NaN or infinity at linear (f.weight, f.bias)", "jacobian()"),
    "infinite derivative later": bad(lambda: entk.ntk(ROOT, LATER), "the kernel has NaN or infinity between samples 0 to 19", "jacobian"),
    "infinite derivative of a layer": bad(lambda: entk.ntk(ROOT, LATER, by_layer=True), "of layer 'f' has NaN or infinity"),
    "infinite derivative in a file": bad(lambda: entk.write_ntk("k.h5", ROOT, LATER), "the kernel has NaN or infinity"),
    "overflow": bad(lambda: entk.ntk(HUGE, 1e30 * X), "the kernel has NaN or infinity", "model.double()"),
    # samples
    "no samples": bad(lambda: entk.ntk(MODEL, X[:0]), "x has shape (0, 3), expected at least one sample"),
    "a scalar": bad(lambda: entk.ntk(MODEL, torch.tensor(1.0)), "x has shape (), expected at least one"),
    "no z": bad(lambda: entk.ntk(MODEL, X, X[:0]), "z has shape (0, 3), expected at least one sample"),
    "a list of numbers": bad(lambda: entk.ntk(MODEL, [1.0, 2.0]), "x holds no tensor"),
    "an array": bad(lambda: entk.ntk(MODEL, X.numpy()), "x is ndarray, expected a tensor"),
    "nested samples": bad(lambda: entk.ntk(MODEL, torch.nested.nested_tensor([X[0], X[1]])), "x is torch.float32 with layout nested"),
    "quantised samples": bad(lambda: entk.ntk(MODEL, torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)), "x is torch.quint8"),
    "a sparse parameter": bad(lambda: entk.ntk(sparse_layer(), X), "parameter 'weight' is torch.sparse_coo"),
    "a sparse kernel": bad(lambda: entk.kernel_distance(K.to_sparse(), K), "kernel is torch.sparse_coo"),
    "a kernel of another byte order": bad(lambda: entk.kernel_distance(K.numpy().astype(">f4"), K), "kernel is an array that torch cannot take"),
    "samples by number": bad(lambda: entk.ntk(MODEL, {0: X}), "x has the key 0, expected names"),
    "a string": bad(lambda: entk.ntk(MODEL, "data"), "x is str, expected a tensor"),
    "double samples": bad(lambda: entk.ntk(MODEL, X.double()), "x is torch.float64", "convert one"),
    "complex samples": bad(lambda: entk.ntk(MODEL, X.to(torch.complex64)), "x is torch.complex64", "real numbers"),
    "samples elsewhere": bad(lambda: entk.ntk(MODEL, X.to("meta")), "x is on meta but the model is on cpu"),
    "z of another shape": bad(lambda: entk.ntk(MODEL, X, torch.ones(2, 4)), "z has samples of shape (4,)"),
    "sparse samples": bad(lambda: entk.ntk(MODEL, X.to_sparse()), "layout torch.sparse_coo", ".to_dense()"),
    # options
    "outputs": bad(lambda: entk.ntk(MODEL, X, outputs="mean"), "outputs='mean', expected one of"),
    "outputs of another kind": bad(lambda: entk.ntk(MODEL, X, outputs=None), "outputs=None, expected one of"),
    "outputs of a jacobian": bad(lambda: entk.jacobian(MODEL, X, outputs="trace"), "outputs='trace', expected one of"),
    "select out of range": bad(lambda: entk.ntk(MODEL, X, select=[5]), "select=[5]", "2 outputs per sample"),
    "empty select": bad(lambda: entk.ntk(MODEL, X, select=[]), "select= is empty"),
    "select of another kind": bad(lambda: entk.ntk(MODEL, X, select=1.5), "select=1.5, expected a function"),
    "backend": bad(lambda: entk.ntk(MODEL, X, backend="cuda"), "backend='cuda', expected one of"),
    "triton on the CPU": bad(lambda: entk.ntk(MODEL, X, backend="triton"), "backend='triton' cannot serve", error=entk.BackendUnavailableError),
    "precision": bad(lambda: entk.ntk(MODEL, X, precision="fp8"), "precision='fp8'"),
    "memory": bad(lambda: entk.ntk(MODEL, X, memory=-1), "memory=-1, expected a positive number"),
    "memory in words": bad(lambda: entk.ntk(MODEL, X, memory="lots"), "memory='lots', expected bytes"),
    "too little memory": bad(lambda: entk.ntk(MODEL, X, memory=10), "too small: tiles of 1 samples need"),
    "block": bad(lambda: entk.plan_ntk(MODEL, X, block=0), "block=0, expected a number of samples"),
    "strategy": bad(lambda: entk.plan_ntk(MODEL, X, strategy="fast"), "strategy='fast', expected one of"),
    "rates": bad(lambda: entk.plan_ntk(MODEL, X, rates="quick"), "rates='quick', expected None"),
    "negative rate": bad(lambda: entk.Rates(rows=-1.0), "Rates(rows=-1.0), expected a positive"),
    "infinite rate": bad(lambda: entk.Rates(memory=math.inf), "Rates(memory=inf), expected a positive"),
    "rate in words": bad(lambda: entk.Rates(pairs="fast"), "Rates(pairs='fast'), expected a positive"),
    "sketch": bad(lambda: entk.ntk(MODEL, X, sketch=7), "sketch=7, expected a multiple of 8"),
    "seed without sketch": bad(lambda: entk.ntk(MODEL, X, seed=3), "seed=3 without sketch="),
    "seed": bad(lambda: entk.ntk(MODEL, X, sketch=8, seed=0.5), "seed=0.5, expected a whole number"),
    "error of no sketch": bad(lambda: entk.sketch_error(MODEL, X, sketch=None), "sketch=None, expected a number"),
    "plan of others": bad(lambda: entk.ntk(MODEL, X.repeat(2, 1), plan=PLAN), "the plan was made for samples=(2, 2)", "plan_ntk"),
    "plan of another kind": bad(lambda: entk.ntk(MODEL, X, plan="fast"), "plan='fast', expected a plan of plan_ntk"),
    "plan that is no JSON": bad(lambda: entk.Plan.from_json("{"), "this is not a plan"),
    "plan of a list": bad(lambda: entk.Plan.from_json("[]"), "this is not a plan: Plan is [], expected an object"),
    "plan nested deep": bad(lambda: entk.Plan.from_json("[" * 100_000), "this is not a plan: nested too deep"),
    "plan with a strange key": bad(lambda: entk.Plan.from_json(PLAN.to_json()[:-1] + ', "speed": 1}'), "the field 'speed'"),
    "plan with NaN": bad(lambda: entk.Plan.from_json(PLAN.to_json().replace('"chunk": 2', '"chunk": NaN')), "NaN is no JSON"),
    "plan of no samples": bad(lambda: entk.Plan.from_json(PLAN.to_json().replace('"samples": [2, 2]', '"samples": [0, 0]')), "a plan cannot have", "samples=(0, 0)"),
    "plan of block 0": bad(lambda: entk.Plan.from_json(PLAN.to_json().replace('"block": 2', '"block": 0')), "a plan cannot have", "block=0"),
    "plan of a wrong shape": bad(lambda: entk.Plan.from_json(PLAN.to_json().replace('"shape": [2, 2, 2, 2]', '"shape": [2, 2, 2, 9]')), "a plan cannot have shape=(2, 2, 2, 9)"),
    "plan with a text": bad(lambda: entk.Plan.from_json(PLAN.to_json().replace('"keep": ', '"keep": "all", "kept": ')), "this is not a plan"),
    # training mode
    "batch norm in training": bad(lambda: entk.ntk(state().train(), X), "layer '1' (BatchNorm1d) is in training mode", "model.eval()", error=entk.ModelStateError),
    "dropout on": bad(lambda: entk.ntk(nn.Sequential(MODEL, nn.Dropout()).train(), X), "layer '1' (Dropout) is in training mode", "model.eval()", error=entk.ModelStateError),
    # kernels
    "kernel of text": bad(lambda: entk.kernel_distance(K, [[1.0]]), "kernel is list, expected a tensor"),
    "integer kernel": bad(lambda: entk.kernel_distance(K, K.long()), "kernel is torch.int64, expected floating"),
    "complex kernel": bad(lambda: entk.kernel_distance(K, K.to(torch.complex64)), "kernel is torch.complex64, expected floating"),
    "kernels of other shapes": bad(lambda: entk.kernel_distance(K, K[:3, :3]), "has shape (4, 4) but", "(3, 3)"),
    "a vector": bad(lambda: entk.kernel_distance(K[0], K[0]), "has shape (4,), expected [N, M]"),
    "zero kernel": bad(lambda: entk.kernel_distance(K, 0 * K), "kernel is zero, so it has no direction", error=entk.UndefinedDistanceError),
    "NaN kernel": bad(lambda: entk.kernel_distance(K, math.nan * K), "kernel contains NaN or infinity", error=entk.UndefinedDistanceError),
    "NaN kernel of an array": bad(lambda: entk.kernel_distance(np.full((4, 4), math.nan), K.numpy()), "kernel contains NaN", error=entk.UndefinedDistanceError),
    "no file": bad(lambda: entk.kernel_distance("none.h5", K), "no kernel at none.h5", "check the path", error=entk.KernelFileError),
    "spectrum of a rectangle": bad(lambda: entk.spectrum(K[:, :2]), "shape (4, 2)", "square"),
    "labels that do not fit": bad(lambda: entk.alignment(K, torch.ones(3, 1)), "3", "4"),
    "cka of too few": bad(lambda: entk.cka(K[:2, :2], K[:2, :2], unbiased=True), "at least four"),
    "regression without labels": bad(lambda: entk.kernel_regression(K, torch.ones(3, 1)), "3", "4"),
    "negative ridge": bad(lambda: entk.kernel_regression(K, torch.ones(4, 1), ridge=-1.0), "ridge=-1.0"),
    "operator on a wrong vector": bad(lambda: entk.ntk_operator(MODEL, X) @ torch.ones(3), "(3,)"),
    # files and folders
    "no folder": bad(lambda: entk.write_ntk("a/b/k.h5", MODEL, X), "the folder a/b does not exist; create it"),
    "a folder as a kernel": bad(lambda: entk.open_kernel("."), "no kernel at ., which is a folder", error=entk.KernelFileError),
    "a folder in the kernel's place": bad(lambda: entk.write_ntk(folder("d.h5"), MODEL, X), "path='d.h5' is a folder"),
    "a file as a folder": bad(lambda: entk.write_ntk(text("f") / "k.h5", MODEL, X), "f does not exist"),
    "an empty file": bad(lambda: entk.open_kernel(text("e.h5")), "e.h5 is not readable HDF5", "write it again", error=entk.KernelFileError),
    "a kernel of others": bad(lambda: entk.open_kernel(others("o.h5")), "has format None, expected", error=entk.KernelFileError),
    "a kernel of a newer version": bad(lambda: entk.open_kernel(others("n.h5", "entk-kernel-9")), "has format 'entk-kernel-9', expected", error=entk.KernelFileError),
    "a file in the shards' place": bad(lambda: entk.write_ntk(text("k.h5.parts").with_name("k.h5"), MODEL, X), "k.h5.parts", error=entk.KernelFileError),
}  # fmt: skip


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(3, 2)

    def forward(self, x, y):
        return self.f(x + y)


def folder(name: str) -> Path:
    Path(name).mkdir()
    return Path(name)


def text(name: str) -> Path:
    Path(name).write_text("")
    return Path(name)


def others(name: str, form: str | None = None) -> Path:
    with h5py.File(name, "w") as file:
        file["kernel"] = np.eye(3)
        if form is not None:
            file.attrs["format"] = np.bytes_(form)
    return Path(name)


@pytest.mark.parametrize("name", CALLS)
def test_one_line_that_names_the_offender(name, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(entk.EntkError) as found:
        CALLS[name].call()
    message = str(found.value)
    assert type(found.value) is CALLS[name].error, message
    for words in CALLS[name].words:
        assert words in message
    assert "\n" not in message
    assert len(message) < 400
    assert not list(tmp_path.rglob("*.tmp"))


def test_data_that_a_model_copes_with_is_no_error():
    """As a mask of -inf for attention is, or NaN for what is missing."""
    model = fn(lambda s, x: s.f(x.nan_to_num(0, 0, 0)), f=of(nn.Linear, 3, 2))()
    x = with_entry(math.nan)
    assert torch.equal(entk.ntk(model, x), entk.ntk(model, x.nan_to_num(0)))
