"""When a server that does not answer is asked no more."""

from __future__ import annotations

from threading import Lock


class Patience:
    """Ends once the server gave no answer for `most` runs in a row."""

    def __init__(self, most: int) -> None:
        self.most, self.lock, self.failures, self.problem = most, Lock(), 0, ""

    def note(self, problem: str) -> None:
        """Take in how a run's pull went: "" for well."""
        with self.lock:
            self.failures, self.problem = (self.failures + 1 if problem else 0), problem

    def lost(self) -> str:
        """Return why no further run is worth asking for, "" while it is."""
        with self.lock:
            return self.problem if self.failures >= self.most else ""
