"""`logs`: print the log of a run's last attempt, once or while it grows."""

from __future__ import annotations

import re
import sys
import time

from experiments.errors import UserError
from experiments.runs.status import settle
from experiments.store.events import Event, State
from experiments.store.rundir import Attempt, RunDir

POLL_SECONDS = 0.3
LOOK_SECONDS = 5.0  # how often SLURM is asked about the job
BEGIN_SECONDS = 30.0  # after that a launcher has taken hold of the runs that it launched
ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)")
# A log has text that a model wrote, which must not control the terminal. A progress bar's returns become lines.
CONTROLS = bytes(code for code in range(256) if (code < 32 and code not in b"\t\n\r") or code == 127)


def logs(run: RunDir, follow: bool) -> int:
    """Print the log of the run's last attempt; return the exit code. `follow`: until the run ends, attempt by attempt.

    UserError if there is no attempt and none to wait for, or no longer one to wait for.
    """
    attempt, offset, looked = _last(run), 0, time.monotonic()
    if attempt is None and not (follow and run.state() in (State.PLANNED, State.QUEUED)):
        raise UserError(f"{run.path.name} must have an attempt, but is {run.state()} and has none; there is no log yet")
    while True:
        if time.monotonic() > looked + LOOK_SECONDS:  # what SLURM does to a job stands in the events once we have asked
            settle([run])
            _check_awaited(run)
            looked = time.monotonic()
        ended = run.state() not in (
            State.PLANNED,
            State.QUEUED,
            State.RUNNING,
        )  # asked before we read, so that all that came before the end is printed
        if attempt is not None:
            offset = _print_from(attempt, offset, whole_lines=follow and not ended)
        newest = _last(run)
        if newest != attempt:
            attempt, offset = newest, 0
        elif not follow or ended:
            return 0
        else:
            time.sleep(POLL_SECONDS)


def _check_awaited(run: RunDir) -> None:
    """Raise UserError if the run waits for its turn in a launch on this machine that is no longer there."""
    last = (run.events() or [{}])[-1]
    ours = last.get("event") == Event.LAUNCHED and last.get("launcher") == "local"
    if ours and time.time() > last.get("time", 0) + BEGIN_SECONDS and not run.is_wanted() and not run.is_locked():
        problem = f"{run.path.name} must wait for its turn in a launch, but its launch has ended without it"
        raise UserError(f"{problem}; type the launch again, and it goes on where it was")


def _last(run: RunDir) -> Attempt | None:
    attempts = run.attempts()
    return attempts[-1] if attempts else None


def _print_from(attempt: Attempt, offset: int, whole_lines: bool) -> int:
    """Print what the log has after byte `offset`; return the offset up to which it is printed."""
    try:
        with open(attempt.log, "rb") as file:
            file.seek(offset)
            new = file.read()
    except FileNotFoundError:
        return offset
    if whole_lines:
        new = new[: new.rfind(b"\n") + 1]
    clean = ESCAPE.sub(b"", new).translate(None, CONTROLS).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = clean.decode("utf-8", "replace")
    sys.stdout.write("".join(character for character in text if not "\x80" <= character <= "\x9f"))
    sys.stdout.flush()
    return offset + len(new)
