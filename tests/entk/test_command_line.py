"""`python -m entk`: what it writes is what `write_ntk` writes, with and without torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

import entk
from entk import cli
from tests.ranks import ROOT, request

CASE = """
import torch
from tests.ranks import request
torch.set_num_threads(1)
def kernel():
    (model, x, _), options = request()
    return {"model": model, "x": x, **options}
def pair():
    return request()[0][:2]
def between():
    return request(rectangular=True)[0]
def number():
    return 3
def misspelt():
    return {"model": 1, "x": 2, "y": 3}
def own():
    return {**kernel(), "progress": False}
def mixed():
    return {**kernel(), 1: 2, "y": 3}
def trace():
    return {"model": pair()[0], "x": pair()[1], "outputs": "trace", "sketch": 16, "seed": 1}
def broken():
    (model, x, _), options = request()
    return model, x.double()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("case.py").write_text(CASE)
    return tmp_path


def run(arguments: list[str], capsys) -> str:
    cli.main(arguments)
    return capsys.readouterr().out


def process(*command: str, out: int | IO = subprocess.PIPE) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONUNBUFFERED": ""}  # as it is by itself
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


def test_torchrun_and_python_write_the_same_bytes(here, one_thread):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    many = process(*torchrun, "-m", "entk", "write", "many.h5", "case.py:kernel")
    assert many.returncode == 0, many.stderr
    assert many.stdout == "many.h5: [27, 27] float32\n"  # once
    (model, x, _), options = request()
    entk.write_ntk("one.h5", model, x, **options).close()
    assert Path("many.h5").read_bytes() == Path("one.h5").read_bytes()


def test_an_error_is_one_line_and_status_2(here):
    done = process("-m", "entk", "write", "k.h5", "case.py:broken")
    assert done.returncode == 2
    assert done.stderr.startswith("entk: ")
    assert done.stderr.count("\n") == 1


def test_options_and_pairs(here, one_thread, capsys):
    options = ["--outputs", "trace", "--by-layer", "--sketch", "16", "--seed", "2"]
    told = run(["write", "a.h5", "case.py:pair", *options, "--memory", "1GB"], capsys)
    assert told == "a.h5: [9, 9] float32\n"
    (model, x, _), _ = request()
    expected = entk.ntk(model, x, outputs="trace", sketch=16, seed=2, by_layer=True)
    with entk.open_kernel("a.h5") as file:
        torch.testing.assert_close(file[:], sum(expected.values()))
        assert file.layers == tuple(expected)
    assert run(["write", "b.h5", "case:between"], capsys) == "b.h5: [27, 15] float32\n"
    with pytest.raises(SystemExit):
        cli.main(["write", "a.h5", "case.py:pair"])
    assert "another request" in capsys.readouterr().err
    run(["write", "a.h5", "case.py:pair", "--no-resume"], capsys)
    with entk.open_kernel("a.h5") as file:
        assert file.shape == (27, 27)


def test_options_go_before_what_the_function_gives_also_where_they_are_what_is_usual(
    here, one_thread, capsys
):
    told = run(["write", "a.h5", "case.py:trace"], capsys)
    assert told == "a.h5: [9, 9] float32\n"
    options = ["--outputs", "all", "--seed", "0", "--backend", "auto"]
    assert run(["write", "b.h5", "case.py:trace", *options], capsys) == "b.h5: [27, 27] float32\n"
    with entk.open_kernel("b.h5") as file:
        assert file.provenance["request"]["seed"] == 0


def test_plan_distance_and_show(here, one_thread, capsys):
    (model, x, _), options = request()
    entk.write_ntk("a.h5", model, x, **options).close()
    entk.write_ntk("b.h5", model, x + 1, **options).close()
    expected = entk.kernel_distance_matrix(["a.h5", "b.h5"]).numpy()
    table = run(["distance", "a.h5", "b.h5", "--out", "d.npy"], capsys).splitlines()
    assert [line.split()[0] for line in table] == ["a.h5", "b.h5"]
    assert float(table[0].split()[2]) == pytest.approx(expected[0, 1], rel=1e-3)
    assert np.array_equal(np.load("d.npy"), expected)
    run(["distance", "a.h5", "b.h5", "--out", "d.csv"], capsys)
    rows = [line.split(",") for line in Path("d.csv").read_text().splitlines()]
    assert rows[0] == ["", "a.h5", "b.h5"]
    assert float(rows[1][2]) == expected[0, 1]
    shown = run(["show", "a.h5", "--spectrum"], capsys)
    assert "[9, 3, 9, 3] float32, outputs='all'" in shown
    largest = entk.spectrum("a.h5", k=5)[0].item()
    assert f"largest eigenvalues: {largest:.4g}, " in shown
    assert run(["plan", "case.py:kernel", "--memory", "2GB"], capsys).startswith(
        "eNTK [9, 3, 9, 3]"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["write", "k.h5", "case.py"], "'case.py', expected FILE.py:FUNCTION or MODULE:FUNCTION"),
        (["write", "k.h5", "none.py:f"], "there is no file none.py; check the path"),
        (["write", "k.h5", "no_module_x:f"], "there is no module no_module_x"),
        (["write", "k.h5", "case.py:f"], "case.py has no function f; check the name"),
        (["write", "k.h5", "case.py:number"], "case.py:number gave int, expected (model, x),"),
        (["write", "k.h5", "case.py:misspelt"], "case.py:misspelt gave 'y', which entk does"),
        (["write", "k.h5", "case.py:own"], "case.py:own gave 'progress', which entk does not take"),
        (["write", "k.h5", "case.py:mixed"], "case.py:mixed gave 1, which entk does not take"),
        (["write", "k.h5", ".case:pair"], ".case is relative to no package"),
        (["write", "no/k.h5", "case.py:pair"], "the folder no does not exist"),
        (["write", "k.h5", "case.py:pair", "--outputs", "x"], "outputs='x'"),
        (["show", "none.h5"], "no kernel at none.h5"),
        (["distance", "none.h5"], "no kernel at none.h5"),
        (["distance", "none.h5", "--out", "d.txt"], "--out d.txt: expected a name that ends in"),
        (
            ["write", "k" * 300, "case.py:pair"],
            f"path='{'k' * 79} cannot be used: File name",
        ),
    ],
)
def test_one_line_for_each_mistake(here, capsys, arguments, expected):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.startswith(f"entk: {expected}")
    assert told.count("\n") == 1


def test_a_table_that_cannot_be_replaced_is_kept(here, one_thread, capsys):
    (model, x, _), options = request()
    entk.write_ntk("a.h5", model, x, **options).close()
    Path("d.csv").mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main(["distance", "a.h5", "--out", "d.csv"])
    assert end.value.code == 2
    assert "Is a directory: " in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir()) == ["a.h5", "case.py", "d.csv"]


@pytest.mark.parametrize(("size", "said"), [("2", "environment variable"), ("many", "'many'")])
def test_half_an_environment_of_torchrun(here, monkeypatch, capsys, size, said):
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(SystemExit) as end:
        cli.main(["write", "k.h5", "case.py:pair"])
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert "WORLD_SIZE" in told
    assert said in told
    assert told.count("\n") == 1


def test_a_full_standard_output_is_one_line_and_status_2(here, one_thread):
    """The file is opened and read; only the last flush fails, after which Python would say 120."""
    (model, x, _), options = request()
    entk.write_ntk("a.h5", model, x, **options).close()
    with Path("/dev/full").open("w") as out:
        done = process("-m", "entk", "show", "a.h5", out=out)
    assert done.returncode == 2
    assert done.stderr.endswith("] No space left on device: 'standard output'\n")
    assert done.stderr.count("\n") == 1


def test_nobody_who_reads_is_no_error(here, one_thread):
    (model, x, _), options = request()
    entk.write_ntk("a.h5", model, x, **options).close()
    end, out = os.pipe()
    os.close(end)
    done = process("-m", "entk", "show", "a.h5", out=out)
    os.close(out)
    assert (done.returncode, done.stderr) == (141, "")
