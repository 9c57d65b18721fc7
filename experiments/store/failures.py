"""Find what went wrong from the end of an attempt's log."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL_BYTES = 200_000
NO_ROLLOUTS = "no usable rollouts"
EXCEPTION = r"(?!ray\.)([A-Za-z_]\w*\.)*[A-Za-z_]*(Error|Exception): \S"  # the last line of a traceback, not Ray's


@dataclass(frozen=True)
class Failure:
    """A class of failure, the line that shows it, and what to do."""

    kind: str
    cause: str
    remedy: str


OUT_OF_MEMORY = "out of memory"
KILLED = "killed"
STALLED = "stalled"
FILE_SYSTEM = "file system"
PORT_TAKEN = "port taken"
NO_RAY = "Ray could not start"
MACHINE_MEMORY = "it is the machine's own memory"
REWARD_ERROR = "reward error"
NAN_LOSS = "NaN loss"
OF_THE_MACHINE = (
    f"{MACHINE_MEMORY}, not the device's: end other programs or ask for more, or lower data.train_batch_size"
)
MORE_MEMORY = "ask for more: hydra.launcher.mem"
RESUMES = "start again: the run resumes from its last whole checkpoint"

ROOM_BYTES = 64 << 10  # with less than this left, not even the cause of a failure can be written down
DISK_FULL = "disk full"
OF_A_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_EXIT = 28  # the exit code of a job that could record nothing any more; ENOSPC

# (kind, pattern in the log, what to do). The first match counts, so the most telling stand first: an out-of-memory, for
# example, also breaks Ray and the reward.
NOT_FINITE = "NotFinite: "  # verl_plugin/lifecycle/signal_check.py raises it
CLASSES = (
    (
        NAN_LOSS,
        NOT_FINITE,
        "lower the learning rate (that is another run), or let this one go on with watch.not_finite=go_on",
    ),
    (
        DISK_FULL,
        r"No space left on device|OSError: \[Errno 28\]|Disk quota exceeded|PytorchStreamWriter failed writing file",
        f"make room and {RESUMES}",
    ),
    ("time limit", r"CANCELLED AT \S+ DUE TO TIME LIMIT", f"ask for more time, or {RESUMES}"),
    (
        OUT_OF_MEMORY,
        r"CUDA out of memory|CUDA error: out of memory|torch\.OutOfMemoryError|No available memory for the cache blocks"
        r"|Free memory on device .* is less than desired GPU memory utilization|cumem_allocator.*out of memory",
        "lower the micro-batch sizes, or data.train_batch_size",
    ),
    (
        OUT_OF_MEMORY,
        r"OutOfMemoryError|std::bad_alloc|Cannot allocate memory|killed due to the node running low|oom_kill event",
        OF_THE_MACHINE,
    ),
    (
        NO_RAY,
        r"Unable to register worker with raylet|Failed to start the GCS|AF_UNIX path|[Ff]ailed to connect to GCS"
        r"|raylet.*failed to start|The current node timed out during startup|Timed out while waiting for GCS"
        r"|PermissionError.*/tmp/ray",
        "check that /tmp is writable and has room, and that no limit on processes or open files (ulimit -a) is reached,"
        " then start again",
    ),
    (
        "too few GPUs",
        r"Total available GPUs .* is less than total desired GPUs",
        "set hardware.gpus_per_node to what nvidia-smi and CUDA_VISIBLE_DEVICES leave, or choose another hardware",
    ),
    (
        FILE_SYSTEM,
        r"Stale file handle|Input/output error|Transport endpoint is not connected|Remote I/O error|Host is down",
        f"if the file system is back, {RESUMES}",
    ),
    (PORT_TAKEN, r"[Aa]ddress already in use|EADDRINUSE", "start again: ports are chosen anew"),
    (
        "missing model or data",
        r"FileNotFoundError|is not a local folder and is not a valid model identifier|HFValidationError"
        r"|LocalEntryNotFoundError|OfflineModeIsEnabled|GatedRepoError|RepositoryNotFoundError"
        r"|[Cc]ouldn't connect to 'https://huggingface.co'|does not appear to have a file named",
        "check model.path and data.train_files",
    ),
    (
        REWARD_ERROR,
        r"compute_score.*Error|reward.*Traceback|RewardLoopWorker\.compute_score|, in compute_score\b",
        "fix the reward function; it must score any response",
    ),
    (
        NO_ROLLOUTS,
        r"no materializable trajectories|Error in _run_prompt",
        "every sample of a step failed: the first error above it in the log says why",
    ),
    (
        NAN_LOSS,
        r"(loss|grad_norm)\D{0,5}nan|non-?finite|grad_norm is not finite|Expected.*but found nan"
        r"|probability tensor contains either",
        "lower the learning rate",
    ),
    (
        KILLED,
        # the second line: Ray's, gloo's and NCCL's words where another node, or a process of it, is gone
        r"CANCELLED AT|A worker died or was killed|The actor died unexpectedly"
        r"|ActorUnavailableError: |caused by a remote worker|remote process exited",
        f"{RESUMES}; if it dies again, the kernel's log (dmesg) says whether memory was the reason",
    ),
    ("configuration", r"AssertionError|ConfigAttributeError|ValidationError|InstantiationException|ValueError", ""),
)
# (phase in which a device's memory ran out, its functions in veRL 0.9.1, vLLM and here, what to do).
PHASES = (
    (
        "the rollout",
        r"/vllm/|/sglang/|\bwake_up\b|generate_sequences|verl_plugin/rollout|cache blocks|cumem_allocator"
        r"|GPU memory utilization",
        "change actor_rollout_ref.rollout.gpu_memory_utilization: lower it where the device is full, raise it where the"
        " cache has no room",
    ),
    (
        "the log-probs",
        r"compute_(ref_)?log_prob|compute_values|\binfer_batch\b",
        "lower log_prob_micro_batch_size_per_gpu of actor_rollout_ref.rollout and actor_rollout_ref.ref, or"
        " log_prob_max_token_len_per_gpu",
    ),
    (
        "the update",
        r"update_(actor|critic)|\btrain_(mini_)?batch\b|\bbackward\b|optimizer_step",
        "lower ppo_micro_batch_size_per_gpu of actor_rollout_ref.actor (and critic), or ppo_max_token_len_per_gpu",
    ),
)
TRACEBACK_LINES = 80  # so far above and below an out-of-memory's message its functions are searched
LOG_HINT = "read the end of the log"
# Not part of a message, so removed: colours, and then "(TaskRunner pid=12)", "(pid=12, ip=10.0.0.7)" or "(raylet)".
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SPEAKER = re.compile(r"^\((?:[^()]*\bpid=|raylet)[^()]*\)\s?")


def of_a_full_disk(folder: Path) -> Failure | None:
    """Return the failure "disk full" if no room is left where the folder is; None if there is room."""
    if shutil.disk_usage(folder).free >= ROOM_BYTES:
        return None
    return Failure(DISK_FULL, f"no room left where {folder} is", f"make room and {RESUMES}")


def of_a_silent_end(run: Path, code: int, verdict: Path, log: Path | None, others: str | None = None) -> Failure:
    """Return the failure of an attempt that died and recorded nothing in the run's folder.

    Args:
        code: its exit code, negative for a signal.
        verdict: where the attempt may have written why it ends.
        log: the attempt's log; None if it has none.
        others: what is known of processes that the attempt needs: which of them ended, and how.
    """
    if (full := of_a_full_disk(run)) is not None:
        return full
    if (written := read_verdict(verdict)) is not None:
        return written
    if others is not None:
        return Failure(KILLED, others, RESUMES)
    if code < 0:
        return Failure(KILLED, f"the attempt's process {how(code)}", RESUMES)
    said = classify(log) if log is not None and log.is_file() else None
    if said is None:
        return Failure(KILLED, f"the attempt's process {how(code)} before it wrote a log", RESUMES)
    if said.kind == "error":  # its last line is no cause, and may be anybody's
        return Failure(KILLED, f"the attempt's process {how(code)}; its log ends: {said.cause}", RESUMES)
    return Failure(said.kind, f"{said.cause} (the attempt {how(code)})", said.remedy)


def of_memory(failure: Failure, kills: int, in_job: bool = False) -> Failure:
    """Return the failure of an attempt during which the kernel killed so many processes for memory.

    `in_job`: whether a SLURM job was submitted for the attempt, and can be submitted with more.
    """
    if not kills or failure.kind != KILLED:
        return failure
    processes = "a process" if kills == 1 else f"{kills} processes"
    return Failure(
        OUT_OF_MEMORY,
        f"{failure.cause}: the kernel killed {processes} for memory",
        MORE_MEMORY if in_job else OF_THE_MACHINE,
    )


def passes(failed: Mapping[str, Any]) -> bool:
    """Return whether the event of a failure tells of what may be gone at the next try."""
    kind, remedy = failed.get("kind"), str(failed.get("remedy"))
    return kind in (KILLED, STALLED, FILE_SYSTEM, PORT_TAKEN, NO_RAY) or (
        kind == OUT_OF_MEMORY and remedy.startswith(MACHINE_MEMORY)
    )


def read_verdict(file: Path) -> Failure | None:
    """Return the failure that an attempt, or who watched it, wrote down before it ended; None if nobody did."""
    try:
        return Failure(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def how(code: int | None) -> str:
    """Return in words how a process ended: by its exit code, or by a signal if the code is negative; None: unknown."""
    if code is None:
        return "was killed or crashed"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"


def of_an_error(error: Exception) -> Failure:
    """Return the failure of an attempt that could not begin because of the disk or the temporary folder."""
    if isinstance(error, OSError):
        full = error.errno in OF_A_FULL_DISK
        return Failure(
            DISK_FULL if full else "error", str(error), f"{'make room' if full else 'mend that'} and {RESUMES}"
        )
    cause, _, remedy = str(error).partition("; ")  # X must be ..., but is Y; do Z
    return Failure("error", cause, remedy or RESUMES)


def classify(log: Path) -> Failure:
    """Return the failure that the end of a log shows; its kind is "error" if it is none of the known ones."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return Failure("error", "it left no log", RESUMES)
    except OSError as error:
        return Failure("error", f"its log can't be read: {error}", RESUMES)
    lines = [SPEAKER.sub("", line) for line in COLOUR.sub("", text).splitlines() if line.strip()]
    for kind, pattern, remedy in CLASSES:
        number = next((k for k in reversed(range(len(lines))) if re.search(pattern, lines[k])), None)
        if number is None:
            continue
        cause = lines[number]
        if pattern == NOT_FINITE:
            cause = cause.partition(NOT_FINITE)[2]
        elif kind == NO_ROLLOUTS:
            cause = _exception(lines) or cause
        elif kind == REWARD_ERROR:
            cause = _exception(lines[number:]) or cause
        elif kind == OUT_OF_MEMORY and "micro-batch" in remedy:
            kind, remedy = _phase(lines, number) or (kind, remedy)
        return Failure(kind, cause.strip()[:300], remedy or LOG_HINT)
    raised = (line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Exit)\b.*", line.strip()))
    return Failure("error", next(raised, lines[-1] if lines else "the log is empty").strip()[:300], LOG_HINT)


def last_lines(log: Path, number: int) -> list[str]:
    """Return the last lines of a log that are not empty, without colours, cut to a readable length."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 10_000))
            text = COLOUR.sub("", file.read().decode("utf-8", "replace"))
    except OSError:
        return []
    return [line.strip()[:120] for line in text.splitlines() if line.strip()][-number:]


def _exception(lines: Sequence[str]) -> str | None:
    """Return the first line that ends a traceback, None if no line does."""
    return next((line for line in lines if re.match(EXCEPTION, line.strip())), None)


def _phase(lines: Sequence[str], number: int) -> tuple[str, str] | None:
    """Return (kind, remedy) of the out-of-memory on that line, by the nearest function that belongs to a phase.

    A traceback's functions stand above its message. Below it Ray names the remote call. None if no function is known.
    """
    above = reversed(lines[max(0, number - TRACEBACK_LINES) : number + 1])
    below = lines[number + 1 : number + TRACEBACK_LINES]
    for line in (*above, *below):
        for phase, functions, remedy in PHASES:
            if re.search(functions, line):
                return f"{OUT_OF_MEMORY} in {phase}", remedy
    return None
