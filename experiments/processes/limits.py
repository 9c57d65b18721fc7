"""Check that this machine lets the processes of a run start and reach each other; Ray would only wait, for minutes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

import psutil

from experiments.errors import UserError

LEAST_THREADS = 300  # a run of the shipped model, the smallest there is, has up to 430 on two cores
LOOPBACK = "127.0.0.1"


def check_machine() -> None:
    """Raise UserError if this user may not start enough processes, or if the loopback is down."""
    check_processes()
    check_loopback()


def check_processes() -> None:
    """Raise UserError if the user's limit leaves fewer than LEAST_THREADS processes and threads."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.geteuid() == 0:  # the kernel does not count root's
        return
    used = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == os.getuid():
                used += process.num_threads()
    if limit - used < LEAST_THREADS:
        raise UserError(
            f"this user must be allowed at least {LEAST_THREADS} more processes and threads, but the limit is {limit} "
            f"and {used} are there; raise it (ulimit -u), or end other programs"
        )


def check_loopback() -> None:
    """Raise UserError if a process of this machine can't reach another one at 127.0.0.1."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server, socket.socket() as client:
            client.settimeout(5.0)
            client.connect(server.getsockname())
    except OSError as error:
        raise UserError(
            f"this machine's loopback must be up, since a run's processes talk over it, but {LOOPBACK} says: "
            f"{error.strerror or error}; do: ip link set lo up"
        ) from None
