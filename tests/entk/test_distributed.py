"""One kernel over several processes: the same bits for any number of them, and one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import indent

import pytest
import torch

import entk
from entk.peers import Peers, peers_of
from tests.ranks import finish, request, start

CASES = [
    *(
        {"outputs": o, "rectangular": r}
        for o in ("all", "diagonal", "trace")
        for r in (False, True)
    ),
    {"outputs": "sum"},
    {"by_layer": True},
    {"outputs": "trace", "sketch": 16, "seed": 4},
    {"outputs": "trace", "sketch": 16, "by_layer": True, "rectangular": True},
    {"block": 16},  # one tile: most ranks have none
]
SAME = """
import json
trio = dist.new_group([0, 1, 2])
groups = {n: dist.new_group(list(range(n))) for n in (1, 2, 4)}
for at, case in enumerate(json.loads(sys.argv[2])):
    arguments, options = request(**case)
    for n, group in groups.items():
        if rank < n:
            file = entk.write_ntk(f"{sys.argv[1]}/{at}-{n}.h5", *arguments, **options, group=group)
            file.close()
model = arguments[0]
kept = {k: v.clone() for k, v in model.state_dict().items()}
states = [{k: v * c + c**2 for k, v in kept.items()} for c in (1.0, 1.001, 1.3, 2.0)]
files = [*(f"{sys.argv[1]}/{at}-4.h5" for at in (0, 7)), torch.eye(27)]
entk.distance.BAND = entk.distance.PIECE = 100
entk.trajectory.PIECE = 20
dist.barrier()
for n, group in groups.items():
    if rank < n:
        far = entk.trajectory_distances(model, states, *arguments[1:], block=2, group=group)
        near = entk.kernel_distance_matrix(files, group=group)
        torch.save((far, near), f"{sys.argv[1]}/distances-{n}-{rank}.pt")
if rank == 0:
    far = entk.trajectory_distances(model, states, *arguments[1:], block=2)
    torch.save((far, entk.kernel_distance_matrix(files)), f"{sys.argv[1]}/distances-0-0.pt")
"""

ERRORS = """
from pathlib import Path
def attempt(name, call):
    try:
        call()
        print(name, "nothing")
    except entk.EntkError as error:
        said = str(error)[:4000].encode(errors="replace").decode()
        print(name, type(error).__name__, said)
class Broken(torch.nn.Linear):
    def forward(self, x):
        raise entk.InputError("\\udcff" + "long " * 2_000_000)
(model, x, z), options = request()
path = f"{sys.argv[1]}/shared/k.h5"
write = lambda *a, **k: entk.write_ntk(path, *a, group=trio, **k).close()
attempt("data", lambda: write(model, x + rank, **options))
attempt("outputs", lambda: write(model, x, outputs=["all", "trace", "trace"][rank]))
torch.set_num_threads(1 + rank // 2)
attempt("threads", lambda: write(model, x, **options))
torch.set_num_threads(1)
attempt("memory", lambda: entk.write_ntk(
    path, model, x, group=trio, memory=[None, "1GB", None][rank]))
attempt("trajectory", lambda: entk.trajectory_distances(
    model, [model.state_dict()], x, group=trio, memory=["1GB", "1GB", None][rank]))
attempt("argument", lambda: write(model, x, outputs="some" if rank == 1 else "all"))
attempt("folder", lambda: entk.write_ntk(f"{sys.argv[1]}/of {rank}/k.h5", model, x, group=trio))
states = [model.state_dict(), {k: v * (1 + (rank == 2)) for k, v in model.state_dict().items()}]
attempt("states", lambda: entk.trajectory_distances(model, states, x, group=trio))
far = entk.kernel_distance_matrix
attempt("kernels", lambda: far([x[:, 0, : 6 - rank // 2]], group=trio))
attempt("entries", lambda: far([x[:, 0], x[:, 0] + rank], group=trio))
attempt("text", lambda: write(Broken(2, 2) if rank == 1 else model, x, **options))
attempt("zero", lambda: far([x[:, 0], 0 * x[:, 0]], group=trio))
real = entk.shards.Shards.finish
def full(*a):
    raise entk.KernelFileError("no space")
entk.shards.Shards.finish = full
attempt("disk", lambda: write(model, x, **options))
entk.shards.Shards.finish = real
attempt("afterwards", lambda: write(model, x, **options))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """By groups of 1, 2 and 4 of four processes, in one start of them."""
    folder = tmp_path_factory.mktemp("ranks")
    for name in ("shared", "of 0", "of 1"):
        (folder / name).mkdir()
    told = finish(
        start(SAME + "if rank < 3:\n" + indent(ERRORS, " "), 4, folder, json.dumps(CASES))
    )
    (folder / "told.json").write_text(json.dumps(told[:3]))
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("at", range(len(CASES)), ids=lambda at: str(CASES[at]))
def test_the_file_is_the_same_bytes_for_any_number_of_ranks(made, tmp_path, one_thread, at, ranks):
    arguments, options = request(**CASES[at])
    entk.write_ntk(tmp_path / "k.h5", *arguments, **options).close()
    assert (made / f"{at}-{ranks}.h5").read_bytes() == (tmp_path / "k.h5").read_bytes()
    assert not list(made.glob("*.parts"))


def test_distances_are_the_same_bits_for_any_number_of_ranks(made):
    far, near = torch.load(made / "distances-0-0.pt")
    assert 0 < far[0, 1] < 1e-4 < far[0, 3]  # both passes were needed
    assert near[0, 1] < 1e-4 < near.max() < 1
    for n in (1, 2, 4):
        for r in range(n):
            others = torch.load(made / f"distances-{n}-{r}.pt")
            assert torch.equal(others[0], far), (n, r)
            assert torch.equal(others[1], near), (n, r)


def test_errors_are_told_to_all_and_the_group_goes_on(made):
    outs = json.loads((made / "told.json").read_text())
    told = [dict(line.split(" ", 1) for line in out.splitlines()) for out in outs]
    differs = "InputError rank {} asks for something else than rank 0: {}"
    for r, each in enumerate(told):
        assert each["data"].startswith(differs.format(1, "x_sha256 differ; make the same call")), r
        assert each["outputs"].startswith(differs.format(1, "outputs"))
        assert each["threads"].startswith(differs.format(2, "number of threads differ"))
        assert each["states"].startswith(differs.format(2, "state 1 differ"))
        assert each["memory"].startswith(differs.format(1, "memory differ"))
        assert each["trajectory"].startswith(differs.format(2, "memory differ"))
        assert each["entries"].startswith(differs.format(1, "kernel 1 differ"))
        assert each["kernels"].startswith(differs.format(2, "kernel 0 differ"))
        assert each["zero"].startswith("UndefinedDistanceError number 1's kernel is zero")
    assert told[1]["argument"].startswith("InputError outputs='some'")
    assert told[0]["argument"].startswith("DistributedError rank 1: InputError: outputs='some'")
    assert told[0]["argument"] == told[2]["argument"]
    assert told[0]["text"].startswith("DistributedError rank 1: InputError: ?long long")
    assert len(told[0]["text"]) < 3000
    assert told[2]["folder"].startswith("InputError")
    assert told[0]["folder"].startswith("DistributedError rank 2: InputError: the folder")
    assert told[0]["disk"] == "KernelFileError no space"
    assert told[1]["disk"].startswith("DistributedError rank 0: KernelFileError: no space")
    assert [each["afterwards"] for each in told] == ["nothing"] * 3


def test_a_group_that_there_is_not():
    (model, x, _), _ = request()
    with pytest.raises(entk.InputError, match=r"torch\.distributed is not initialised here; call"):
        entk.write_ntk("k.h5", model, x, group="world")
    assert not isinstance(peers_of(None), Peers)
