"""`python -m experiments.runs list`: what it prints of a run, filters, damage, and folders that are not runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.project import PROJECT_DIR
from experiments.runs.__main__ import main
from experiments.runs.listing import COLUMNS, _shortened
from experiments.runs.status import ago, tail
from experiments.store.metrics import step_times
from experiments.store.rundir import FORMAT

STARTED = ("started", {"attempt": 1, "host": "node7", "steps": 40})


def test_a_run_at_a_glance(folder: Any) -> None:
    run = folder.make("temperature=0.6,seed=1-0123abcd", ("launched", {"steps": 40}), STARTED)
    folder.train(run, range(1, 26), seconds=36.0)
    with run.lock():
        (status,) = folder.listed()
    assert status == {
        "name": "temperature=0.6,seed=1-0123abcd",
        "id": "0123abcd",
        "path": str(run.path),
        "state": "running",
        "step": 25,
        "of": 40,
        "accuracy": 0.02,  # the sampled accuracy at step 20, not the greedy one
        "response_length": 75.0,
        "steps_per_hour": 100.0,
        "eta_seconds": 15 * 36.0,
        "attempt": 1,
        "where": "node7",
    }
    assert folder.listed()[0]["state"] == "killed" and folder.listed()[0]["eta_seconds"] is None


def test_the_pace_is_of_the_last_ten_steps_with_their_validations(folder: Any) -> None:
    run = folder.make("a-1", STARTED)
    rows = [{"training/global_step": step, "perf/time_per_step": 100.0 if step < 11 else 8.0} for step in range(1, 21)]
    rows[-1] |= {"timing_s/testing": 20.0}
    run.new_attempt().metrics.write_text(
        "".join(json.dumps({"step": k + 1, "data": row}) + "\n" for k, row in enumerate(rows))
    )
    assert folder.listed()[0]["steps_per_hour"] == pytest.approx(360.0)


def test_a_resumed_run_is_where_its_last_attempt_is(folder: Any) -> None:
    run = folder.make("a-1", STARTED, "failed", ("started", {"attempt": 2, "host": "node8", "steps": 80}))
    folder.train(run, range(1, 26))
    folder.train(run, range(0), 1)
    status = folder.listed()[0]
    assert (status["step"], status["accuracy"], status["of"], status["where"]) == (25, 0.02, 80, "node8")
    folder.train(run, range(21, 23))
    status = folder.listed()[0]
    assert (status["step"], status["accuracy"], status["attempt"]) == (22, 0.02, 3)


def test_a_validation_that_is_long_ago_is_found(folder: Any) -> None:
    run = folder.make("a-1", STARTED)
    folder.train(run, range(1, 2000), validate=1990)
    folder.train(run, range(1, 1990), validate=500)
    assert folder.listed()[0]["accuracy"] == 1.5


@pytest.mark.parametrize(
    "events, state, of, where",
    [
        ([], "planned", 40, ""),
        ([("launched", {"launcher": "local", "steps": 60})], "planned", 60, ""),
        (["launched", "cancelled"], "cancelled", 40, ""),
        ([("submitted", {"job": "12_3"})], "queued", 40, "job 12_3"),
        (
            [("submitted", {"job": "12_3"}), ("started", {"host": "n1", "job": "12_3"}), "failed"],
            "failed",
            40,
            "n1 job 12_3",
        ),
        ([STARTED, "interrupted"], "interrupted", 40, "node7"),
        ([STARTED, "failed"], "failed", 40, "node7"),
    ],
)
def test_states_before_and_after_training(folder: Any, events: list, state: str, of: int, where: str) -> None:
    folder.make("a-1", *events)
    status = folder.listed()[0]
    assert (status["state"], status["of"], status["where"], status["step"]) == (state, of, where, 0)
    assert status["accuracy"] is status["steps_per_hour"] is None


def test_the_table_has_a_row_a_run_and_notes_below(folder: Any) -> None:
    folder.make("temperature=0.6-1", STARTED, "finished")
    (folder.path / "notes").mkdir()
    code, printed, _ = folder.command("list")
    header, row, note = printed.splitlines()
    assert code == 0
    assert header.split() == list(COLUMNS)
    assert row.split() == ["temperature=0.6-1", "finished", "0/40", "-", "-", "-", "-", "-", "node7"]
    assert note == "notes: not a run's folder (no config.yaml)"


def test_a_folder_without_runs_says_how_to_start_one(folder: Any) -> None:
    code, printed, _ = folder.command("list")
    assert code == 0 and "no runs in" in printed and "start one with: python -m experiments.run" in printed
    folder.path.write_text("a file")
    code, _, errors = folder.command("list")
    assert code == 2 and "--runs-dir must be a folder" in errors


# Filters


def test_filters_choose_by_state_and_by_any_key(folder: Any) -> None:
    for k, temperature in enumerate((0.6, 1.0, 1.2)):
        folder.make(f"t={temperature}-{k}", STARTED, "failed" if k else "finished", temperature=temperature, seed=k)
    assert folder.names("state=failed") == ["t=1.0-1", "t=1.2-2"]
    assert folder.names("rollout.temperature=0.60") == ["t=0.6-0"]
    assert folder.names("state=failed", "rollout.temperature=1") == ["t=1.0-1"]
    assert folder.names("seed=2", "kl=null") == ["t=1.2-2"]
    assert folder.names("state!=failed") == folder.names("state=fin*") == ["t=0.6-0"]
    assert folder.names("rollout.temperature!=1.0", "kl!=0.5") == ["t=0.6-0", "t=1.2-2"]
    assert folder.names("seed=7") == []
    code, printed, _ = folder.command("list", "seed=7")
    assert code == 0 and "that meet seed=7" in printed


@pytest.mark.parametrize(
    "condition, says",
    [
        ("=x", "a filter must be KEY=VALUE or KEY!=VALUE, but is '=x'"),
        ("state=broken", "state must be one of planned, queued, running"),
        ("state!=x*", "state must be one of planned, queued, running, finished"),
        ("rollout.temprature=0.6", "no run has 'rollout.temprature'; did you mean rollout.temperature?"),
    ],
)
def test_a_filter_that_can_t_be_meant_is_refused(folder: Any, condition: str, says: str) -> None:
    folder.make("a-1")
    code, printed, errors = folder.command("list", condition)
    assert (code, printed) == (2, "") and says in errors


# Damage


def test_a_number_that_no_float_can_hold_is_infinite(folder: Any) -> None:
    run = folder.make("a-1", STARTED)
    data = {"training/global_step": 1, "response_length/mean": 10**400, "val-core/countdown/acc/mean@1": -(10**400)}
    data["perf/time_per_step"] = 10**400
    run.new_attempt().metrics.write_text(json.dumps({"step": 1, "data": data}) + "\n")
    status = folder.listed()[0]
    assert (status["response_length"], status["accuracy"]) == (float("inf"), float("-inf"))
    assert step_times(run) == []


def test_torn_lines_are_passed_over_and_told(folder: Any) -> None:
    run = folder.make("a-1", STARTED, "finished")
    folder.train(run, range(1, 21))
    with open(run.attempts()[0].metrics, "ab") as file:
        file.write(b'{"step": 21, "data": {"training/global_st')
    with open(run.events_file, "ab") as file:
        file.write(b'{"time": 1.0, "eve')
    code, printed, _ = folder.command("list")
    assert code == 0
    assert "20/40" in printed and "finished" in printed
    assert "a-1/events.jsonl: a torn or damaged line was passed over" in printed
    assert "a-1/attempts/1/metrics.jsonl: a torn or damaged line was passed over" in printed


def test_a_living_writer_s_half_line_is_no_damage(folder: Any) -> None:
    run = folder.make("a-1", STARTED)
    folder.train(run, range(1, 21))
    with open(run.attempts()[0].metrics, "ab") as file:
        file.write(b'{"step": 21, "da')
    with run.lock():
        _, printed, _ = folder.command("list")
    assert "20/40" in printed and "damaged" not in printed


def test_what_can_t_be_read_is_told_at_the_end_and_the_rest_listed(folder: Any) -> None:
    folder.make("good-1", STARTED, "finished")
    newer = folder.make("newer-2", STARTED)
    (newer.path / "code.json").write_text(json.dumps({"format": FORMAT + 1}))
    odd = folder.make("odd-3")
    odd.events_file.unlink()
    odd.events_file.mkdir()
    broken = folder.make("broken-4")
    broken.config_file.write_text("a: [")
    (folder.make("no-day-5").path / "config.yaml").write_text("day: 2025-13-45\n")
    (folder.make("no-folder-6").path / "attempts").touch()
    (folder.path / "foreign").mkdir()
    (folder.path / "file.txt").touch()
    (folder.path / ".hidden").mkdir()
    os.symlink("nowhere", folder.path / "dangling")
    code, printed, _ = folder.command("list")
    assert code == 0
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["run", "good-1"]
    told = {line.split(":")[0]: line for line in lines[2:]}
    assert set(told) == {"newer-2", "odd-3", "broken-4", "no-day-5", "no-folder-6", "foreign"}
    for name, says in (("no-day", "config.yaml can't be read: month must be in"), ("no-folder", "attempts is a file")):
        code, _, errors = folder.command("show", name)
        assert code == 2 and says in errors
    assert "a newer version made it; update" in told["newer-2"]


# Without the capabilities with which root can read everything.
AS_ANYBODY = ["setpriv", "--inh-caps=-dac_override,-dac_read_search", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.parametrize("command", ["list", "show", "clean", "retry"])
def test_a_folder_that_is_closed_to_us_is_told_and_the_rest_goes_on(folder: Any, command: str) -> None:
    folder.make("good-1", STARTED, "finished")
    closed = folder.make("somebody-s-2", STARTED, "finished")
    closed.path.chmod(0)
    try:
        arguments = [sys.executable, "-m", "experiments.runs", "--runs-dir", str(folder.path), command]
        arguments += ["good"] if command == "show" else []
        prefix = AS_ANYBODY if os.geteuid() == 0 else []
        done = subprocess.run([*prefix, *arguments], capture_output=True, text=True, cwd=PROJECT_DIR)
    finally:
        closed.path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert {"list": "good-1", "show": "good-1: finished", "clean": "nothing to free", "retry": "nothing to try"}[
        command
    ] in done.stdout
    if command != "show":
        assert "somebody-s-2: " in done.stdout and "Permission denied" in done.stdout


def test_hostile_contents_are_no_crash_and_steer_no_terminal(folder: Any) -> None:
    run = folder.make("a-1")
    lines = [
        b"[[[[",
        b'{"event": 5}',
        b'{"event": ["finished"], "time": []}',
        b'{"event": "started", "host": "\\u001b[2J", "steps": "x"}',
        b"null",
        b"\xff",
    ]
    run.events_file.write_bytes(b"\n".join(lines))
    run.new_attempt().metrics.write_bytes(
        b'{"step": "x", "data": {"training/global_step": null, "val-core/a/acc/mean@1": "\\u001b[2J"}}\n[]\n"x"\n'
        b'{"training/global_step": 1, "data": []}\n'
    )
    code, printed, _ = folder.command("list")
    assert code == 0 and "\x1b" not in printed and "?[2J" in printed
    code, printed, _ = folder.command("show", "a-1")
    assert code == 0 and "\x1b" not in printed and "events.jsonl: 5 torn or damaged lines were passed over" in printed


# Parts


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip()), max_size=8))
def test_the_tail_of_a_file_is_its_last_whole_lines(lines: list[bytes]) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        for size in (1, 10, 50, None):
            found, whole = tail(Path(file.name), size)
            assert whole and found == lines[len(lines) - len(found) :]
        assert tail(Path(file.name), None)[0] == lines


@pytest.mark.parametrize(
    "seconds, text", [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h00m"), (90_000, "1d01h")]
)
def test_time_spans_for_people(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_a_long_name_keeps_its_id() -> None:
    assert _shortened("temperature=0.6,seed=1-0123abcd", 24) == "temperature=0.…-0123abcd"
    assert _shortened("short-1", 24) == "short-1"


def test_the_real_command_is_quick_to_import_and_never_loads_a_trainer(folder: Any) -> None:
    run = folder.make("a-1", STARTED, "finished")
    folder.train(run, range(1, 3))
    code = (
        "import sys\nfrom experiments.runs.__main__ import main\n"
        "heavy = {'torch', 'ray', 'verl', 'wandb', 'pandas', 'matplotlib', 'hydra', 'omegaconf'}\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted((heavy | {'rich', 'yaml', 'psutil'}) & set(sys.modules)))\n"
        f"main(['--runs-dir', {str(folder.path)!r}, 'list'])\nprint(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("[]") == 2 and any("2/40" in line for line in lines)


def test_a_folder_of_an_older_version_is_listed(folder: Any) -> None:
    """Such a folder has no config.json, no code.json and no events."""
    run = folder.make("a-1")
    for name in ("config.json", "code.json", "events.jsonl"):
        (run.path / name).unlink()
    folder.train(run, range(1, 11))
    shutil.rmtree(run.path / "lock", ignore_errors=True)
    assert folder.names("rollout.temperature=1") == ["a-1"]
    assert folder.listed()[0]["step"] == 10


def test_words_are_looked_for_in_the_names(folder: Any) -> None:
    for name in ("top_p=0.8,seed=1-1", "top_p=0.9,seed=1-2", "n=3,seed=1-3"):
        folder.make(name)
    assert [run["id"] for run in folder.listed("top_p")] == ["1", "2"]
    assert [run["id"] for run in folder.listed("top_p", "0.9", "state=planned")] == ["2"]
    assert folder.listed("top_k") == []


def test_a_finished_run_that_waits_to_be_extended_is_planned(folder: Any) -> None:
    """It is not "finished 10/20": it has not begun what it was asked for, and may never if its launcher dies."""
    finished = ("finished", {"attempt": 1, "step": 10})
    run = folder.make("a-1", ("launched", {"steps": 10}), STARTED, finished)
    folder.train(run, range(1, 11))
    assert (folder.listed()[0]["state"], folder.listed()[0]["of"]) == ("finished", 40)
    run.record("launched", steps=20)
    assert [folder.listed()[0][key] for key in ("state", "step", "of")] == ["planned", 10, 20]
    run.record("started", attempt=2, host="node7", steps=20)
    with run.lock():
        assert folder.listed()[0]["state"] == "running"
    run.record("finished", attempt=2, step=20)
    assert folder.listed()[0]["state"] == "finished"


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "command", [["list"], ["show", "a-1"], ["logs", "a-1"], ["diff", "a-1", "b-2"], ["retry"], ["clean", "--yes"]]
)
def test_the_folder_may_be_named_before_or_after_any_command(
    folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], place: str
) -> None:
    for name in ("a-1", "b-2"):
        folder.make(name)
    where = ["--runs-dir", str(folder.path)]
    arguments = [*where, *command] if place == "before" else [*command, *where]
    code = main(arguments)
    assert code in (0, 2)
    assert "there are none in runs" not in capsys.readouterr().err
