"""Test experiments/store/rundir.py: what is written survives any death at any time, and a run's state is right."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.errors import UserError
from experiments.store.files import read_jsonl, write_atomically
from experiments.store.rundir import FORMAT, RunDir, find_runs

WaitFor = Callable[..., None]
CONFIG = "seed: 1\nrollout:\n  temperature: 0.6\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "grpo,seed=1-0123abcd")
    run.create(CONFIG, {"commit": "abc"})
    return run


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start `code` in a process of its own, with `arguments` as its sys.argv[1:]."""
    header = "import sys, os, time, signal\nfrom pathlib import Path\nfrom experiments.store.rundir import *\n"
    command = [sys.executable, "-c", header + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def output(process: subprocess.Popen[str]) -> str:
    """Return what the process printed; its exit code must be 0."""
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    return printed.strip()


@pytest.fixture
def holder(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run's lock until it is killed."""
    process = python(
        "with RunDir(Path(sys.argv[1])).lock():\n    print('locked', flush=True)\n    time.sleep(300)", run.path
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


# Writing atomically


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "code.json"
    write_atomically(file, "old")
    write_atomically(file, "néw\n")
    assert file.read_text(encoding="utf-8") == "néw\n"
    assert os.listdir(tmp_path) == ["code.json"]
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("existed", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, existed: bool) -> None:
    """The process may write files of at most 4 kB, so its write fails half-way, as on a full disk."""
    file = tmp_path / "config.yaml"
    if existed:
        file.write_text("old")
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), "x" * 100_000)
except OSError as error:
    print("refused", error.errno)
"""
    assert output(python(code, file)).startswith("refused")
    assert os.listdir(tmp_path) == (["config.yaml"] if existed else [])
    assert not existed or file.read_text() == "old"


def test_a_text_that_can_t_be_encoded_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "x" * 100_000 + "\ud800")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["config.yaml"]


def test_a_file_is_whole_whenever_it_is_read_and_whenever_its_writer_is_killed(
    tmp_path: Path, wait_for: WaitFor
) -> None:
    file, size = tmp_path / "state", 300_000
    whole = ("a" * size, "b" * size)
    code = "while True:\n    for letter in 'ab':\n        write_atomically(Path(sys.argv[1]), letter * 300_000)"
    for _ in range(3):
        write_atomically(file, whole[0])
        process = python(code, file)
        wait_for(lambda: file.read_text() == whole[1], "the other process writes")
        for _ in range(150):
            assert file.read_text() in whole
        process.kill()
        process.communicate()
        assert file.read_text() in whole


# Events


def test_events_are_read_as_they_were_recorded(run: RunDir) -> None:
    run.record("started", attempt=1, host="node\n7 é \ud800")
    run.record("finished", step=50)
    assert [event["event"] for event in run.events()] == ["planned", "started", "finished"]
    assert run.events()[1]["host"] == "node\n7 é \ud800"
    times = [event["time"] for event in run.events()]
    assert times == sorted(times)


names = st.sampled_from(["started", "resumed", "checkpoint", "finished", "failed"])
values = st.one_of(st.integers(-(2**53), 2**53), st.text(), st.booleans(), st.none(), st.floats(allow_nan=False))
fields = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda key: key not in ("time", "event")), values, max_size=3
)


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """Return what a kill or a power cut may leave at the end of the file: part of an event, or any bytes."""
    event = json.dumps({"time": 1.5, "event": draw(names), **draw(fields)}).encode()
    garbage = draw(st.binary(max_size=40))
    return draw(st.sampled_from([event[: draw(st.integers(0, len(event) - 1))], garbage, b"\0" * 40, b"[" + garbage]))


def is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@given(st.lists(st.tuples(names, fields, torn()), max_size=4))
def test_every_recorded_event_is_read_whatever_was_torn_in_between(steps: list[tuple[str, dict, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        for name, more, damage in steps:
            # Leave out bytes that happen to be whole events: they would rightly be read as such.
            damage = b"\n".join(line for line in damage.split(b"\n") if not is_event(line))
            with open(run.events_file, "ab") as file:
                file.write(damage)
            run.record(name, **{f"x{key}": value for key, value in more.items()})
        expected = [{"event": name, **{f"x{key}": value for key, value in more.items()}} for name, more, _ in steps]
        assert [{key: value for key, value in event.items() if key != "time"} for event in run.events()] == expected


def test_a_last_line_without_its_end_is_whole_if_its_event_is(run: RunDir) -> None:
    run.events_file.write_bytes(run.events_file.read_bytes().rstrip(b"\n"))
    assert [event["event"] for event in run.events()] == ["planned"]
    run.record("started")
    assert [event["event"] for event in run.events()] == ["planned", "started"]


def test_an_event_that_finds_no_room_is_an_error_and_the_next_one_is_whole(run: RunDir) -> None:
    code = """
import resource
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    RunDir(Path(sys.argv[1])).record("checkpoint", step=10, text="x" * 100)
except OSError:
    print("refused")
"""
    size = run.events_file.stat().st_size
    assert output(python(code, run.path, size + 40)) == "refused", "half an event was written, and nobody was told"
    assert run.events_file.stat().st_size == size + 40
    run.record("interrupted")
    assert [event["event"] for event in run.events()] == ["planned", "interrupted"]


def test_several_processes_may_record_at_the_same_time(run: RunDir) -> None:
    code = "for k in range(100):\n    RunDir(Path(sys.argv[1])).record('checkpoint', who=int(sys.argv[2]), step=k)"
    for process in [python(code, run.path, who) for who in range(3)]:
        output(process)
    seen = [(event["who"], event["step"]) for event in run.events() if event["event"] == "checkpoint"]
    assert sorted(seen) == [(who, step) for who in range(3) for step in range(100)]
    for who in range(3):
        assert [step for writer, step in seen if writer == who] == list(range(100))


WRITER = """
import json
run, metrics, first = RunDir(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
with run.lock():
    run.record("started", first=first)
    with open(metrics, "ab", buffering=0) as file:
        for step in range(first, 1_000_000):
            row = {"step": step, "data": {"training/global_step": step, "text": "x" * 4000}}
            file.write(json.dumps(row).encode() + b"\\n")
            run.record("checkpoint", step=step)
            print(step, flush=True)
"""


def test_what_was_reported_survives_a_kill_at_any_moment(run: RunDir, wait_for: WaitFor) -> None:
    """Thirty writers run one after the other, each killed at a random moment: no step is lost, doubled or misplaced."""
    moments = random.Random(7)
    rows: list[dict[str, Any]] = []
    torn = 0
    for kills in range(1, 31):
        reached = len(rows)
        metrics = run.new_attempt().metrics
        process = python(WRITER, run.path, metrics, reached + 1)
        wait_for(run.is_locked, "the writer starts")
        time.sleep(moments.random() * 0.15)
        process.kill()
        printed = [int(line) for line in process.communicate()[0].split("\n")[:-1]]
        new, cut = read_jsonl(metrics)
        rows, torn = rows + new, torn + cut
        events, damaged = read_jsonl(run.events_file)
        told = [event["step"] for event in events if event["event"] == "checkpoint"]
        assert torn + damaged <= kills  # a kill can cut the one line that is being written
        assert told == list(range(1, len(told) + 1))
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        assert len(told) >= max(printed, default=reached)
        assert 0 <= len(rows) - len(told) <= 1
        assert run.state() in ("killed", "planned") and run.last_step() == len(rows)
        if len(rows) > len(told):  # killed between row and event: a resumed run writes the event of that step
            run.record("checkpoint", step=len(rows))
    assert len(rows) > 100


def test_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n\n[1, 2]\n{"step": 2}\nnull\n\xff\xfe\n{"step": 3, "da')
    assert read_jsonl(file) == ([{"step": 1}, {"step": 2}], 4)
    assert read_jsonl(tmp_path / "missing") == ([], 0)


# The folder


def test_creating_is_done_once(run: RunDir) -> None:
    run.create("seed: 2\n", {"commit": "other"})
    assert run.load_config() == {"seed": 1, "rollout": {"temperature": 0.6}}
    assert json.loads((run.path / "code.json").read_text()) == {"format": FORMAT, "commit": "abc"}
    assert [event["event"] for event in run.events()] == ["planned"]


def test_creating_goes_on_where_a_kill_cut_it_short(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    write_atomically(run.path / "code.json", json.dumps({"format": FORMAT, "commit": "first"}))
    run.create(CONFIG, {"commit": "second"})
    assert json.loads((run.path / "code.json").read_text())["commit"] == "first"
    assert run.load_config()["seed"] == 1
    assert run.state() == "planned" and len(run.events()) == 1


def test_of_several_that_make_the_same_run_one_does(tmp_path: Path) -> None:
    """They differ in what cannot change the result. The run has the config of one of them, and was planned once."""
    code = """
while not Path(sys.argv[1]).parent.exists():
    pass
RunDir(Path(sys.argv[1])).create(f"seed: 1\\nwho: {sys.argv[2]}\\n", {"who": sys.argv[2]})
"""
    for k in range(5):
        run = RunDir(tmp_path / str(k) / "run")
        makers = [python(code, run.path, who) for who in range(3)]
        run.path.parent.mkdir()
        for maker in makers:
            output(maker)
        assert [event["event"] for event in run.events()] == ["planned"]
        made = run.load_config()["who"]
        assert json.loads((run.path / "code.json").read_text())["who"] == str(made)


def test_the_quick_copy_of_the_config_counts_only_while_it_is_one(run: RunDir) -> None:
    copy = run.path / "config.json"
    assert json.loads(copy.read_text())["config"] == run.load_config()
    run.config_file.write_text("seed: 2\n")
    assert run.load_config() == {"seed": 2}
    for damaged in ("", "[]", "{}", '{"of": 1}', "\0"):
        copy.write_text(damaged)
        assert run.load_config() == {"seed": 2}
    copy.unlink()
    assert run.load_config() == {"seed": 2}, "a folder of an older version has none"


def test_a_config_that_json_can_t_hold_has_no_copy(tmp_path: Path) -> None:
    for k, config in enumerate(["since: 2025-01-21\n", "1: one\n", "limit: .nan\n"]):
        run = RunDir(tmp_path / str(k))
        run.create(config, {})
        assert not (run.path / "config.json").exists()
        assert len(run.load_config()) == 1


def test_a_newer_version_s_folder_is_refused_in_one_message(run: RunDir) -> None:
    for text in (f'{{"format": {FORMAT + 1}}}', json.dumps({"format": 99, "diff": "x" * 10**6}, indent=1)):
        (run.path / "code.json").write_text(text)
        with pytest.raises(UserError, match=rf"must be at most {FORMAT}, but is \d+: a newer version made it; update"):
            run.state()
    for text in ("", "{}", f'{{"format": {FORMAT}}}', '{"commit": "abc"}'):
        (run.path / "code.json").write_text(text)
        assert run.state() == "planned"


# PyYAML itself reads these three rare line breaks back as other ones.
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\x85\u2028\u2029")
leaves = st.one_of(
    st.text(characters).filter(lambda text: "${" not in text and text != "???"),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
)


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), leaves | st.lists(leaves, max_size=3), max_size=4)
)
def test_a_frozen_config_is_read_as_it_was(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.create(OmegaConf.to_yaml(OmegaConf.create(config)), {})
        assert run.load_config() == config


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "config.yaml can't be read"),
        (b"a: [1\n", "config.yaml can't be read"),
        (b"a: \xff\xfe\n", "config.yaml can't be read"),
        (b"- 1\n- 2\n", "must hold a mapping, but holds list"),
        (b"", "must hold a mapping, but holds NoneType"),
        (b"!!python/object/apply:os.system ['false']\n", "config.yaml can't be read"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_message(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=says) as refused:
        RunDir(tmp_path).load_config()
    assert str(tmp_path) in str(refused.value)


def test_runs_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b-2", "a-1", "no-run"):
        (tmp_path / name).mkdir()
    for name in ("b-2", "a-1"):
        (tmp_path / name / "config.yaml").write_text(CONFIG)
    (tmp_path / "config.yaml").write_text("not a folder")
    assert [run.path.name for run in find_runs(tmp_path)] == ["a-1", "b-2"]
    assert find_runs(tmp_path / "missing") == []
    assert find_runs(tmp_path / "config.yaml") == []


# Attempts and steps


def test_attempts_are_numbered_from_one_in_order_of_number(run: RunDir) -> None:
    assert run.attempts() == []
    made = [run.new_attempt() for _ in range(11)]
    assert [attempt.number for attempt in made] == list(range(1, 12))
    assert all(attempt.path == run.path / "attempts" / str(attempt.number) for attempt in made)
    assert all(attempt.path.is_dir() for attempt in made)
    for name in ("tmp", "12.bak", "²"):
        (run.path / "attempts" / name).mkdir()
    assert run.attempts() == made
    assert run.new_attempt().number == 12


def test_the_last_step_is_the_furthest_that_was_trained(run: RunDir) -> None:
    assert run.last_step() == 0
    first, second = run.new_attempt(), run.new_attempt()
    rows = [{"step": step, "data": {"training/global_step": step}} for step in (1, 2, 3)]
    first.metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "data": {"training/glo')
    assert run.last_step() == 3
    validation = {"step": 9, "data": {"val-core/countdown/acc/mean@1": 0.5}}
    second.metrics.write_text(json.dumps(rows[1]) + "\n" + json.dumps(validation) + "\n")
    assert run.last_step() == 3, "a resumed attempt repeats steps, and a validation is no training"


@pytest.mark.parametrize("pointer, step", [(None, 0), (b"20", 20), (b"20\n", 20), (b"", 0), (b"2x", 0), (b"\xff", 0)])
def test_the_checkpoint_s_step_is_that_of_verl_s_pointer(run: RunDir, pointer: bytes | None, step: int) -> None:
    run.checkpoints.mkdir()
    if pointer is not None:
        (run.checkpoints / "latest_checkpointed_iteration.txt").write_bytes(pointer)
        (run.checkpoints / "global_step_20").mkdir()
    assert run.checkpoint_step() == step


# State and lock


@pytest.mark.parametrize(
    "events, state",
    [
        ([], "planned"),
        (["launched"], "planned"),
        (["launched", "started"], "killed"),
        (["started", "resumed", "checkpoint"], "killed"),
        (["started", "finished"], "finished"),
        (["started", "failed"], "failed"),
        (["started", "interrupted"], "interrupted"),
        (["launched", "cancelled"], "cancelled"),
        (["started", "failed", "launched"], "failed"),
        (["started", "failed", "started", "finished"], "finished"),
        (["started", "finished", "started"], "killed"),
        (["launched", "submitted"], "queued"),
        (["submitted", "started", "submitted"], "queued"),
        (["submitted", "started", "finished"], "finished"),
        (["started", "cancelled", "launched"], "planned"),
        (["submitted", "cancelled"], "cancelled"),
    ],
)
def test_the_state_is_the_last_word_of_the_events(run: RunDir, events: list[str], state: str) -> None:
    for event in events:
        run.record(event)
    assert run.state() == state


def test_a_run_is_running_while_its_process_lives_and_killed_once_it_is_dead(
    run: RunDir, holder: subprocess.Popen[str]
) -> None:
    run.record("started")
    assert run.is_locked() and run.state() == "running"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not run.is_locked() and run.state() == "killed"
    run.record("failed")
    assert run.state() == "failed"


def test_a_second_holder_is_refused_and_the_lock_freed_by_death(run: RunDir, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError, match=r"grpo,seed=1-0123abcd must not run twice.*wait for it"), run.lock():
        pass
    assert run.is_locked(), "a refused attempt takes nothing away from the holder"
    holder.kill()
    holder.wait()
    with run.lock():
        code = "print(RunDir(Path(sys.argv[1])).is_locked())"
        assert output(python(code, run.path)) == "True"
    assert not run.is_locked()


def test_the_lock_is_freed_by_an_error(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        assert run.is_locked()


def test_looking_at_the_lock_never_keeps_a_run_from_starting(run: RunDir) -> None:
    """Launcher, status and figures ask all the time whether a run is running."""
    code = "run = RunDir(Path(sys.argv[1])); print('looking', flush=True)\nwhile True:\n    run.is_locked()"
    with run.lock():
        pass
    watcher = python(code, run.path)
    try:
        assert watcher.stdout is not None and watcher.stdout.readline() == "looking\n"
        for _ in range(40):
            with run.lock():
                pass
    finally:
        watcher.kill()
        watcher.communicate()
