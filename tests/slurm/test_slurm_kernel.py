"""One kernel by torchrun over two nodes of a SLURM, as one types it; also where a node is lost."""

import os
import socket
import subprocess
import sys
import time

import pytest

from tests.slurm.calls import queue, until

pytestmark = pytest.mark.slurm
CASE = """
import time, torch, entk

class Slow(torch.nn.Linear):
    def forward(self, x):
        time.sleep(0.4)
        return super().forward(x)

def kernel():
    torch.manual_seed(0)
    model, x = Slow(3, 2), torch.randn(40, 3)
    plan = entk.plan_ntk(model, x, block=2, memory="1GB", rates="nominal")
    return {"model": model, "x": x, "plan": plan}
"""


def sent(folder):
    """The id of a job of two nodes that writes many.h5."""
    (folder / "case.py").write_text(CASE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = (
        f"OMP_NUM_THREADS=1 srun {sys.executable} -m torch.distributed.run "
        "--nnodes=2 --nproc-per-node=1 --rdzv-id=$SLURM_JOB_ID --rdzv-backend=c10d "
        f"--rdzv-endpoint={place} --local-addr=127.0.0.1"  # no name server knows n1
    )
    command = f"{torchrun} -m entk write many.h5 case.py:kernel"
    options = ["--parsable", "--nodes=2", "--ntasks-per-node=1", "--mem=2000", "--output=log"]
    batch = ["sbatch", *options, "--open-mode=append", f"--wrap={command}"]
    done = subprocess.run(batch, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def same_as_alone(folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "entk", "write", "one.h5", "case.py:kernel"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    assert (folder / "many.h5").read_bytes() == (folder / "one.h5").read_bytes()


def test_a_kernel_over_two_nodes(slurm, tmp_path):
    sent(tmp_path)
    until(lambda: queue() == "", 200)
    assert (tmp_path / "many.h5").exists(), (tmp_path / "log").read_text()
    same_as_alone(tmp_path)


def test_a_node_is_lost_and_the_job_requeued(slurm, tmp_path):
    job = sent(tmp_path)
    until(lambda: (tmp_path / "many.h5.parts" / "request.json").exists(), 100)
    time.sleep(2)
    slurm.stop("n2")
    assert not (tmp_path / "many.h5").exists()
    until(lambda: f"{job} wrap PENDING" in queue(), 100)
    slurm.start("n2")
    until(lambda: queue() == "", 400)
    assert (tmp_path / "many.h5").exists(), (tmp_path / "log").read_text()
    same_as_alone(tmp_path)
