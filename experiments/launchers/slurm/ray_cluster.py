"""Run Ray on several nodes of one allocation: its head on one node and a worker on each other, each started by srun.

Each `ray start --block` is a step of the job, so all of Ray ends with the job. We don't call `ray stop`: it ends every
Ray on a host, other runs' Ray included.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from experiments.launchers.slurm.commands import call
from experiments.processes import reaping

START_SECONDS = 120.0
END_SECONDS = 20.0
# The script of each node: it runs Ray until Ray ends or is told to end, then removes the temporary folder, which is $0.
NODE = """\
mkdir -p "$0"
export TMPDIR="$0"
[ -z "$CUDA_VISIBLE_DEVICES" ] || unset ROCR_VISIBLE_DEVICES  # SLURM's second name for the same GPUs: veRL refuses both
(trap '' USR1; exec "$@") &  # SLURM signals every process of a step: Ray is to end in its own order
ray=$!
trap 'kill $ray' TERM USR1
wait $ray  # a signal ends this wait
wait $ray
code=$?
for _ in {1..25}; do  # what Ray has ended may be about to make a temporary folder yet
  env -u TMPDIR grep -lsz "^TMPDIR=$0$" /proc/[0-9]*/environ > /dev/null || break
  sleep 0.2
done
rm -rf "$0"
exit $code
"""
SECRET = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")  # variables without which nobody may connect


def ports(job_id: int) -> tuple[int, int]:
    """Return a job's own two ports, of its head and its client server: below those that the kernel gives out."""
    return 20_000 + job_id % 5_000, 25_000 + job_id % 5_000


def own_secret() -> dict[str, str]:
    """Return new values for the SECRET variables: other users of the cluster can reach the head's ports."""
    return dict(zip(SECRET, ("token", secrets.token_hex(32)), strict=True))


@contextlib.contextmanager
def ray_cluster(nodes: int, cpus: int, gpus: int, scratch: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run Ray on this node and the allocation's other `nodes` - 1; yield the address for ray.init.

    Each node offers `cpus` and `gpus`. `scratch`: a short path for the sockets; the folder is made on each node.
    `environment`: the variables of Ray's processes, with the job's own variables and those of SECRET.
    Raises RuntimeError if a node does not come up.
    """
    hosts = call("scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]).split()
    here = environment["SLURMD_NODENAME"]
    others = [host for host in hosts if host != here]
    if len(hosts) != nodes:
        raise RuntimeError(f"the allocation must have hardware.nodes={nodes} nodes, but has {len(hosts)}")
    own = _address()
    port, client_port = ports(int(environment["SLURM_JOB_ID"]))
    address = f"{own}:{port}"
    ray = Path(sys.executable).with_name("ray")
    # Ray's fixed ports would clash with another run's on the same node; 0 means any free port.
    others_ports = [f"--{name}-port=0" for name in ("min-worker", "max-worker", "dashboard-agent-listen")]
    offers = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", *others_ports, "--disable-usage-stats", "--block"]
    head = [
        "--head",
        f"--node-ip-address={own}",
        f"--port={port}",
        f"--ray-client-server-port={client_port}",
        f"--temp-dir={scratch}",
    ]
    start = ["bash", "-c", NODE, str(scratch), str(ray), "start"]
    steps = [_step(here, environment, [*start, *head, "--include-dashboard=false", *offers])]
    try:
        _wait(steps, lambda: _listens(address), "Ray's head")
        steps += [_step(host, environment, [*start, f"--address={address}", *offers]) for host in others]
        # In another process, so that this one stays light and connects to no Ray.
        joined = [sys.executable, "-P", "-m", "experiments.launchers.slurm.ray_cluster", address, str(nodes)]
        if subprocess.run(joined, env=dict(environment), stdin=subprocess.DEVNULL).returncode:
            raise RuntimeError(f"raylet failed to start on all of the {nodes} nodes")
        yield address
    finally:
        for step in steps:
            step.send_signal(signal.SIGUSR1)  # srun passes it on; at a SIGTERM, srun would kill the step at once
        deadline = time.monotonic() + END_SECONDS
        for step in steps:
            try:
                step.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                step.kill()
                step.wait()
        reaping.drop_folder(scratch)


def main(address: str, nodes: int) -> int:
    """Wait until `nodes` nodes have joined the Ray at the address; return 0, or 1 if they don't in START_SECONDS."""
    import ray

    ray.init(address=address, log_to_driver=False)
    deadline = time.monotonic() + START_SECONDS
    while sum(node["Alive"] for node in ray.nodes()) < nodes:
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.2)
    return 0


def _step(host: str, environment: Mapping[str, str], command: list[str]) -> subprocess.Popen:
    """Start a command on a host of the allocation, as a step of the job; return srun's process."""
    srun = [
        "srun",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={host}",
        "--export=ALL",
        "--kill-on-bad-exit=0",
        "--cpu-bind=none",  # else, where SLURM binds tasks, all of a node's Ray would get one core
    ]
    if "SLURM_CPUS_PER_TASK" in environment:  # sbatch reads the variable; srun has not since 22.05
        srun.append(f"--cpus-per-task={environment['SLURM_CPUS_PER_TASK']}")
    return subprocess.Popen([*srun, *command], env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)


def _wait(steps: list[subprocess.Popen], true: Callable[[], bool], what: str) -> None:
    """Wait until `true` holds; RuntimeError if a step ends, or after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while not true():
        ended = [step.returncode for step in steps if step.poll() is not None]
        if ended:
            raise RuntimeError(f"{what} failed to start: srun ended with {ended[0]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} failed to start within {START_SECONDS:g} s")
        time.sleep(0.2)


def _listens(address: str) -> bool:
    host, _, number = address.rpartition(":")
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex((host, int(number))) == 0


def _address() -> str:
    """Return this host's address as other hosts reach it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # this sends nothing: it only looks up the route
        try:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostbyname(socket.gethostname())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
