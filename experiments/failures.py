"""What went wrong, read off the end of an attempt's log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 200_000
NO_ROLLOUTS = "no usable rollouts"
EXCEPTION = r"(?!ray\.)([A-Za-z_]\w*\.)*[A-Za-z_]*(Error|Exception): \S"  # the end of a traceback, not Ray's


@dataclass(frozen=True)
class Failure:
    """A class of failure, the line that shows it, and what to do."""

    kind: str
    cause: str
    remedy: str


# (kind, what the log says, what to do), the most telling first: an out-of-memory also breaks Ray and the reward.
CLASSES = (
    (
        "disk full",
        r"No space left on device|OSError: \[Errno 28\]|Disk quota exceeded",
        "make room and start again: the run resumes from its last whole checkpoint",
    ),
    (
        "out of memory",
        r"CUDA out of memory|OutOfMemoryError|std::bad_alloc|Cannot allocate memory|killed due to the node running low"
        r"|oom_kill event",
        "lower the micro-batch sizes, or data.train_batch_size",
    ),
    (
        "Ray could not start",
        r"Unable to register worker with raylet|Failed to start the GCS|ray.*AF_UNIX|Failed to connect to GCS"
        r"|raylet.*failed to start|The current node timed out during startup",
        "check that /tmp is writable and ray_kwargs.ray_init.num_cpus is at least 8, then start again",
    ),
    ("port taken", r"Address already in use|EADDRINUSE", "start again: ports are chosen anew"),
    (
        "missing model or data",
        r"FileNotFoundError|is not a local folder and is not a valid model identifier|HFValidationError"
        r"|LocalEntryNotFoundError|OfflineModeIsEnabled|GatedRepoError",
        "check model.path and data.train_files",
    ),
    (
        NO_ROLLOUTS,
        r"no materializable trajectories|Error in _run_prompt",
        "every sample of a step failed: the first error above it in the log says why",
    ),
    ("reward error", r"compute_score.*Error|reward.*Traceback", "fix the reward function; it must return a dict"),
    ("NaN loss", r"(loss|grad_norm)\D{0,5}nan|non-?finite|Expected.*but found nan", "lower the learning rate"),
    ("configuration", r"AssertionError|ConfigAttributeError|ValidationError|InstantiationException|ValueError", ""),
)
LOG_HINT = "read the end of the log"
# What is no part of a message: colours, and then "(TaskRunner pid=12)", "(pid=12, ip=10.0.0.7)" or "(raylet)".
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SPEAKER = re.compile(r"^\((?:[^()]*\bpid=|raylet)[^()]*\)\s?")


def classify(log: Path) -> Failure:
    """Return the failure that the end of a log shows; kind "error" if it is none of the known ones."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return Failure("error", f"no log: {error}", "start again")
    lines = [SPEAKER.sub("", line) for line in COLOUR.sub("", text).splitlines() if line.strip()]
    for kind, pattern, remedy in CLASSES:
        found = next((line for line in reversed(lines) if re.search(pattern, line)), None)
        if found:
            if kind == NO_ROLLOUTS:
                found = next((line for line in lines if re.match(EXCEPTION, line.strip())), found)
            return Failure(kind, found.strip()[:300], remedy or LOG_HINT)
    raised = (line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Exit)\b.*", line.strip()))
    return Failure("error", next(raised, lines[-1] if lines else "the log is empty").strip()[:300], LOG_HINT)
