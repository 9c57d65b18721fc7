"""Test experiments/processes/fork_server.py and fork_client.py: a real server, and processes forked from it.

All tests of this file share one server, since its imports take seconds; the last test ends the server's parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.processes import fork_client, reaping
from experiments.processes.forks import FORKS, forks_of
from experiments.project import PROJECT_DIR
from experiments.variables import MARKER

WaitFor = Callable[..., None]
Script = Callable[[str], Path]

# The server's parent: prints the server's pid and waits for the server.
PARENT = """
import os, subprocess, sys
command = [sys.executable, "-W", "ignore", "-m", "experiments.processes.fork_server", sys.argv[1], str(os.getpid())]
server = subprocess.Popen(command)
print(server.pid, flush=True)
server.wait()
"""


@dataclass
class Server:
    """A running fork server and the process that started it."""

    socket: Path
    parent: subprocess.Popen
    process: psutil.Process

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start `python *arguments` by way of the server."""
        command = [sys.executable, "-S", "-E", fork_client.__file__, str(self.socket), *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, **{**pipes, **options})

    def run(self, *arguments: object, **options: Any) -> tuple[int, str, str]:
        """Return the exit code, the output and the errors of `python *arguments`."""
        process = self.start(*arguments, **options)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, wait_for: WaitFor) -> Iterator[Server]:
    address = tmp_path_factory.mktemp("fork") / "socket"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ONLY_THE_SERVER": "1"}
    command = [sys.executable, "-c", PARENT, str(address)]
    # In a session of its own: if a test fails and kills the wrong process group, it must not end the tests themselves.
    parent = subprocess.Popen(
        command, env=environment, cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    process = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: address.exists() or parent.poll() is not None, "the server is ready", 120)
    yield Server(address, parent, process)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    parent.kill()
    parent.communicate()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a script into the test's folder."""

    def write(code: str) -> Path:
        file = tmp_path / "script.py"
        file.write_text(code)
        return file

    return write


# Prints its pid and waits to be ended.
WAITING = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(300)\n"


def said_pid(process: subprocess.Popen[str]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def gone(process: psutil.Process) -> bool:
    """Whether the process has ended and been collected: not even a zombie is left."""
    return not process.is_running()


def alive(process: psutil.Process) -> bool:
    """Whether the process runs; a zombie, which waits to be collected, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def forks(server: Server) -> list[psutil.Process]:
    return server.process.children()


@pytest.mark.parametrize(
    "code, expected",
    [
        ("pass", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(3)", 3),
        ("import sys; sys.exit(255)", 255),
        ("import os; os._exit(9)", 9),
        ("raise SystemExit(True)", 1),
    ],
)
def test_exit_codes_come_back(server: Server, script: Script, code: str, expected: int) -> None:
    assert server.run(script(code)) == (expected, "", "")


def test_an_error_is_shown_with_its_traceback(server: Server, script: Script) -> None:
    code, output, errors = server.run(script("def f():\n    raise KeyError('target')\nf()"))
    assert (code, output) == (1, "")
    assert errors.startswith("Traceback") and errors.rstrip().endswith("KeyError: 'target'")
    assert "in f" in errors


def test_an_exit_with_a_message_prints_it_as_python_does(server: Server, script: Script) -> None:
    file = script("import sys; sys.exit('no such model')")
    plain = subprocess.run([sys.executable, str(file)], capture_output=True, text=True)
    assert server.run(file) == (plain.returncode, plain.stdout, plain.stderr) == (1, "", "no such model\n")


def test_output_errors_and_input_pass_through(server: Server, script: Script, tmp_path: Path) -> None:
    file = script(
        "import os, sys\n"
        "print(sys.stdin.read()[::-1], end='')\n"
        "print('warning', file=sys.stderr)\n"
        "os.write(1, b'raw\\n')\n"
        "sys.stdout.write('é' * 100_000)"
    )
    (tmp_path / "input").write_text("abc\n")
    with open(tmp_path / "input") as stream:
        code, output, errors = server.run(file, stdin=stream)
    assert (code, errors) == (0, "warning\n")
    assert output == "\ncba" + "raw\n" + "é" * 100_000


def test_the_process_has_its_caller_s_arguments_environment_and_folder(
    server: Server, script: Script, tmp_path: Path
) -> None:
    file = script(
        "import json, os, sys\nprint(json.dumps([sys.argv, dict(os.environ), os.getcwd(), __name__, sys.path[0]]))"
    )
    environment = {"A": "1", "SPACE": "a b\nc=é", "OMP_NUM_THREADS": "1"}
    code, output, errors = server.run(file, "--steps", "2", "", env=environment, cwd=tmp_path)
    assert code == 0, errors
    arguments, variables, folder, name, path = json.loads(output)
    assert arguments == [str(file), "--steps", "2", ""]
    assert {key: value for key, value in variables.items() if key != "LC_CTYPE"} == environment  # Python adds LC_CTYPE
    assert folder == path == str(tmp_path) and name == "__main__"


def test_a_module_is_run_as_python_m_runs_it(server: Server) -> None:
    code, output, _ = server.run("-m", "json.tool", "--help")
    assert (
        code == 0 and output.startswith("usage:") and "json.tool" in output.replace("python -m json.tool", "json.tool")
    )
    assert server.run("-m", "no_such_module")[0] == 1


def test_the_imports_are_there_already_and_ray_and_verl_are_not(server: Server, script: Script) -> None:
    names = ("torch", "transformers.models.qwen2.modeling_qwen2", "ray", "verl")
    code, output, errors = server.run(script(f"import sys\nprint([name in sys.modules for name in {names}])"))
    assert (code, output, errors) == (0, "[True, True, False, False]\n", "")


def test_processes_draw_different_random_numbers(server: Server, script: Script) -> None:
    file = script(
        "import random, numpy\nprint(random.random(), numpy.random.random(), numpy.random.default_rng().random())"
    )
    first, second = (server.run(file)[1].split() for _ in range(2))
    assert len({*first, *second}) == 6


def test_torch_uses_the_threads_that_were_asked_for(server: Server, script: Script) -> None:
    file = script("import torch\nprint(torch.get_num_threads())")
    for threads in ("1", "2"):
        assert server.run(file, env={**os.environ, "OMP_NUM_THREADS": threads})[1] == f"{threads}\n"


def test_what_a_process_registered_for_its_end_is_done(server: Server, script: Script) -> None:
    assert server.run(script("import atexit\natexit.register(print, 'bye')\nraise SystemExit(4)")) == (4, "bye\n", "")


def test_processes_run_side_by_side(server: Server, script: Script, tmp_path: Path) -> None:
    """Each waits until the others have started: if they ran one after the other, they would wait for ever."""
    file = script(
        "import os, sys, time\n"
        "open(f'here-{sys.argv[1]}', 'w').close()\n"
        "while sum(name.startswith('here-') for name in os.listdir()) < 4: time.sleep(0.01)\n"
        "raise SystemExit(10 + int(sys.argv[1]))"
    )
    started = [server.start(file, number, cwd=tmp_path) for number in range(4)]
    for number, process in enumerate(started):
        process.communicate(timeout=60)
        assert process.returncode == 10 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_the_client_reach_the_process(server: Server, script: Script, number: signal.Signals) -> None:
    file = script(
        "import os, signal, time\n"
        "def asked(number, frame):\n    os.write(1, b'got %d\\n' % number)\n    raise SystemExit(7)\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n    signal.signal(number, asked)\n" + WAITING
    )
    process = server.start(file)
    said_pid(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (7, f"got {int(number)}\n", "")


def test_a_process_without_a_handler_ends_by_the_signal_and_so_does_its_client(server: Server, script: Script) -> None:
    process = server.start(script(WAITING))
    fork = said_pid(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert gone(fork)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_client_dies_the_death_of_its_process(server: Server, script: Script, number: signal.Signals) -> None:
    """A process that waits for the client, such as Ray, sees the end that it would have seen without the server."""
    file = script(
        f"import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.kill(os.getpid(), {int(number)})"
    )
    assert server.run(file)[0] == -number


def test_a_signal_that_comes_right_after_the_fork_ends_the_process(server: Server, script: Script) -> None:
    """The new process still has the server's handlers then, and they would swallow the signal."""
    request = json.dumps({"argv": [str(script(WAITING))], "env": dict(os.environ), "cwd": str(PROJECT_DIR)}).encode()
    with open(os.devnull, "r+b") as null:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(60)
                connection.connect(str(server.socket))
                socket.send_fds(connection, [struct.pack("I", len(request))], [null.fileno()] * 3)
                connection.sendall(request)
                assert len(connection.recv(4)) == 4, "the pid of the process"
                connection.sendall(struct.pack("i", signal.SIGTERM))
                assert struct.unpack("i", connection.recv(4)) == (-signal.SIGTERM,)


def test_a_process_dies_with_its_client(server: Server, script: Script, wait_for: WaitFor) -> None:
    """The server lives on, though it hears of the same end twice: from the connection and from the child."""
    file = script("import signal\nfor number in (1, 2, 15):\n    signal.signal(number, signal.SIG_IGN)\n" + WAITING)
    clients = [server.start(file) for _ in range(3)]
    pids = [said_pid(client) for client in clients]
    for client in clients:
        client.kill()
        client.communicate()
    for fork in pids:
        wait_for(lambda fork=fork: gone(fork), "the process ends with its client")
    assert server.run(script("print('still here')")) == (0, "still here\n", "")


def test_reaping_a_run_ends_its_forks(server: Server, script: Script, tmp_path: Path, wait_for: WaitFor) -> None:
    """For a fork the kernel shows the server's environment. So only the client has the run's marker, for both."""
    client = server.start(script(WAITING), env={**os.environ, MARKER: str(tmp_path)})
    fork = said_pid(client)
    assert reaping.reap(tmp_path) >= 1
    client.communicate()
    wait_for(lambda: gone(fork), "the fork ends")


def test_a_run_s_forks_are_known(server: Server, script: Script, tmp_path: Path, wait_for: WaitFor) -> None:
    runs = (tmp_path / "run", tmp_path / "run", tmp_path / "another")
    clients = [server.start(script(WAITING), env={**os.environ, MARKER: str(run)}) for run in runs]
    forks = [said_pid(client) for client in clients]
    folder = server.socket.parent
    assert set(forks_of(folder, tmp_path / "run")) == set(forks[:2])
    stranger = {"pid": os.getpid(), "run": str(tmp_path / "run"), "server": server.process.pid}
    with open(folder / FORKS, "a") as notes:
        notes.write(json.dumps(stranger) + "\n")
    assert set(forks_of(folder, tmp_path / "run")) == set(forks[:2]), "a number that another process has now"
    clients[0].kill()
    wait_for(lambda: gone(forks[0]), "the fork ends")
    assert list(forks_of(folder, tmp_path / "run")) == [forks[1]]
    for client in clients:
        client.kill()
        client.communicate()
    for fork in forks:
        wait_for(lambda fork=fork: gone(fork), "the fork ends")


def test_a_process_in_a_group_of_its_own_does_not_take_the_server_along(server: Server, script: Script) -> None:
    """The raylet ends the whole process group of a worker."""
    process = server.start(
        script("import os, signal\nos.killpg(os.getpgid(0), signal.SIGKILL)"), start_new_session=True
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert server.process.is_running()


@pytest.mark.parametrize(
    "request_bytes", [b"", b"\x10", struct.pack("I", 50) + b'{"argv": ["x'], ids=["none", "torn", "cut"]
)
def test_a_client_that_dies_while_it_asks_harms_nobody(server: Server, script: Script, request_bytes: bytes) -> None:
    """Its pipes are closed: a reader of the dead client's output would otherwise wait until the server ends."""
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(server.socket))
        if request_bytes:
            socket.send_fds(connection, [request_bytes], [write, write, write])
    os.close(write)
    assert server.run(script("print('still here')")) == (0, "still here\n", "")
    assert not forks(server)
    os.set_blocking(read, False)
    assert os.read(read, 1) == b"", "the end of the pipe, and not: nothing yet"
    os.close(read)


def test_a_process_imports_what_its_own_python_path_says(server: Server, script: Script, tmp_path: Path) -> None:
    """This holds for this package too: the server has its modules loaded, but the launch's copy must win."""
    package = tmp_path / "copy" / "experiments"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "attempt.py").write_text("print('the copy', __name__)\n")
    environment = {**os.environ, "PYTHONPATH": f"copy{os.pathsep}nowhere"}
    assert server.run("-m", "experiments.attempt", env=environment, cwd=tmp_path)[1] == "the copy __main__\n"
    asking = script("import experiments.attempt, sys\nprint(sys.path[1:3])")
    code, output, errors = server.run(asking, env=environment, cwd=tmp_path)
    expected = [str(tmp_path / "copy"), str(tmp_path / "nowhere")]
    assert (code, output) == (0, f"the copy experiments.attempt\n{expected}\n"), errors
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    _, output, _ = server.run(script("import experiments\nprint(experiments.__file__)"), env=without, cwd=tmp_path)
    assert output == f"{PROJECT_DIR / 'experiments' / '__init__.py'}\n"


def test_a_script_that_is_not_there_is_an_error_of_the_process(server: Server, tmp_path: Path) -> None:
    code, _, errors = server.run(tmp_path / "missing.py")
    assert code == 1 and "missing.py" in errors
    code, _, errors = server.run(cwd=tmp_path)
    assert code == 1 and "Traceback" in errors


def test_nothing_is_kept_of_processes_that_have_ended(server: Server, script: Script) -> None:
    """Neither zombies nor descriptors are kept. One connection may be about to be closed; ten would be a leak."""
    before = server.process.num_fds()
    for number in range(10):
        assert server.run(script(f"raise SystemExit({number})"))[0] == number
    assert not forks(server)
    assert server.process.num_fds() <= before + 1


def test_without_a_server_a_client_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-E", fork_client.__file__, str(tmp_path / "socket"), "-c", "pass"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "FileNotFoundError" in done.stderr


def test_processes_do_not_outlive_a_killed_server(script: Script, tmp_path: Path, wait_for: WaitFor) -> None:
    """A server may be killed, e.g. when memory runs out. A small one is enough: numpy and a stand-in for torch."""
    code = (
        "import sys, types\nfrom experiments.processes import fork_server\n"
        "sys.modules['torch'] = types.SimpleNamespace(set_num_threads=lambda count: None)\n"
        "fork_server.PRELOADED = ('numpy',)\nfork_server.main()"
    )
    address = tmp_path / "socket"
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(address), str(os.getpid())], cwd=PROJECT_DIR, start_new_session=True
    )
    small = Server(address, started, psutil.Process(started.pid))
    wait_for(address.exists, "the server is ready")
    client = small.start(script(WAITING))
    fork = said_pid(client)
    started.kill()
    started.wait()
    wait_for(lambda: not alive(fork), "the fork ends")
    client.communicate(timeout=60)
    assert client.returncode == 1


def test_the_server_and_its_processes_end_with_the_server_s_parent(
    server: Server, script: Script, wait_for: WaitFor
) -> None:
    """A killed launcher leaves neither the server nor its processes. This must be the last test of this file."""
    client = server.start(script(WAITING))
    fork = said_pid(client)
    server.parent.kill()
    server.parent.wait()
    wait_for(lambda: not alive(server.process), "the server ends")
    wait_for(lambda: not alive(fork), "the fork ends")
    client.communicate(timeout=60)
    assert client.returncode != 0
