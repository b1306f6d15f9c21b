import subprocess

import pytest

from tests.slurm.calls import LONGER, STARTED, queue, until
from tests.slurm.cluster import cluster, missing
from tests.twophase.launched import plain

KINDS = {
    "remembers": {},  # how a job ended, for minutes
    "forgets": {"remembers": 2},
    "accounts": {"accounts": True, "remembers": 2},
}


@pytest.fixture(scope="session", params=["remembers"])
def slurm(request):
    kind = KINDS[request.param]
    why = missing(kind.get("accounts", False))
    if why:
        pytest.skip(why)
    with cluster(**kind) as found:
        found.kind = request.param
        yield found


@pytest.fixture(autouse=True)
def _empty_queue(slurm):
    yield
    for process in STARTED:
        process.kill()
    STARTED.clear()
    subprocess.run(["scancel", "--user=root"], check=True)
    until(lambda: queue() == "")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mini.toml"
    path.write_text(LONGER)
    return path


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """The run of that file without a launcher."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "mini.toml").write_text(LONGER)
    return plain(folder / "mini.toml", folder)
