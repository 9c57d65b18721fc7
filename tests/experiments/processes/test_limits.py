"""What keeps a run's processes from starting or from talking to each other is told before anything is started."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from experiments.errors import UserError
from experiments.processes.limits import check_machine
from tests.needs import NETWORK


def test_this_machine_will_do() -> None:
    check_machine()


def test_too_few_processes_are_allowed() -> None:
    """As a user who is not root: the kernel counts nobody else's."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))
            if os.geteuid() == 0:
                os.setuid(4242)
            check_machine()
        except UserError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said:
        assert "must be allowed at least 300 more processes and threads, but the limit is 30" in said.read()


def test_without_a_loopback() -> None:
    code = "from experiments.processes.limits import check_machine; check_machine()"
    done = subprocess.run([*NETWORK.split(), sys.executable, "-c", code], capture_output=True, text=True)
    assert "this machine's loopback must be up" in done.stderr and "ip link set lo up" in done.stderr
