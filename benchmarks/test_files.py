"""Distances of kernels on disk beside nothing but reading them: how near the file's own rate."""

import h5py
import numpy as np
import pytest
import torch

import entk

SIDE, CHUNK, COUNT = 5120, 640, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Kernels of 512 samples and 10 outputs, laid out as write_ntk lays them out."""
    folder, generator = tmp_path_factory.mktemp("kernels"), torch.Generator().manual_seed(0)
    paths = [folder / f"{i}.h5" for i in range(COUNT)]
    model = torch.nn.Linear(64, 10)
    for path in paths:
        x = torch.randn(SIDE // 10, 64, generator=generator)
        entk.write_ntk(path, model, x, plan=entk.plan_ntk(model, x, block=CHUNK // 10)).close()
    return paths


def read(paths):
    """By whole chunks into one buffer; HDF5 checks their sums."""
    rows = np.empty((CHUNK, SIDE), np.float32)
    for path in paths:
        with h5py.File(path) as file:
            for start in range(0, SIDE, CHUNK):
                file["kernel"].read_direct(rows, np.s_[start : start + CHUNK])


CASES = {
    "2 of 5120 x 5120": (2, lambda paths: entk.kernel_distance(*paths)),
    "4 of 5120 x 5120": (4, entk.kernel_distance_matrix),
}


@pytest.mark.parametrize("way", ["read", "entk"])
@pytest.mark.parametrize("case", CASES)
def test_files(case, way, timed, device, files):
    if device.type != "cpu":
        pytest.skip("HDF5 reads into the host's memory")
    count, distance = CASES[case]
    paths = files[:count]
    found = distance(paths)
    found = found if isinstance(found, float) else found[0, 1].item()
    a, b = (torch.from_numpy(h5py.File(path)["kernel"][:]).double() for path in paths[:2])
    assert abs(found - (1 - (a * b).sum() / a.norm() / b.norm()).item()) <= 1e-12
    work = {"read": read, "entk": distance}[way]
    timed(lambda: work(paths), op="files", case=case, way=way, rounds=9)
