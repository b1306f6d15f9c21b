"""What a process has switched on around a call changes no number, and is as it was afterwards."""

from __future__ import annotations

import threading

import torch
from torch import nn

from entk.precision import computing

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_threads_that_overlap_leave_the_precision_as_it_was():
    setting = torch.backends.cuda.matmul
    before, entered, left = setting.fp32_precision, threading.Event(), threading.Event()

    def first():
        with computing():
            entered.set()
            left.wait()

    thread = threading.Thread(target=first)
    setting.fp32_precision = "tf32"
    try:
        thread.start()
        entered.wait()
        with computing():
            left.set()
            thread.join()
            inside = setting.fp32_precision
        assert (inside, setting.fp32_precision) == ("ieee", "tf32")
    finally:
        setting.fp32_precision = before
