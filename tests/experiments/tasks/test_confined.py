"""A judge in a process of its own: the kernel ends what takes too long or too much, and the next answer is judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from experiments.project import PROJECT_DIR
from experiments.tasks.confined import Judge

# It evaluates what it is asked: here the test writes that, and no model.
MODULE = """
import os, sys, time
from experiments.tasks import confined

confined.SECONDS, confined.MEMORY = 0.3, 1 << 29

def load():
    if sys.argv[1:] == ["broken"]:
        raise ImportError("no such package")
    return lambda request: eval(request)

if __name__ == "__main__":
    confined.serve(load)
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    (tmp_path / "evaluating.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    judge = Judge("evaluating")
    yield judge
    judge._end()


def test_threads_share_a_judge_and_each_gets_its_own_answer(judge: Judge) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(judge.ask, [f"({number}, os.getpid())" for number in range(40)]))
    assert [number for number, _ in answers] == list(range(40))
    assert len({process for _, process in answers}) == 1


def test_a_fork_does_not_share_the_judge(judge: Judge) -> None:
    before = judge.ask("os.getpid()")
    if (child := os.fork()) == 0:
        own = judge.ask("os.getpid()")
        os._exit(0 if own not in (None, before) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert judge.ask("os.getpid()") == before


@pytest.mark.parametrize(
    "text, why",
    [
        ("9**9**9", "of computing"),  # one computation in C, in which Python handles no signal
        ("[1 for _ in iter(int, 1)]", "of computing"),
        ("len(bytearray(1 << 30))", "too much memory"),
        ("os._exit(3)", "its process ended with 3"),
        ("os.kill(os.getpid(), 11)", "its process ended with -11"),
        ("1 / 0", "its process ended with 1"),
    ],
)
def test_what_is_beyond_the_limits_is_none_and_the_next_answer_is_judged(
    judge: Judge, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    before = judge.ask("os.getpid()")
    assert judge.ask(text) is None
    assert why in capsys.readouterr().out
    assert judge.ask("os.getpid()") not in (None, before)
    assert not psutil.pid_exists(before)


def test_time_that_others_take_does_not_count(judge: Judge) -> None:
    assert judge.ask("time.sleep(1) or 5") == 5


def test_what_is_printed_is_no_answer_and_no_file_is_written(judge: Judge, tmp_path: Path) -> None:
    assert judge.ask("print('7') or 5") == 5
    file = tmp_path / "written"
    assert judge.ask(f"open({str(file)!r}, 'w').write('x')") in (None, 1)  # it fails when it is closed
    judge._end()
    assert file.read_text() == ""


def test_a_judge_that_can_t_load_is_an_error_and_not_a_wrong_answer(judge: Judge) -> None:
    with pytest.raises(RuntimeError, match="can't judge answers: ImportError: no such package"):
        Judge("evaluating", "broken").ask("1")
    with pytest.raises(RuntimeError, match="it ended with 1"):
        Judge("no_such_module").ask("1")


@pytest.mark.parametrize("busy", ["1", "[1 for _ in iter(int, 1)]"])
def test_a_judge_ends_with_its_parent(judge: Judge, busy: str, wait_for: Callable[..., None]) -> None:
    code = (
        "import threading; from experiments.tasks.confined import Judge; judge = Judge('evaluating')\n"
        "print(judge.ask('os.getpid()'), flush=True)\n"
        f"judge.ask({busy!r})\n"
        "threading.Event().wait()"
    )
    path = os.pathsep.join([str(PROJECT_DIR), os.environ["PYTHONPATH"]])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not psutil.pid_exists(child), "the judge ends")
