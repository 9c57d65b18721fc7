"""A machine room on one machine: a cluster whose nodes share nothing but the disk. Needs root.

    python -m tests.slurm.room RUNS COMMAND...

Runs the command as a user of two nodes in network namespaces: each node has its own address, host name, processes,
/tmp and /dev/shm. As soon as a run in the folder RUNS has saved a step, the raylet of the second node is killed.
Everything ends with the command, and its exit code is returned. The last line printed is JSON: {"workers": {node: the
most veRL workers at once}, "killed": how many raylets were killed, "left": what stayed in the nodes' /tmp and /dev/shm,
"over": when the last allocation was given back, in Unix seconds}.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.store.rundir import find_runs
from tests.slurm.cluster import Cluster

INSIDE = "TESTS_SLURM_ROOM"
NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--uts")
NODES = ("n1", "n2")
FURNISH = """\
set -e
hostname ctl
mkdir -p /run/netns && mount -t tmpfs none /run/netns
ip link set lo up
ip link add br0 type bridge
ip addr add 10.99.0.1/24 dev br0
ip link set br0 up
hosts=$(mktemp)
printf '127.0.0.1 localhost\\n10.99.0.1 ctl\\n' > "$hosts"
for number in 1 2; do
  ip netns add n$number
  ip link add v$number type veth peer name eth0 netns n$number
  ip link set v$number master br0 up
  ip -n n$number addr add 10.99.0.1$number/24 dev eth0
  ip -n n$number link set eth0 up
  ip -n n$number link set lo up
  echo "10.99.0.1$number n$number" >> "$hosts"
done
mount --bind "$hosts" /etc/hosts
rm "$hosts"
"""
# $0: the node; $1: the folder of its own /tmp and /dev/shm; then the shared folders, "--", and the command.
ENTER = """\
set -e
hostname "$0"
own=$1; shift
while [ "$1" != -- ]; do
  mkdir -p "$own/tmp/${1#/tmp/}"
  mount --bind "$1" "$own/tmp/${1#/tmp/}"
  shift
done
shift
mount --bind "$own/shm" /dev/shm
mount --rbind "$own/tmp" /tmp
"$@"
exit $?
"""
REAPER = '"$@"; exit $?'  # bash stays the first process of a namespace, and reaps the orphans


class Room(Cluster):
    """A cluster whose nodes are the namespaces that FURNISH made."""

    controller = "10.99.0.1"

    def _place(self, node: str) -> str:
        return f"NodeHostname={node} NodeAddr=10.99.0.1{node[1:]}"

    def _inside(self, node: str) -> list[str]:
        folders = {self.base, Path.cwd(), Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix)}
        shared = sorted(str(folder) for folder in folders if folder.is_relative_to("/tmp"))
        for own in ("tmp", "shm"):
            (self.own(node) / own).mkdir(parents=True)
        enter = ["ip", "netns", "exec", node, "unshare", *NAMESPACES, "bash", "-c", ENTER, node, str(self.own(node))]
        return [*enter, *shared, "--"]

    def own(self, node: str) -> Path:
        """Return the folder that holds a node's /tmp and /dev/shm."""
        return self.base / "own" / node

    def left(self) -> list[str]:
        """Return what is in the nodes' /tmp and /dev/shm, without the mount points of the shared folders."""
        tops = {Path(path).parts[2] for path in (self.base, Path.cwd(), Path(__file__), Path(sys.prefix))}
        found = (path for node in NODES for own in ("tmp", "shm") for path in (self.own(node) / own).iterdir())
        return sorted(str(path.relative_to(self.base)) for path in found if path.name not in tops)


def processes() -> Iterator[tuple[str, psutil.Process, str]]:
    """Yield (node, process, its command line) of whatever runs in the nodes."""
    nodes = {os.stat(f"/run/netns/{node}").st_ino: node for node in NODES}
    for process in psutil.process_iter():
        try:
            node = nodes.get(os.stat(f"/proc/{process.pid}/ns/net").st_ino)
            command = " ".join(process.cmdline())
        except (OSError, psutil.Error):
            continue
        if node:
            yield node, process, command


def workers() -> collections.Counter[str]:
    """Return how many veRL workers are alive on each node."""
    return collections.Counter(node for node, _, command in processes() if command.startswith("ray::WorkerDict"))


def kill_raylet(node: str) -> int:
    """Kill a node's raylet; return how many there were."""
    raylets = [process for own, process, command in processes() if own == node and "/raylet " in command]
    for process in raylets:
        process.kill()
    return len(raylets)


def main(runs: Path, command: list[str]) -> int:
    """Run the command in the room, kill a raylet of the run in its folder; return the command's exit code."""
    if INSIDE not in os.environ:
        again = [sys.executable, "-m", "tests.slurm.room", str(runs), *command]
        room = ["unshare", *NAMESPACES, "--net", "bash", "-c", REAPER, "room", *again]
        os.execvpe("unshare", room, {**os.environ, INSIDE: "1"})
    subprocess.run(["bash", "-c", FURNISH], check=True)
    seen: collections.Counter[str] = collections.Counter()
    killed = 0
    with Room() as room:
        process = subprocess.Popen(command, env=room.environment)
        while process.poll() is None:
            seen |= workers()
            if not killed and any(run.checkpoint_step() for run in find_runs(runs)):
                killed = kill_raylet(NODES[1])
            time.sleep(0.5)
        room.wait(lambda: not room.run("squeue", "-h"), "the allocation given back")
        print(json.dumps({"workers": seen, "killed": killed, "left": room.left(), "over": room.over()}))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
