"""A SLURM of one node in a folder of its own: slurmctld and slurmd, started and stopped as root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
CONFIG = """
ClusterName=entk
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
JobRequeue=1
ReturnToService=2
KillWait=3
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NoClusterError(Exception):
    """One line: why there is none."""


@contextmanager
def cluster(cores: int = 3) -> Iterator[Path]:
    """The folder of its logs, with SLURM_CONF set; `cores` are jobs at once, on any machine."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise NoClusterError(
            f"no {', '.join(missing)}: on Debian and Ubuntu `apt-get install slurm-wlm` as root"
        )
    if os.geteuid() != 0:
        raise NoClusterError("slurmd needs root here; run `make slurm` as root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    ports = {"port": _port(), "node_port": _port()}
    file = folder / "slurm.conf"
    file.write_text(CONFIG.format(folder=folder, host=host, cores=cores, **ports))
    os.environ["SLURM_CONF"] = str(file)
    running = [
        subprocess.Popen([name, "-D", "-f", file], stdout=log, stderr=subprocess.STDOUT)
        for name in ("slurmctld", "slurmd")
        for log in [(folder / f"{name}.out").open("w")]
    ]
    try:
        _wait_until_idle(folder, running)
        yield folder
    finally:
        del os.environ["SLURM_CONF"]
        for process in reversed(running):
            process.terminate()
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_until_idle(folder: Path, running: list[subprocess.Popen], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.poll() is None for process in running):
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = [line for file in sorted(folder.glob("*.log")) for line in file.read_text().splitlines()]
    said = [line for line in logs if "error" in line or "fatal" in line] or logs or ["no log"]
    raise NoClusterError(f"SLURM does not start: {said[-1]}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SLURM is stopped all the same
    try:
        with cluster():
            command = [sys.executable, "-m", "pytest", "-m", "slurm", *sys.argv[1:]]
            sys.exit(subprocess.run(command).returncode)
    except NoClusterError as error:
        sys.exit(f"make slurm: {error}")
