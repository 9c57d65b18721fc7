"""The commands show, logs, cancel, retry, diff and clean, and how they find a run by its name.

Where a command deals with processes, the processes are real.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.project import PROJECT_DIR
from experiments.runs import logs
from experiments.store.code_copy import snapshot
from experiments.store.config_yaml import as_yaml
from experiments.store.frozen import freeze_launch
from experiments.store.rundir import FORMAT, RunDir

WaitFor = Callable[..., None]
STARTED = ("started", {"attempt": 1, "host": socket.gethostname(), "steps": 40})
COMMAND = [sys.executable, "-m", "experiments.runs"]

# An attempt without the training: it locks the run, records its start and, when asked to end, ends in its own way.
ATTEMPT = """
import os, signal, sys, time
from pathlib import Path
from experiments.store.rundir import RunDir
run, manner, host = RunDir(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
with run.lock():
    attempt = run.new_attempt()
    def asked(number, frame):
        if manner == "polite":
            run.record("interrupted", attempt=1)
            os._exit(130)
    signal.signal(signal.SIGTERM, asked)
    run.record("started", attempt=attempt.number, pid=os.getpid(), host=host, steps=40)
    with open(attempt.log, "w") as log:
        for k in range(10_000):
            log.write(f"step {k}\\n")
            log.flush()
            time.sleep(0.05)
"""


@pytest.fixture
def attempt(wait_for: WaitFor) -> Iterator[Callable[..., subprocess.Popen]]:
    started: list[subprocess.Popen] = []

    def start(run: RunDir, manner: str = "polite", host: str = socket.gethostname()) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", ATTEMPT, str(run.path), manner, host])
        started.append(process)
        wait_for(lambda: run.state() == "running" and run.attempts()[0].log.exists(), "the attempt starts")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


# Naming a run


def test_a_run_is_named_by_any_unambiguous_prefix_of_its_name_or_id(folder: Any) -> None:
    folder.make("temperature=0.6,seed=1-0123abcd", STARTED, "finished")
    folder.make("temperature=0.6,seed=2-01f00000", STARTED, "failed")
    for name in ("temperature=0.6,seed=1", "0123", "0123abcd", str(folder.path / "temperature=0.6,seed=1-0123abcd")):
        code, printed, _ = folder.command("show", name)
        assert code == 0 and printed.startswith("temperature=0.6,seed=1-0123abcd: finished")


def test_an_ambiguous_prefix_names_the_candidates_and_an_unknown_one_the_nearest(folder: Any) -> None:
    names = ("temperature=0.6,seed=1-0123abcd", "temperature=0.6,seed=2-01f00000")
    for name in names:
        folder.make(name)
    for prefix in ("temp", "01"):
        code, printed, errors = folder.command("show", prefix)
        assert (code, printed) == (2, "")
        assert f"{prefix!r} begins 2" in errors and all(name in errors for name in names)
    code, _, errors = folder.command("show", "temprature=0.6,seed=2")
    assert code == 2 and errors.index(names[1]) < errors.index(names[0])
    code, _, errors = folder.command("cancel", "temp", "nothing")
    assert code == 2 and errors.count("error: ") == 2, "all problems at once"


def test_an_id_that_begins_another_one_names_its_run(folder: Any) -> None:
    folder.make("a-12", "cancelled")
    folder.make("b-1234")
    assert folder.command("logs", "12")[2].startswith("error: a-12 must have an attempt, but is cancelled")


def test_there_is_no_run_to_name(folder: Any) -> None:
    code, _, errors = folder.command("show", "x")
    assert code == 2 and "there are none in" in errors and "python -m experiments.run" in errors


@pytest.mark.parametrize("command", ["show", "logs", "cancel", "retry", "clean"])
def test_a_newer_version_s_run_is_refused(folder: Any, command: str) -> None:
    run = folder.make("a-1", STARTED, "finished")
    (run.path / "code.json").write_text(json.dumps({"format": FORMAT + 1}))
    code, _, errors = folder.command(command, "a")
    assert code == 2 and "a newer version made it" in errors
    assert len(run.events()) == 3


# show and diff


def test_show_tells_config_events_attempts_and_samples(folder: Any) -> None:
    run = folder.make("a-1", STARTED, ("failed", {"kind": "killed", "remedy": "start again"}), temperature=0.6, seed=3)
    folder.train(run, range(1, 13))
    samples = run.attempts()[0].rollouts
    samples.mkdir()
    for step in (2, 12):
        row = {"step": step, "score": 0.1, "input": "numbers 3", "output": " \x1b[2J<answer>\n3 </answer>"}
        (samples / f"{step}.jsonl").write_text((json.dumps(row) + "\n") * 5)
    code, printed, _ = folder.command("show", "a")
    assert code == 0
    assert "rollout.temperature: 1.0 -> 0.6" in printed and "\n  seed: 1 -> 3" in printed
    assert "failed       kind=killed  remedy=start again" in printed
    assert f"{run.path}/attempts/1" in printed
    assert printed.count("step 12, score 0.1:") == 3 and "step 2," not in printed
    assert "\x1b" not in printed and "<answer>\n  3 </answer>" in printed


def test_show_is_not_misled_by_damaged_samples(folder: Any) -> None:
    run = folder.make("a-1", STARTED, "finished")
    folder.train(run, range(1, 2))
    run.attempts()[0].rollouts.mkdir()
    for content in (b'{"step": 1\n', b"[]\n", b'{"score": 1}\n', b"\xff\n", b""):
        (run.attempts()[0].rollouts / "1.jsonl").write_bytes(content)
        assert folder.command("show", "a")[0] == 0


def test_diff_puts_first_what_can_change_the_result(folder: Any) -> None:
    folder.make("a-1", temperature=0.6)
    other = folder.make("b-2", STARTED)
    folder.train(other, range(1, 11))
    other.config_file.write_text(other.config_file.read_text().replace("40", "80"))
    code, printed, _ = folder.command("diff", "a", "b")
    assert code == 0
    assert printed.startswith("- a-1: planned at step 0\n+ b-2: killed at step 10, validation accuracy 0.010\n")
    science, _, rest = printed.partition("what cannot")
    assert "rollout.temperature: 0.6 -> 1.0" in science and "total_training_steps" not in science
    assert "trainer.total_training_steps: 40 -> 80" in rest and "temperature" not in rest


# logs


def test_logs_prints_the_last_attempt_s_and_steers_no_terminal(folder: Any) -> None:
    run = folder.make("a-1", STARTED, "finished")
    run.new_attempt().log.write_text("old\n")
    run.new_attempt().log.write_bytes(
        "\x1b[36m(TaskRunner pid=1)\x1b[0m hé\r\nbar 1%\rbar 2%\n".encode()
        + b"\x1b]0;title\x07\x1b[2J\x07\x08\xc2\x9b31mx\xff\x00\tlast"
    )
    code, printed, _ = folder.command("logs", "a")
    assert code == 0
    assert printed == "(TaskRunner pid=1) hé\nbar 1%\nbar 2%\n31mx\ufffd\tlast"


def test_following_a_log_ends_with_the_run(folder: Any, attempt: Any, wait_for: WaitFor) -> None:
    run = folder.make("a-1")
    follower = subprocess.Popen(
        [*COMMAND, "--runs-dir", str(folder.path), "logs", "-f", "a"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_DIR,
    )
    process = attempt(run)  # `logs` follows it from before its start
    assert follower.stdout is not None
    first = [follower.stdout.readline() for _ in range(20)]
    assert process.poll() is None, "the log is shown while it is written"
    process.terminate()
    rest = follower.stdout.read()
    assert follower.wait(60) == 0
    assert "".join(first) + rest == run.attempts()[0].log.read_text()


def test_following_a_run_whose_launch_was_killed_ends(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(logs, "BEGIN_SECONDS", 1.0)
    run = folder.make("a-1", ("launched", {"launcher": "local", "steps": 40}))
    with run.wanted():  # as the launcher holds it while other runs are before this one
        follower = threading.Thread(target=lambda: told.append(folder.command("logs", "-f", "a")))
        told: list[Any] = []
        follower.start()
        follower.join(2.0)
        assert follower.is_alive()
    follower.join(20.0)
    ((code, _, said),) = told
    assert code == 2 and "its launch has ended without it; type the launch again" in said


# cancel


def test_a_waiting_run_is_taken_back(folder: Any) -> None:
    run = folder.make("a-1", ("launched", {"launcher": "local", "steps": 40}))
    again = folder.make("b-2", STARTED, "failed", ("launched", {"launcher": "local", "steps": 40}))
    code, printed, _ = folder.command("cancel", "a", "b")
    assert code == 0 and "a-1: cancelled" in printed
    assert run.state() == again.state() == "cancelled"


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_a_running_run_is_ended(
    folder: Any, attempt: Any, manner: str, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    from experiments.runs import cancel

    monkeypatch.setattr(cancel, "PATIENCE_SECONDS", 1.0)
    run = folder.make("a-1")
    process = attempt(run, manner)
    assert folder.command("cancel", "a")[0] == 0
    assert not run.is_locked() and run.state() == "cancelled"
    process.wait(10)
    assert ("interrupted" in [event["event"] for event in run.events()]) == (manner == "polite")


def test_what_can_t_be_cancelled_is_refused_and_nothing_is(folder: Any, attempt: Any) -> None:
    folder.make("waiting-0", "launched")
    folder.make("done-1", STARTED, "finished")
    elsewhere = folder.make("elsewhere-2")
    attempt(elsewhere, host="node7")
    code, _, errors = folder.command("cancel", "waiting", "done", "elsewhere")
    assert code == 2
    assert "done-1 must be running or waiting to be cancelled, but is finished" in errors
    assert "elsewhere-2 must be cancelled where it runs, which is node7" in errors
    assert "cancelled" not in {event["event"] for event in RunDir(folder.path / "waiting-0").events()}
    assert elsewhere.state() == "running"


def test_a_stranger_with_the_attempt_s_number_is_left_alone(folder: Any, attempt: Any) -> None:
    """A pid can be used again. Here the events name this test's own process, while another process holds the run."""
    run = folder.make("a-1")
    process = attempt(run)
    run.record("started", attempt=1, pid=os.getpid(), host=socket.gethostname())
    code, _, errors = folder.command("cancel", "a")
    assert code == 2 and "that is another process; end it by hand" in errors
    assert process.poll() is None and run.state() == "running"


# retry


def test_only_what_failed_is_tried_again(folder: Any) -> None:
    folder.make("done-1", STARTED, "finished")
    folder.make("waiting-2", "launched")
    slurm = folder.make("queue-3", ("submitted", {"job": "12_3"}), STARTED, "failed")
    code, _, errors = folder.command("retry", "done", "waiting", "queue")
    assert code == 2
    assert "done-1 must have failed to be tried again, but is finished" in errors
    assert "waiting-2 must have failed to be tried again, but is planned" in errors
    assert f"queue-3 must be tried again where it ran; do: sbatch {slurm.path}/job.sh" in errors


# This replaces the attempt in the copy of the code with which a run was launched.
COPIED = """
import sys
import threading
from pathlib import Path
from experiments.store.rundir import RunDir
RunDir(Path(sys.argv[1])).record("finished", step=60, arguments=sys.argv[2:])
"""


def test_what_failed_is_launched_as_it_was_launched_last(folder: Any, resolved: Callable[..., Any]) -> None:
    """With the config, the code and the last step of its last launch, even if this project has others by now."""
    done, failed = folder.make("done-1", STARTED, "finished"), RunDir(folder.path / "failed-2")
    config = resolved("hardware.fast=false")
    failed.create(as_yaml(config), {}, config)
    smaller = resolved("hardware.fast=false", "trainer.save_freq=3")
    second = freeze_launch(failed.path, as_yaml(smaller), smaller)
    code = snapshot(folder.path, [])
    (code / "experiments" / "attempt" / "__main__.py").write_text(COPIED)
    last = {"launcher": "local", "steps": 60, "code": code.name, "config": second}
    failed.record("launched", **{**last, "steps": 20, "code": "older", "config": "config.yaml"})
    failed.record("launched", **last)
    failed.record("started", steps=60)
    failed.record("failed")
    command = [*COMMAND, "--runs-dir", str(folder.path), "retry"]
    tried = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_DIR, timeout=120)
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.startswith("1 run: 1 arm, 1 seed"), "the plan is shown"
    launched, ended = failed.events()[-2:]
    assert {key: launched[key] for key in last} == last and launched["event"] == "launched"
    assert ended["arguments"] == ["--steps", "60", "--config", second]
    assert [event["event"] for event in done.events()] == ["planned", "started", "finished"]
    assert list((folder.path / ".code").iterdir()) == [code], "no other copy was made"
    failed.record("started", config=second)
    failed.record("failed")
    _, printed, _ = folder.command("show", "failed")
    assert f"what attempts with {second} changed; it cannot change the result\n  trainer.save_freq: 10 -> 3" in printed


def test_what_can_t_be_launched_as_it_was_is_not_tried_again(folder: Any) -> None:
    code = snapshot(folder.path, []).name
    folder.make("foreign-1", ("launched", {"code": code}), STARTED, "failed")
    folder.make("old-2", STARTED, "failed")
    result, _, errors = folder.command("retry")
    assert result == 2 and len(errors.splitlines()) == 2
    assert "foreign-1/config.yaml must be the config of a run, but is foreign or damaged (KeyError(" in errors
    assert "old-2 must be tried again with the code that it was launched with" in errors


def test_nothing_failed(folder: Any) -> None:
    folder.make("done-1", STARTED, "finished")
    code, printed, _ = folder.command("retry")
    assert code == 0 and "no run has failed" in printed


# clean


def checkpoints(run: RunDir, *steps: int) -> None:
    for step in steps:
        weights = run.checkpoints / f"global_step_{step}" / "actor" / "model.pt"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"x" * 100_000)
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(steps[-1]))


def test_clean_frees_finished_runs_and_keeps_what_says_they_are_done(folder: Any) -> None:
    done, failed = (
        folder.make("done-1", STARTED, ("finished", {"step": 40})),
        folder.make("failed-2", STARTED, "failed"),
    )
    checkpoints(done, 30, 40)
    checkpoints(failed, 10)
    folder.train(done, range(1, 41))
    code, printed, _ = folder.command("clean", "--yes")
    assert code == 0
    assert "200 KiB  done-1" in printed and "freed 200 KiB" in printed and "failed-2" not in printed
    assert os.listdir(done.checkpoints) == ["latest_checkpointed_iteration.txt"]
    assert (done.state(), done.checkpoint_step(), done.reached()) == ("finished", 0, 40)
    assert done.events()[-1] | {"time": 0} == {"time": 0, "event": "cleaned", "bytes": 204_800}
    assert sorted(path.name for path in done.path.iterdir() if "deleted" in path.name) == []
    assert (failed.checkpoints / "global_step_10" / "actor" / "model.pt").is_file()
    assert "nothing to free" in folder.command("clean", "--yes")[1]


def test_clean_asks_first(folder: Any) -> None:
    run = folder.make("done-1", STARTED, "finished")
    checkpoints(run, 40)
    command = [*COMMAND, "--runs-dir", str(folder.path), "clean"]
    silent = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=PROJECT_DIR)
    assert silent.returncode == 2 and "give --yes" in silent.stderr
    for answer, left in (("\n", True), ("no\n", True), ("y\n", False)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True, cwd=PROJECT_DIR)
        os.write(ours, answer.encode())
        printed, _ = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == 0 and "delete them? [y/N]" in printed
        assert (run.checkpoints / "global_step_40").exists() == left


def test_clean_refuses_an_unfinished_run_and_leaves_a_running_one_alone(folder: Any) -> None:
    run, done = folder.make("a-1", STARTED), folder.make("done-2", STARTED, "finished")
    checkpoints(run, 10)
    checkpoints(done, 40)
    code, _, errors = folder.command("clean", "a", "--yes")
    assert code == 2 and "a-1 must be finished to be cleaned, but is killed" in errors
    with done.lock():
        code, printed, _ = folder.command("clean", "--yes")
    assert code == 0 and "done-2: left alone, it has been started again" in printed
    assert (done.checkpoints / "global_step_40").is_dir()


def test_watching_needs_a_terminal_and_shows_the_table_there(folder: Any, tmp_path: Path) -> None:
    folder.make("a-1", STARTED, "finished")
    code, _, errors = folder.command("list", "--watch")
    assert code == 2 and "--watch must have a terminal" in errors
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen(
        [*COMMAND, "--runs-dir", str(folder.path), "list", "--watch"],
        stdin=theirs,
        stdout=theirs,
        cwd=PROJECT_DIR,
        env=environment,
    )
    shown = b""
    while b"finished" not in shown:
        shown += os.read(ours, 65_536)
    process.send_signal(signal.SIGINT)
    os.close(theirs)
    assert process.wait(60) == 0
    os.close(ours)
