"""Judge what a model wrote in a process of its own, within limits of time and memory.

Packages that read mathematics or play puzzles were not written against an enemy, and a model under training is one: it
writes 9**9**9**9 or a million parentheses. A limit inside the process can't hold: a signal handler of Python waits for
the end of the computation in C, and works in the main thread only, whereas veRL calls a reward in others. So the kernel
ends a judge that computes for too long, and the next answer gets a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import psutil

from experiments.project import PROJECT_DIR

SECONDS = 3.0  # of a processor, for one answer: a busy machine makes no answer wrong
WAITED = 120.0  # seconds until an answer that sleeps is given up
LOADING = 600.0  # seconds in which a judge must have imported its packages
MEMORY = 2 << 30  # bytes that a judge may take for answers, beyond what its packages take
ORPHANED = 5.0  # seconds after which a judge without a parent ends


class Judge:
    """A module that runs as a process, with these arguments, and calls `serve`; threads may share it.

    It starts with the first answer and reads one at a time.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module, self._arguments = module, arguments
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asker = os.getpid()

    def ask(self, request: Any) -> Any:
        """Return what the process makes of a request; None if it could not within the limits. Both are JSON.

        Raises RuntimeError if the process can't load what it needs: then no answer can be judged.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            if self._asker != os.getpid():  # this is a fork: the process answers the one that it was forked from
                self._asker, self._process = os.getpid(), None
            if self._process is None or self._process.poll() is not None:
                self._process = self._started()
            try:
                reply = self._reply(self._process, line, WAITED)
            except BaseException:  # the thread is interrupted: its reply must not become the next request's
                self._end()
                raise
            if reply is None:
                _tell(self._module, self._end(), request)
            return None if reply is None else reply["answer"]

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the packages complain about answers that they can't read
            env={**os.environ, "PYTHONPATH": _path(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._process = process
        said = self._reply(process, b"", LOADING)
        if said is None or "failed" in said:
            ended = self._end()
            reason = said["failed"] if said else f"it ended with {ended}"
            raise RuntimeError(f"the process of {self._module} can't judge answers: {reason}")
        return process

    def _reply(self, process: subprocess.Popen[bytes], line: bytes, seconds: float) -> Any:
        """Write a line to the process; return its next one, None if it ends or is silent for so many seconds."""
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.flush()
        waiting = select.poll()  # select.select refuses the many files of a Ray worker
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return None
        said = process.stdout.readline()
        return json.loads(said) if said.endswith(b"\n") else None

    def _end(self) -> int | None:
        """End the process; return the code with which it had ended by itself, None if it had not."""
        process, self._process = self._process, None
        if process is None:
            return None
        ended = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = process.wait(1)  # its pipe is closed a moment before it has ended
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        return ended


def _tell(module: str, ended: int | None, request: Any) -> None:
    """Print what became of an answer without a judgement: it scores nothing, and nobody should have to guess why."""
    reasons = {-signal.SIGPROF: f"more than {SECONDS:g} s of computing", 0: "too much memory", None: "no answer"}
    why = reasons.get(ended, f"its process ended with {ended}")
    with contextlib.suppress(OSError, ValueError):  # a full disk or a closed pipe must not end a training run
        print(f"not judged ({module}): {why}: {json.dumps(request)[:200]}", flush=True)


def _path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{PROJECT_DIR}{os.pathsep}{inherited}" if inherited else str(PROJECT_DIR)


def serve(load: Callable[[], Callable[[Any], Any]]) -> None:
    """Answer `Judge.ask` in this process, until its parent ends, with what the function that `load` returns returns."""
    parent = os.getppid()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)  # what the packages print does not mix with the replies

        def reply(**what: Any) -> None:
            print(json.dumps(what), file=replies, flush=True)

        try:
            judge = load()
        except Exception as error:
            reply(failed=f"{type(error).__name__}: {error}")
            return
        _limit()
        reply(ready=True)
        while True:
            while not select.select([0], [], [], ORPHANED)[0]:
                if os.getppid() != parent:
                    return
            if not (line := sys.stdin.buffer.readline()):
                return
            # SIGPROF's default action ends the process. No handler of Python is involved, which C code would keep
            # waiting.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                answer = judge(json.loads(line))
            except MemoryError:
                return
            signal.setitimer(signal.ITIMER_PROF, 0)
            reply(answer=answer)


def _limit() -> None:
    """Limit the memory of this process, let it write no file, and let SIGPROF end it."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    most = psutil.Process().memory_info().vms + MEMORY
    limits = {resource.RLIMIT_AS: most, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError):  # macOS has no limit of the memory
            resource.setrlimit(kind, (limit, limit))
