"""A private SLURM cluster in a directory, on the loopback: the real slurmctld, and a real slurmd for each node.

It needs no root, systemd or munge, and cgroups only where asked; it is ready in about a second. Its GPUs are links to
/dev/null: SLURM assigns them and sets CUDA_VISIBLE_DEVICES as it does for real GPUs. Read in slurm 22.05.8 (Debian 12).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")  # where Debian puts daemons; not on everybody's PATH
CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/freezer"))  # of version 1, in which SLURM confines jobs
PARTITIONS = "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP"


def may_confine() -> bool:
    """Return whether this machine lets us make the cgroups in which SLURM confines jobs."""
    return all(os.access(folder, os.W_OK) for folder in CGROUPS)


def free_ports(count: int) -> list[int]:
    """Return ports that are free now and are below those that the kernel gives to clients."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randint(20_000, 32_000)
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                ports.append(port)
        return ports


class Cluster:
    """`with Cluster() as cluster: cluster.run("sbatch", ...)`. All its processes end with the block."""

    controller = "127.0.0.1"

    def __init__(
        self,
        nodes: int = 2,
        cpus: int = 8,
        memory_mb: int = 16_000,
        gpus: int = 2,
        settings: dict[str, Any] | None = None,
        partitions: str = PARTITIONS,
        accounting: bool = False,
        confined: bool = False,
    ) -> None:
        """`confined`: the kernel enforces the memory of jobs, by cgroups; else SLURM looks at it now and then."""
        self.base = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets hold 107 bytes
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.cpus, self.memory_mb, self.gpus = cpus, memory_mb, gpus
        self.settings, self.partitions, self.accounting = settings or {}, partitions, accounting
        self.confined = confined
        self.daemons: dict[str, subprocess.Popen] = {}

    @property
    def config(self) -> Path:
        return self.base / "etc" / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user of this cluster. Without accounting, its PATH has no sacct."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "R1Z_"))}
        return {**plain, "SLURM_CONF": str(self.config), "PATH": f"{self.base / 'bin'}:{self._path()}"}

    def _path(self) -> str:
        """The PATH of a site without accounting: it has every program but sacct."""
        if self.accounting:
            return os.environ["PATH"]
        return os.pathsep.join(
            folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "sacct").exists()
        )

    def _place(self, node: str) -> str:
        """Return a node's host name and address, as slurm.conf has them."""
        return f"NodeHostname={socket.gethostname().split('.')[0]} NodeAddr=127.0.0.1"

    def _inside(self, node: str) -> list[str]:
        """Return a command prefix that executes the rest of the command on a node."""
        return []

    def _link_programs(self) -> None:
        """Fill bin/ with links to the programs of the folders that have sacct, but without sacct."""
        for folder in os.environ["PATH"].split(os.pathsep):
            if self.accounting or not Path(folder, "sacct").exists():
                continue
            for program in Path(folder).iterdir():
                with contextlib.suppress(FileExistsError):
                    if program.name != "sacct":
                        (self.base / "bin" / program.name).symlink_to(program)

    def write(self) -> None:
        """Write the configuration files."""
        for folder in ("etc", "state", "spool", "log", "run", "dev", "bin", "tmp"):
            (self.base / folder).mkdir()
        self.port, *ports = free_ports(len(self.nodes) + 3)
        self.dbd_port, self.database_port = ports[-2:]
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}({self.controller})",
            "SlurmctldPort": self.port,
            "AuthType": "auth/none",
            "CredType": "cred/none",
            "SlurmUser": user,
            "SlurmdUser": user,
            "StateSaveLocation": self.base / "state",
            "SlurmdSpoolDir": self.base / "spool" / "%n",
            "SlurmctldPidFile": self.base / "run" / "slurmctld.pid",
            "SlurmdPidFile": self.base / "run" / "slurmd.%n.pid",
            "SlurmctldLogFile": self.base / "log" / "slurmctld.log",
            "SlurmdLogFile": self.base / "log" / "slurmd.%n.log",
            "MailProg": "/bin/true",
            "RebootProgram": "/bin/true",
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            # no cgroups, no affinity: runs in any container, on fewer cores than the nodes claim
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SlurmdParameters": "config_overrides",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": 100,
            "GresTypes": "gpu",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=1",
            "JobAcctGatherParams": "OverMemoryKill",
            "PropagateResourceLimits": "NONE",
            # schedule at once, remember ended jobs for five minutes, as most sites do
            "SchedulerParameters": "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0",
            "ReturnToService": 2,
            "MinJobAge": 300,
            "KillWait": 5,
            # a slow answer of a busy machine must not count as a failed node or as a job that did not start
            "SlurmdTimeout": 300,
            "BatchStartTimeout": 120,
            "MessageTimeout": 60,
            "MaxArraySize": 1001,
            "MaxJobCount": 20_000,
        }
        if self.confined:
            settings |= {
                "ProctrackType": "proctrack/cgroup",
                "TaskPlugin": "task/cgroup",
                "JobAcctGatherParams": "NoOverMemoryKill",
            }
        if self.accounting:
            settings |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": self.dbd_port,
            }
        lines = [f"{key}={value}" for key, value in (settings | self.settings).items()]
        gres = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        lines.append(
            f"NodeName=DEFAULT CPUs={self.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={self.cpus} "
            f"ThreadsPerCore=1 RealMemory={self.memory_mb}{gres}"
        )
        lines += [
            f"NodeName={node} {self._place(node)} Port={port}" for node, port in zip(self.nodes, ports, strict=False)
        ]
        self.config.write_text("\n".join([*lines, self.partitions]) + "\n")
        # naming v1 skips slurmd's look at /sys/fs/cgroup, which is not mounted everywhere
        (self.base / "etc" / "cgroup.conf").write_text(
            f"CgroupAutomount=no\nCgroupPlugin=cgroup/v1\nConstrainRAMSpace={'yes' if self.confined else 'no'}\n"
        )
        for number in range(self.gpus):
            (self.base / "dev" / f"gpu{number}").symlink_to("/dev/null")  # gres.conf wants a character device
        if self.gpus:
            devices = f"{self.base}/dev/gpu[0-{self.gpus - 1}]" if self.gpus > 1 else f"{self.base}/dev/gpu0"
            gres_line = f"NodeName={','.join(self.nodes)} Name=gpu File={devices}\n"
            (self.base / "etc" / "gres.conf").write_text(gres_line)
        self._link_programs()

    def __enter__(self) -> Cluster:
        try:
            self.write()
            if self.accounting:
                self._start_accounting()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            self.wait(self._all_idle, "nodes idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stop()

    def start_controller(self, *options: str) -> None:
        """Start slurmctld; with "-c" it forgets every job."""
        self._spawn("slurmctld", "slurmctld", "-D", "-i", *options)
        self.wait(lambda: self._listens(self.port), "slurmctld")

    def stop_controller(self) -> None:
        """Kill slurmctld."""
        daemon = self.daemons.pop("slurmctld")
        daemon.kill()
        daemon.wait()

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        (self.base / "spool" / node).mkdir(exist_ok=True)
        self._spawn(node, "slurmd", "-D", "-N", node)

    def _start_accounting(self) -> None:
        """Start MariaDB and slurmdbd, and wait until it answers."""
        socket_file, user = self.base / "run" / "db", getpass.getuser()
        data = f"--datadir={self.base / 'db'}"
        # native aio wants locked memory, which a container may not have
        common = ["--no-defaults", f"--user={user}", data, f"--tmpdir={self.base}/tmp", "--innodb-use-native-aio=0"]
        install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True)
        limits = ["--innodb-lock-wait-timeout=900", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=8M"]
        where = [f"--socket={socket_file}", "--bind-address=127.0.0.1", f"--port={self.database_port}"]
        self._spawn("mariadbd", "mariadbd", *common, *limits, *where, "--skip-name-resolve")
        sql = "create database slurm_acct_db; grant all on *.* to slurm@'127.0.0.1' identified by 'x'"
        ask = ["mariadb", "--no-defaults", "-S", str(socket_file), "-u", "root", "-e", sql]
        self.wait(lambda: subprocess.run(ask, capture_output=True).returncode == 0, "mariadbd")
        settings = {
            "AuthType": "auth/none",
            "SlurmUser": user,
            "DbdHost": socket.gethostname().split(".")[0],
            "DbdAddr": "127.0.0.1",
            "DbdPort": self.dbd_port,
            "PidFile": self.base / "run" / "slurmdbd.pid",
            "LogFile": self.base / "log" / "slurmdbd.log",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": self.database_port,
            "StorageUser": "slurm",
            "StoragePass": "x",
        }
        file = self.base / "etc" / "slurmdbd.conf"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        file.chmod(0o600)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self.wait(lambda: self._listens(self.dbd_port), "slurmdbd")

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        path = os.pathsep.join((os.environ["PATH"], *SBIN))
        found = shutil.which(program, path=path)
        assert found, f"{program} must be installed; do: apt-get install slurmctld slurmd slurm-client"
        with open(self.base / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [*(self._inside(name) if name in self.nodes else []), found, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "PATH": path},
                start_new_session=True,
                cwd=self.base,
            )

    def _listens(self, port: int) -> bool:
        with socket.socket() as client:
            return client.connect_ex((self.controller, port)) == 0

    def _all_idle(self) -> bool:
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).splitlines()
        return {line for line in states} == {f"{node} idle" for node in self.nodes}

    def wait(self, true: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
        """Wait until something is true; fail with the daemons' logs if it does not become true."""
        deadline = time.monotonic() + seconds
        while not true():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s; dead: {dead}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in (self.base / "log").iterdir())

    def run(self, *command: Any, check: bool = True) -> str:
        """Return what a command prints when a user of the cluster types it."""
        done = subprocess.run(
            [str(part) for part in command], env=self.environment, text=True, capture_output=True, timeout=60
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of each job that slurmctld knows, by its id ("12" or "12_3")."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def over(self) -> float:
        """Return when the last ended job ended, in Unix seconds, to the second."""
        ends = self.run("squeue", "-h", "-t", "all", "-o", "%e").split()
        return max(time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S")) for end in ends)

    def cancel_all(self) -> None:
        """End every job, and wait until none is left."""
        self.run("scancel", "--user", getpass.getuser(), check=False)
        for node in self.nodes:
            self.bring_back(node)
        self.wait(lambda: not self.run("squeue", "-h"), "no job left")

    def lose_touch(self, node: str) -> None:
        """Make SLURM lose contact with a node, while the processes of its jobs live on."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for process in self.processes():
            if process.name() == "slurmstepd":
                process.kill()
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def bring_back(self, node: str) -> None:
        """Let a node that SLURM has set down accept jobs again."""

        def is_up() -> bool:
            return not set(self.run("sinfo", "-h", "-n", node, "-o", "%T").split()) & {"down", "down*", "drained"}

        def resume() -> bool:
            if not is_up():  # SLURM refuses while it is still ending a job of the node
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            return is_up()

        self.wait(resume, f"{node} back")

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes of this cluster's jobs and of the steps' daemons: they have our SLURM_CONF.

        psutil does not find the variable in a step's daemon that has written its title over the first variables.
        """
        mark = f"SLURM_CONF={self.config}\0".encode()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and mark in Path(f"/proc/{process.pid}/environ").read_bytes():
                    yield process

    def stop(self) -> None:
        """End every job and daemon, and remove the directory."""
        for name, daemon in self.daemons.items():
            daemon.send_signal(signal.SIGTERM if name == "mariadbd" else signal.SIGKILL)
        for daemon in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for process in list(self.processes()):
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.base, ignore_errors=True)
        for top in [folder / f"slurm_{node}" for folder in CGROUPS for node in self.nodes if self.confined]:
            for folder in sorted(top.glob("**/"), reverse=True):  # the innermost first
                with contextlib.suppress(OSError):
                    folder.rmdir()
