import os
import signal
from pathlib import Path

import pytest
import torch

# OMP_NUM_THREADS=1 still asks for one: idle threads that spin are dear on a busy machine
torch.set_num_threads(min(2, torch.get_num_threads()))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background has them ignore Ctrl-C, and what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Models this small leave nothing to share; waiting for a second thread takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def disk_calls(monkeypatch):
    """Paths that are synced and that files are renamed to, in the order of the calls."""
    calls, fsync, replace = [], os.fsync, Path.replace

    def sync(handle):
        calls.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def rename(old, new):
        calls.append(new)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    return calls
