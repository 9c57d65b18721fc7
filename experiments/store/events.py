"""The events that end an attempt, as events.jsonl names them, and the states that a run can have."""

from __future__ import annotations

TERMINAL = ("finished", "failed", "interrupted", "cancelled")

STATES = ("planned", "queued", "running", "finished", "failed", "interrupted", "killed", "cancelled")
