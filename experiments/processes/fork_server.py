"""Start processes that need no time for imports: `python -m experiments.processes.fork_server SOCKET PARENT`.

A veRL run on a small model starts half a dozen processes one after the other, and each spends seconds on importing
torch and transformers. This server imports them once. Each process is then a fork of the server, and shares its memory.
Ray starts its processes here by the documented runtime_env option `py_executable` (see `fork_client`).

The server must not import ray or veRL: they cache the job's id and the raylet's pid when they are imported. It ends
when the process with the id PARENT ends. PARENT passes its own id, since it may be dead before the server can ask.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from experiments.processes import endings
from experiments.processes.forks import note_fork
from experiments.variables import MARKER

# What veRL's processes import before they do anything, ray and veRL apart.
PRELOADED = (
    "numpy", "pandas", "torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor",
    "torch.distributed.checkpoint", "tensordict", "torchdata.stateful_dataloader", "tokenizers", "datasets",
    "transformers.models.qwen2.modeling_qwen2", "transformers.models.auto.modeling_auto",
    "transformers.generation.utils", "accelerate", "peft", "hydra", "omegaconf", "zmq.asyncio", "pydantic", "aiohttp",
    "psutil", "codetiming", "fastapi", "uvicorn", "requests", "PIL", "wandb", "google.protobuf", "grpc",
)  # fmt: skip
PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ForkServer:
    """Listens on a Unix socket; each connection is one process: the request, then its signals, then its exit code."""

    def __init__(self, path: Path, parent: int) -> None:
        self.path, self.parent = path, parent
        self.pid = os.getpid()
        self.children: dict[int, socket.socket] = {}
        self.pids: dict[socket.socket, int] = {}
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.wake_read, self.wake_write = os.pipe()
        self.told_to_end = False

    def serve(self) -> None:
        """Answer until the server's parent is gone or it is told to end."""
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        signal.set_wakeup_fd(self.wake_write)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._end)
        temporary = self.path.with_suffix(".new")
        self.listener.bind(str(temporary))
        self.listener.listen(64)
        os.rename(temporary, self.path)  # whoever sees the socket can connect
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake_read, selectors.EVENT_READ)
        while os.getppid() == self.parent and not self.told_to_end:
            for key, _ in self.selector.select(timeout=1.0):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj == self.wake_read:
                    os.read(self.wake_read, 4096)
                    self._collect()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self.pids:
                    self._hear(key.fileobj)
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The launcher does so too, but it may be killed before it can.
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.told_to_end = True

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        descriptors: list[int] = []
        try:
            header, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
            size = struct.unpack("I", header)[0]
            data = b""
            while len(data) < size:
                part = connection.recv(size - len(data))
                if not part:
                    break
                data += part
            request = json.loads(data)
        except (OSError, struct.error, ValueError):  # the client died in the middle of its request
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # signals wait until they can end the new process
        pid = os.fork()
        if pid == 0:
            self._become(connection, request, descriptors)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        for descriptor in descriptors:
            os.close(descriptor)
        self.children[pid], self.pids[connection] = connection, pid
        self.selector.register(connection, selectors.EVENT_READ)
        note_fork(self.path.parent, pid, request["env"].get(MARKER))
        with contextlib.suppress(OSError):
            connection.sendall(struct.pack("i", pid))

    def _collect(self) -> None:
        """Send the exit codes of the children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.waitstatus_to_exitcode(status):
                endings.note(self.path.parent, pid, os.waitstatus_to_exitcode(status), "fork")
            connection = self.children.pop(pid, None)
            if connection in self.pids:
                with contextlib.suppress(OSError):
                    connection.sendall(struct.pack("i", os.waitstatus_to_exitcode(status)))
                self._forget(connection)

    def _hear(self, connection: socket.socket) -> None:
        """Pass a client's signal on; a client that is gone takes its process with it."""
        try:
            data = connection.recv(4)
        except OSError:
            data = b""
        number = struct.unpack("i", data)[0] if len(data) == 4 else signal.SIGKILL
        pid = self.pids[connection]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if len(data) != 4:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self.pids.pop(connection, None)
        self.selector.unregister(connection)
        connection.close()

    def _become(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """Turn the fork into the process that was asked for."""
        code = 1
        try:
            # If the server is gone, nobody can find this process any more. So it must not outlive a killed server.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self.pid:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for handled in (*FORWARDED, signal.SIGCHLD):
                signal.signal(handled, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            self.selector.close()
            for other in (self.listener, connection, *self.pids):
                other.close()
            os.close(self.wake_read)
            os.close(self.wake_write)
            os.setpgid(0, 0)  # the raylet ends whole process groups: the server must not be in one with its workers
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            code = run_as(request["argv"], request["env"], request["cwd"])
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def run_as(argv: list[str], environment: dict[str, str], folder: str) -> int:
    """Run `python *argv` in this process, with that environment and folder; return its exit code."""
    own = [os.path.abspath(path) for path in _python_path()]
    sys.path[:] = [path for path in sys.path if path not in own]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [os.path.abspath(path) for path in _python_path()]
    for module in [name for name in sys.modules if name.partition(".")[0] == "experiments"]:
        del sys.modules[module]  # the server's: the process must import the launch's copy of the code
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    random.seed()
    tempfile.tempdir = None  # it is chosen anew by this environment's TMPDIR
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].set_num_threads(int(environment.get("OMP_NUM_THREADS") or 1))
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv
            sys.path.insert(0, str(Path(argv[0]).resolve().parent))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def main() -> None:
    """Import PRELOADED, then serve until the parent is gone."""
    path, parent = Path(sys.argv[1]), int(sys.argv[2])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    gc.disable()  # what is imported stays, and looking for garbage takes a quarter of the time
    for module in PRELOADED:
        with contextlib.suppress(ImportError):  # a process that needs it will say so itself
            importlib.import_module(module)
    gc.freeze()  # the forks' collectors leave these objects, and so their memory pages, alone
    gc.enable()
    ForkServer(path, parent).serve()


if __name__ == "__main__":
    main()
