"""The events that end an attempt, as events.jsonl names them, and the states that a run can have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any


class Event(StrEnum):
    """What an event of a run says. A folder of a newer version may hold others: they are passed over."""

    PLANNED = "planned"
    """The folder was made."""
    LAUNCHED = "launched"
    """A launcher on this machine will execute the run in its turn."""
    SUBMITTED = "submitted"
    """SLURM has a job for the run."""
    HELD = "held"
    """SLURM has the job and does not start it."""
    STARTED = "started"
    RESUMED = "resumed"
    """The attempt that has just started goes on from a checkpoint."""
    RUNNING = "running"
    """SLURM says that the job runs, though nobody is seen to hold the run's lock."""
    CHECKPOINT = "checkpoint"
    RETRIED = "retried"
    """The launcher will try the failed run again by itself."""
    WARNED = "warned"
    """The attempt goes on, but its user should read this."""
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    CLEANED = "cleaned"
    """The checkpoints of a finished run were deleted."""


class State(StrEnum):
    """Where a run is."""

    PLANNED = "planned"
    QUEUED = "queued"
    """SLURM has a job for it."""
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    """Its attempt died and could not say so."""
    CANCELLED = "cancelled"


# States about which SLURM may know more than the events.
OPEN = (State.QUEUED, State.RUNNING, State.KILLED, State.INTERRUPTED)
TERMINAL = (Event.FINISHED, Event.FAILED, Event.INTERRUPTED, Event.CANCELLED)  # an attempt's last word


def state_of(events: Iterable[Mapping[str, Any]], is_locked: Callable[[], bool]) -> State:
    """Return the state of a run with these events, oldest first.

    `is_locked`: whether a living process holds the run's lock; asked only where the events leave it open.
    """
    state, started = State.PLANNED, False
    for event in events:
        match event.get("event"):
            case Event.SUBMITTED | Event.HELD:
                state, started = State.QUEUED, False
            case Event.RUNNING:
                state, started = State.RUNNING, False
            case Event.STARTED:
                started = True
            case Event.FINISHED | Event.FAILED | Event.INTERRUPTED | Event.CANCELLED as end:
                state, started = State(end), False
            case Event.LAUNCHED if state == State.CANCELLED and not started:  # asked for again
                state = State.PLANNED
    if not started:
        return state
    return State.RUNNING if is_locked() else State.KILLED


def last_event(events: Iterable[Mapping[str, Any]], *words: Event) -> Mapping[str, Any] | None:
    """Return the last of these events that is one of the words; None if there is none."""
    found = None
    for event in events:
        if event.get("event") in words:
            found = event
    return found
