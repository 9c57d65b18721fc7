"""Tell somebody that a sweep has ended, and once before that its first run has failed: `notify=`.

`notify=NAME` names a variable of the environment, which holds a URL of apprise (mail, chat, push) or a command of the
shell; `notify='COMMAND'` is the command itself. A URL has a password or a token in it. So it is taken from the
environment alone, where no file, log or list of processes shows it; it is in no frozen config and no event.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

from experiments.errors import UserError
from experiments.store.events import State
from experiments.store.rundir import RunDir, find_runs
from experiments.terminal import counted
from experiments.variables import MESSAGE, NOTIFY, SWEEP

NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
SECONDS = 60.0  # how long a command may take
FOLDER = ".slurm"  # in runs_dir; its file told-<sweep>-<what> says that a job has told it
OVER = (State.FINISHED, State.FAILED, State.KILLED, State.CANCELLED)


def check_notify(notify: Any) -> None:
    """Raise UserError if nobody could be told; the message does not repeat the value, which may be a secret."""
    if notify is None:
        return
    if not isinstance(notify, str) or not notify.strip() or "://" in notify:
        what = "a URL, which would stay in your shell's history" if "://" in str(notify) else "neither"
        raise UserError(
            "notify must be the name of an environment variable that holds a URL or a command, or a command, but is "
            f"{what}; do: export NOTIFY_URL=..., and set notify=NOTIFY_URL"
        )
    if NAME.fullmatch(notify) and not os.environ.get(notify):
        raise UserError(
            f"notify must name a variable of the environment, but there is no {notify}; do: export {notify}="
        )
    if "://" in _target(notify) and find_spec("apprise") is None:
        raise UserError("notify must find apprise to send to a URL, but it is missing; do: pip install -e '.[notify]'")


def _target(notify: str) -> str:
    """Return the URL or the command that `notify` means."""
    return os.environ.get(notify, "") if NAME.fullmatch(notify) else notify


def send(notify: str, message: str) -> None:
    """Send a message; one line on standard error says so if that fails, since the runs must go on.

    A command gets the message as its standard input and as $R1Z_MESSAGE; what it prints is not kept.
    """
    target, sent = _target(notify), False
    with contextlib.suppress(Exception):  # whatever a service or its library does
        if "://" in target:
            import apprise

            logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its messages name the URL
            service = apprise.Apprise()
            sent = bool(service.add(target) and service.notify(title="r1-zero-ablations", body=message))
        else:
            done = subprocess.run(
                ["sh", "-c", target],
                input=message.encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, MESSAGE: message},
                timeout=SECONDS,
            )
            sent = done.returncode == 0
    if not sent:
        print("notify: the message could not be sent; look at the variable or the command", file=sys.stderr)


class Teller:
    """Tells somebody of the runs of one launch on this machine; nobody if `notify` is None."""

    def __init__(self, notify: str | None, runs: Collection[RunDir]) -> None:
        self.notify, self.runs = notify, runs
        self.told = False

    def of_a_failure(self, run: RunDir) -> None:
        """Tell that a run has failed, if it is the first."""
        if self.notify and not self.told:
            self.told = True
            send(self.notify, failed(run))

    def of_the_end(self, interrupted: bool) -> None:
        """Tell that the runs have ended, unless the user has interrupted them."""
        if self.notify and not interrupted:
            send(self.notify, ended(self.runs))


def ended(runs: Collection[RunDir]) -> str:
    """Return the message that a sweep has ended."""
    states = Counter(str(run.state()) for run in runs)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    return f"{counted(len(runs), 'run')} ended: {counts}; in {next(iter(runs)).path.parent}"


def failed(run: RunDir) -> str:
    """Return the message that the first run of a sweep has failed."""
    last: Mapping[str, Any] = next((event for event in reversed(run.events()) if event.get("cause")), {})
    return f"{run.path.name} failed: {last.get('cause', 'for an unknown cause')}; the other runs go on"


def for_jobs(notify: str | None, runs: Collection[RunDir]) -> dict[str, str]:
    """Return the variables by which the jobs of a sweep know whom to tell, and which runs the sweep has."""
    if notify is None:
        return {}
    return {NOTIFY: notify, SWEEP: ",".join([uuid.uuid4().hex, *(run.id for run in runs)])}


def tell_from_job(run: RunDir) -> None:
    """In a job whose run has ended: tell of the sweep's first failure, or of its end, if no other job has told it."""
    notify, sweep = os.environ.get(NOTIFY), os.environ.get(SWEEP)
    if not notify or not sweep:
        return
    name, *ids = sweep.split(",")
    runs = [one for one in find_runs(run.path.parent) if one.id in ids]
    over = all(one.state() in OVER for one in runs)
    if over and _first_to_tell(run, f"{name}-end"):
        send(notify, ended(runs))
    elif not over and run.state() in (State.FAILED, State.KILLED) and _first_to_tell(run, f"{name}-failure"):
        send(notify, failed(run))


def _first_to_tell(run: RunDir, what: str) -> bool:
    """Return whether no other job has told this yet; from now on this job has."""
    folder = run.path.parent / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        (folder / f"told-{what}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the disk may be full: rather twice than never
        return True
    return True
