"""A SLURM of two nodes in a folder of its own, started and stopped as root.

Each node is a slurmd with a host name and processes of its own (namespaces), so that a node can be
lost: the kill of its first process takes all that runs on it. With accounts a slurmdbd and its
mariadbd run beside it, reachable from this machine only.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue")
ACCOUNTS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sacct", "sacctmgr")
NODES = ("n1", "n2")
CONFIG = """
ClusterName=entk
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/{storage}
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=1
MinJobAge={remembers}
SlurmdTimeout=10
MessageTimeout=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n1 NodeAddr=127.0.0.1 Port={n1} CPUs=3 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 Port={n2} CPUs=3 RealMemory=8000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
BOOKS = """
AuthType=auth/none
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadbd}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


class NoClusterError(Exception):
    """One line: why there is none."""


class Cluster:
    """Its programs, by name; `n1` and `n2` are the nodes."""

    def __init__(self, folder: Path, accounts: bool, remembers: int):
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}
        names = ("slurmctld", "slurmdbd", "mariadbd", *NODES)
        values = {name: str(_free_port()) for name in names}
        values |= {"host": socket.gethostname().split(".")[0], "folder": str(folder)}
        values |= {"storage": "slurmdbd" if accounts else "none", "remembers": str(remembers)}
        (folder / "state").mkdir()
        self.file = folder / "slurm.conf"
        self.file.write_text(CONFIG.format(**values))
        os.environ["SLURM_CONF"] = str(self.file)
        try:
            if accounts:
                self._keep_books(values)
            self.start("slurmctld")
            for node in NODES:
                self.start(node)
            self.wait_until_idle()
        except BaseException:
            self.close()
            raise

    def start(self, name: str) -> None:
        """The controller, or a node."""
        if name in NODES:
            shell = f"hostname {name}; exec slurmd -D -N {name} -f {self.file}"
            apart = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
            self._run(name, *apart, "sh", "-c", shell)
        else:
            self._run(name, name, "-D", "-f", self.file)

    def stop(self, name: str) -> None:
        """A node is lost, with all that runs there; the controller writes down what it knows."""
        process = self.running.pop(name)
        process.kill() if name in NODES else process.terminate()
        process.wait(60)

    def wait_until_idle(self) -> None:
        command = ["sinfo", "--noheader", "--exact", "--states=idle", "--format=%D", "-p", "short"]
        self._until(lambda: _said(*command) == str(len(NODES)))

    def close(self) -> None:
        del os.environ["SLURM_CONF"]
        for name in reversed(tuple(self.running)):
            self.stop(name)

    def _run(self, name: str, *command: str | Path) -> None:
        # a kill of the tests takes it along
        command = ("setpriv", "--pdeathsig", "KILL", *command)
        with (self.folder / f"{name}.out").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.running[name] = process

    def _keep_books(self, values: dict[str, str]) -> None:
        data, bare = f"--datadir={self.folder}/db", "--no-defaults"
        plain = "--auth-root-authentication-method=normal"
        subprocess.run(
            ["mariadb-install-db", bare, data, "--user=root", plain, "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        door = f"--socket={self.folder}/db.sock"
        where = ("--bind-address=127.0.0.1", f"--port={values['mariadbd']}", door)
        pid = f"--pid-file={self.folder}/mariadbd.pid"
        self._run("mariadbd", "mariadbd", bare, data, "--user=root", pid, *where)
        sql = "grant all on *.* to slurm@localhost identified by 'slurm'"
        client = ["mariadb", bare, door, "--user=root", "--execute", sql]
        self._until(lambda: _said(*client) is not None)
        file = self.folder / "slurmdbd.conf"  # slurmdbd looks for it beside slurm.conf
        file.write_text(BOOKS.format(**values))
        file.chmod(0o600)
        self._run("slurmdbd", "slurmdbd", "-D")
        self._until(lambda: _said("sacctmgr", "-i", "add", "cluster", "entk") is not None)

    def _until(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and all(p.poll() is None for p in self.running.values()):
            if condition():
                return
            time.sleep(0.2)
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        logs = [line for file in sorted(files) for line in file.read_text().splitlines()]
        said = [line for line in logs if "error" in line or "fatal" in line] or logs or ["no log"]
        raise NoClusterError(f"SLURM does not start: {said[-1]}")


@contextmanager
def cluster(accounts: bool = False, remembers: int = 300) -> Iterator[Cluster]:
    """With SLURM_CONF set; `remembers`: seconds that SLURM itself knows of a job that has ended."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        found = Cluster(folder, accounts, remembers)
        try:
            yield found
        finally:
            found.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def missing(accounts: bool = False) -> str:
    """Why there can be none here; empty: there can."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root: run `make slurm` as root"
    for programs, packages in ((PROGRAMS, "slurm-wlm"), (ACCOUNTS, "slurmdbd mariadb-server")):
        lacking = [name for name in programs if shutil.which(name) is None]
        if lacking and (accounts or programs is PROGRAMS):
            names = ", ".join(lacking)
            return f"no {names}: on Debian and Ubuntu `apt-get install {packages}` as root"
    return ""


def _said(*command: str | Path) -> str | None:
    """What it printed; None: it failed."""
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
