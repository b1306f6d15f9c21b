"""A sample of `make torture`, and disks that really are full, read-only or not there."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import entk
import twophase
from tests.ranks import ROOT
from tests.torture import faults
from tests.torture.mounted import disk
from twophase.disk import write_atomic

SAMPLE = ("kill", "kill twice", "ENOSPC", "EIO", "power loss")


@pytest.mark.skipif(faults.COMPILER is None, reason="needs a C compiler, cc or gcc")
@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD and /proc of Linux")
def test_a_sample_of_faults_is_survived(tmp_path):
    out = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.torture", "--short", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    counts = json.loads(out.read_text())
    assert {key.split(", ")[1] for key in counts} == set(SAMPLE)
    assert all(count["tried"] > 1 for count in counts.values())
    assert [count["wrong"] for count in counts.values() if count["wrong"]] == []
    assert done.returncode == 0


MODEL, X = torch.nn.Linear(40, 10), torch.randn(60, 40, generator=torch.manual_seed(0))


def finished(path: Path) -> None:
    """The kernel is there, and it is the one that a free disk gives."""
    with entk.write_ntk(path, MODEL, X) as file:
        assert torch.equal(file[:], entk.ntk(MODEL, X).reshape(600, 600))
    assert not path.with_name(path.name + ".parts").exists()


def test_a_limit_on_the_size_of_files(tmp_path):
    """RLIMIT_FSIZE: 1.44 MB are more than 1 MB; then the limit is lifted."""
    path, before = tmp_path / "k.h5", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(entk.KernelFileError, match=r"File too large.*finished shards are kept"):
            entk.write_ntk(path, MODEL, X)
        with pytest.raises(twophase.UserError, match=r"a\.bin could not be written .*run again"):
            write_atomic(tmp_path / "a.bin", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    assert sorted(p.name for p in tmp_path.glob("*")) == ["k.h5.parts"]
    finished(path)


@pytest.fixture
def small(tmp_path):
    """A disk of 1 MiB."""
    with disk(tmp_path / "small", "1m"):
        yield tmp_path / "small"


def test_a_disk_that_is_full(small):
    path = small / "k.h5"
    with pytest.raises(entk.KernelFileError, match=r"No space left.*finished shards are kept"):
        entk.write_ntk(path, MODEL, X)
    with pytest.raises(twophase.UserError, match="No space left on device"):
        write_atomic(small / "a.bin", bytes(2 << 20))
    assert not path.exists()
    assert not (small / "a.bin").exists()
    shutil.copytree(small, small.parent / "larger")
    finished(small.parent / "larger" / "k.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    folder = tmp_path / "r"
    folder.mkdir(mode=0o500)
    with pytest.raises(entk.KernelFileError, match=r"k\.h5\.parts cannot be written to .*denied"):
        entk.write_ntk(folder / "k.h5", MODEL, X)
    with pytest.raises(twophase.UserError, match="Permission denied"):
        write_atomic(folder / "a.bin", b"")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(entk.InputError, match="does not exist; create it first"):
        entk.write_ntk(tmp_path / "none" / "k.h5", MODEL, X)


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "k.h5").mkdir()
    with pytest.raises(entk.InputError, match=r"k\.h5' is a folder"):
        entk.write_ntk(tmp_path / "k.h5", MODEL, X)
    (tmp_path / "file").touch()
    recorder = twophase.Recorder(tmp_path / "file" / "checkpoints", steps=[0])
    with pytest.raises(twophase.UserError, match=r"could not be written .*Not a directory"):
        recorder(0, MODEL)
