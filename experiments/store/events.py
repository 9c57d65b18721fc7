"""The words of events.jsonl, and the state of a run that follows from them."""

from __future__ import annotations

TERMINAL = ("finished", "failed", "interrupted", "cancelled")

STATES = ("planned", "queued", "running", "finished", "failed", "interrupted", "killed", "cancelled")
