"""What a kernel on disk is of: models, functions and arguments that only look alike are others."""

import functools
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import entk
from entk import lock, shards


class Scaled(nn.Module):
    """With a number that is no tensor of the state."""

    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.factor, self.layer = factor, nn.Linear(3, 2)

    def forward(self, x):
        return self.factor * self.layer(x)


class Factor:
    """As an argument of a model, or a function itself."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, params, x):
        return scaled(self.factor, params, x)


def scaled(factor, params, x):
    return factor * x @ params["w"]


def stack(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))


def function(factor):
    return lambda p, x: factor * x @ p["w"]


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
OUTLIER = torch.cat([1e5 * X[:1], X[1:]])  # where a GELU is a ReLU
WEIGHTS = {"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(2))}
KNOWN = 0


def by_global(y):
    return y[:, KNOWN : KNOWN + 1]


def by_list(indices):
    return lambda y: y.repeat(1, 800)[:, indices]


def long_list(at_700):
    indices = torch.zeros(1500, dtype=torch.long)
    indices[700] = at_700
    return by_list(indices)


class Shifted(nn.Linear):
    def forward(self, x, table):
        return super().forward(x) * float(table.sum())


def table(value):
    values = np.zeros(3000)
    values[0], values[1500] = 1.0, value
    return values


PAIRS = {
    "activation": [(stack(nn.ReLU()), X), (stack(nn.Tanh()), X)],
    "slope": [(stack(nn.LeakyReLU(0.1)), X), (stack(nn.LeakyReLU(0.2)), X)],
    "beside an outlier": [(stack(nn.ReLU()), OUTLIER), (stack(nn.GELU()), OUTLIER)],
    "attribute": [(Scaled(1.0), X), (Scaled(3.0), X)],
    "closure": [(function(1.0), X, WEIGHTS), (function(5.0), X, WEIGHTS)],
    "long index": [(Scaled(1.0), X, None, long_list(i)) for i in (0, 1)],
    "array": [(Shifted(3, 2), {"input": X, "table": table(v)}) for v in (0.0, 1.0)],
}


def write(path, model, x, params=None, select=None, **options):
    if isinstance(x, dict):
        x = (x["input"], x["table"])
    return entk.write_ntk(path, model, x, params=params, select=select, **options)


def stopped_after(tiles):
    """A progress function that ends the work once so many tiles are done."""

    def stop(done, total):
        if done == tiles:
            raise InterruptedError

    return stop


@pytest.mark.parametrize("begun", [False, True], ids=["finished", "begun"])
@pytest.mark.parametrize("name", PAIRS)
def test_another_model_of_the_same_tensors_is_refused(name, begun, tmp_path, monkeypatch):
    one, two = PAIRS[name]
    path = tmp_path / "k.h5"
    if name == "array":  # a layer has other weights each time it is made
        two = (one[0], two[1])
    if begun:
        monkeypatch.setattr(shards, "SHARD_SECONDS", -1)
        x = tuple(one[1].values()) if isinstance(one[1], dict) else one[1]
        extra = dict(zip(("params", "select"), one[2:], strict=False))
        plan = entk.plan_ntk(one[0], x, block=2, **extra)
        with pytest.raises(InterruptedError):
            write(path, *one, progress=stopped_after(1), plan=plan)
    else:
        write(path, *one).close()
    with pytest.raises(entk.ResumeError, match=r"outputs and gradients differ|arguments differ"):
        write(path, *two)
    write(path, *one).close()


class Multiplied(nn.Linear):
    def forward(self, x, by):
        return super().forward(x) * by.factor


def test_an_argument_without_a_repr_of_its_own_is_the_same_at_another_address(tmp_path):
    """As in another process; what it does counts."""
    model = Multiplied(3, 2)
    kept = Factor(1.0)
    entk.write_ntk(tmp_path / "k.h5", model, (X, kept)).close()
    entk.write_ntk(tmp_path / "k.h5", model, (X, Factor(1.0))).close()
    with pytest.raises(entk.ResumeError, match="outputs and gradients differ"):
        entk.write_ntk(tmp_path / "k.h5", model, (X, Factor(2.0)))


@pytest.mark.parametrize("of", [functools.partial(scaled, 2.0), Factor(2.0)])
def test_a_function_without_a_name(of, tmp_path):
    entk.write_ntk(tmp_path / "k.h5", of, X, params=WEIGHTS).close()
    entk.write_ntk(tmp_path / "k.h5", of, X, params=WEIGHTS).close()


def test_a_global_that_select_uses(tmp_path, monkeypatch):
    entk.write_ntk(tmp_path / "k.h5", Scaled(1.0), X, select=by_global).close()
    monkeypatch.setattr(sys.modules[__name__], "KNOWN", 1)
    with pytest.raises(entk.ResumeError, match="outputs and gradients differ"):
        entk.write_ntk(tmp_path / "k.h5", Scaled(1.0), X, select=by_global)


def test_the_same_select_is_the_same_in_another_process(tmp_path):
    """Its code holds code, whose repr has an address."""
    script = (
        "import sys, torch, entk; torch.manual_seed(0); m = torch.nn.Linear(3, 4)\n"
        "pick = lambda y: torch.stack([y[:, i] for i in (0, 2)], 1)\n"
        "entk.write_ntk(sys.argv[1], m, torch.ones(4, 3), select=pick).close()\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, tmp_path / "k.h5"], check=True)


def test_other_threads_are_the_same_request(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 3)), torch.randn(8, 300)
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        entk.write_ntk(tmp_path / "k.h5", model, x).close()
    torch.set_num_threads(before)


def begun(path, monkeypatch, tiles=2):
    """A kernel with so many shards of one tile; (model, samples)."""
    monkeypatch.setattr(shards, "SHARD_SECONDS", -1)
    model, x = Scaled(1.0), X
    plan = entk.plan_ntk(model, x, block=2)
    with pytest.raises(InterruptedError):
        entk.write_ntk(path, model, x, plan=plan, progress=stopped_after(tiles))
    assert len(list(path.with_name("k.h5.parts").glob("shard-*.h5"))) == tiles
    return model, x


def test_a_shard_that_cannot_be_opened_now_is_kept(tmp_path, monkeypatch):
    """No file handle is free: nothing is wrong with the shard."""
    path = tmp_path / "k.h5"
    model, x = begun(path, monkeypatch)
    real = shards.readable_tiles

    def without_handles(*arguments):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            return real(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    monkeypatch.setattr(shards, "readable_tiles", without_handles)
    with pytest.raises(entk.KernelFileError, match=r"Too many open files|unable to open"):
        entk.write_ntk(path, model, x)
    monkeypatch.setattr(shards, "readable_tiles", real)
    done = []
    entk.write_ntk(path, model, x, progress=lambda n, total: done.append(n)).close()
    assert done[0] == 2


def test_going_on_keeps_to_the_memory_of_now(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2)),
        torch.randn(40, 400),
    )
    plan = entk.plan_ntk(model, x, block=2, memory="1GB")
    assert plan.keep == 20
    path = tmp_path / "k.h5"
    monkeypatch.setattr(shards, "SHARD_SECONDS", -1)
    with pytest.raises(InterruptedError):
        entk.write_ntk(path, model, x, plan=plan, progress=stopped_after(3))
    seen = []
    engine = entk.write.Engine
    monkeypatch.setattr(
        entk.write, "Engine", lambda t, p, *a, **k: seen.append(p) or engine(t, p, *a, **k)
    )
    low = int((plan.peak - 150_000) / 0.75)
    with entk.write_ntk(path, model, x, memory=low) as file:
        assert file.plan.memory == plan.memory  # what it was begun with
    assert seen[0].peak <= 0.75 * low < plan.peak
    assert 2 <= seen[0].keep < 20
    assert seen[0].same_bits(plan)
    whole = entk.write_ntk(tmp_path / "whole.h5", model, x, plan=plan)
    whole.close()
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_too_little_memory_to_go_on_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "k.h5"
    model, x = begun(path, monkeypatch)
    with pytest.raises(entk.InputError, match="too small to go on with tiles of 2"):
        entk.write_ntk(path, model, x, memory="1KB")
    entk.write_ntk(path, model, x).close()


def test_a_lock_that_is_another_s_stays(tmp_path):
    """The folder goes and another comes under its name while the lock is held."""
    folder = tmp_path / "a"
    with entk.exclusive(folder):
        folder.rename(tmp_path / "b")
        with entk.exclusive(folder):
            assert (folder / lock.NAME).exists()
            (folder / "file").touch()
            theirs = (folder / lock.NAME).read_text()
            with pytest.raises(entk.LockedError), entk.exclusive(folder):
                pass
        (folder / lock.NAME).write_text(theirs)
    assert (folder / lock.NAME).exists()
