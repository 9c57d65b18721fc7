"""Reading runs from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.sources.run_folders import RunFolders
from experiments.errors import UserError
from experiments.store.rundir import RunDir

MakeRun = Callable[..., Path]


def test_a_resumed_run_reads_as_the_straight_one(make: MakeRun, runs: Path) -> None:
    make(name="straight-1")
    make(name="resumed-2", legs=((1, 37), (31, 44), (41, 60)))
    (resumed, straight), warnings = RunFolders(runs).read()
    assert warnings == []
    assert resumed.history.rows == straight.history.rows
    assert (resumed.history.redone, straight.history.redone) == (11, 0)
    assert (resumed.attempts, resumed.progress(), resumed.complete) == (3, "finished at step 60 of 60", True)


@pytest.mark.parametrize(
    ("ending", "progress"),
    [
        ("finished", "finished at step 31 of 60"),
        ("failed", "failed at step 31 of 60"),
        ("interrupted", "interrupted at step 31 of 60"),
        ("cancelled", "cancelled at step 31 of 60"),
        (None, "killed at step 31 of 60"),
    ],
)
def test_every_way_to_stop_early_is_told(make: MakeRun, runs: Path, ending: str | None, progress: str) -> None:
    make(legs=((1, 31),), ending=ending)
    ((record,), _) = RunFolders(runs).read()
    assert record.progress() == progress
    assert not record.complete


def test_a_run_that_is_executed_right_now_is_running(make: MakeRun, runs: Path) -> None:
    path = make(legs=((1, 31),), ending=None)
    with RunDir(path).lock():
        ((record,), _) = RunFolders(runs).read()
    assert record.progress() == "running at step 31 of 60"


def test_a_run_asked_for_more_steps_is_measured_by_those(make: MakeRun, runs: Path) -> None:
    path = make(steps=60, legs=((1, 60), (61, 70)), ending=None)
    RunDir(path).record("launched", steps=90)
    ((record,), _) = RunFolders(runs).read()
    assert record.progress() == "killed at step 70 of 90"


def test_a_torn_last_line_is_passed_over_and_told(make: MakeRun, runs: Path) -> None:
    path = make(legs=((1, 31),), ending=None)
    metrics = path / "attempts" / "1" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-40])
    ((record,), (warning,)) = RunFolders(runs).read()
    assert record.history.last_step() == 30
    assert warning == f"{metrics}: 1 damaged or torn line was passed over, 31 are sound"
    metrics.write_bytes(whole + b'{"step": "x", "data": {}}\n[]\n\x00\xff\n{"step": 32}\n')
    ((record,), (warning,)) = RunFolders(runs).read()
    assert record.history.last_step() == 31
    assert "4 damaged or torn lines were passed over, 32 are sound" in warning


def test_the_row_that_a_kill_kept_from_the_metrics_is_read_where_it_was_noted(make: MakeRun, runs: Path) -> None:
    path = make(legs=((1, 31),), ending=None)
    noted = path / "attempts" / "1" / "noted.json"
    noted.write_text(json.dumps({"step": 32, "data": {"training/global_step": 32, "critic/score/mean": 0.7}}))
    ((record,), _) = RunFolders(runs).read()
    assert record.history.last_step() == 31, "its checkpoint was not written: a resume would do it again"
    (path / "checkpoints" / "global_step_32").mkdir(parents=True)
    (path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("32")
    ((record,), warnings) = RunFolders(runs).read()
    assert record.history.curve("critic/score/mean")[-1] == (32, 0.7) and warnings == []
    noted.write_text('{"step": 31, "data": {"training/global_step": 31, "critic/score/mean": 0.7}}')
    assert RunFolders(runs).read()[0][0].history.rows[31]["critic/score/mean"] != 0.7


def test_an_integer_that_no_float_holds_is_left_out_of_curves(make: MakeRun, runs: Path) -> None:
    make(attempts=[[(1, {"training/global_step": 1, "huge": 10**400}), (2, {"huge": 1})]], steps=2)
    ((record,), _) = RunFolders(runs).read()
    assert record.history.curve("huge") == [(2, 1.0)]


def test_a_run_that_waits_in_a_queue_may_still_begin(make: MakeRun, runs: Path) -> None:
    path = make(ending="planned")
    RunDir(path).record("submitted", job="1")
    ((record,), _) = RunFolders(runs).read()
    assert record.progress() == "queued, no step yet"


def test_foreign_and_damaged_folders_are_left_out_with_a_warning_each(make: MakeRun, runs: Path) -> None:
    make(name="good-1")
    for name in ("a-notes", "b-list", "c-yaml", "d-binary", "e-other", ".hidden"):
        (runs / name).mkdir()
    (runs / "b-list" / "config.yaml").write_text("- 1\n")
    (runs / "c-yaml" / "config.yaml").write_text("a: [1\nb: }")
    (runs / "d-binary" / "config.yaml").write_bytes(b"\xff\xfe\x00")
    (runs / "e-other" / "config.yaml").write_text("trainer: {total_training_steps: 3}\n")
    (runs / "a-file").write_text("not a folder")
    records, warnings = RunFolders(runs).read()
    assert [record.name for record in records] == ["good-1"]
    assert [warning.partition(": left out, ")[0] for warning in warnings] == [
        str(runs / name) for name in ("a-notes", "b-list", "c-yaml", "d-binary", "e-other")
    ]
    assert "no algorithm.adv_estimator" in warnings[-1]
    assert not any("\n" in warning for warning in warnings)


def test_wanted_runs_are_found_by_path_name_prefix_or_id(make: MakeRun, runs: Path) -> None:
    make(name="temperature=0.6-abcd1234", temperature=0.6)
    make(name="temperature=0.6,n=8-ef567890", temperature=0.6, n=8)
    elsewhere = make(name="../other/alone-99")
    names = [
        [record.name for record in RunFolders(runs, [wanted]).read()[0]]
        for wanted in ("temperature=0.6-", "ef56", "temperature=0.6,n=8-ef567890", str(elsewhere))
    ]
    assert names == [
        ["temperature=0.6-abcd1234"],
        ["temperature=0.6,n=8-ef567890"],
        ["temperature=0.6,n=8-ef567890"],
        ["alone-99"],
    ]
    assert len(RunFolders(runs, ["abcd", "temperature=0.6-abcd1234"]).read()[0]) == 1
    namesake = make(name="../third/alone-99")
    with pytest.raises(UserError, match="there are several alone-99"):
        RunFolders(runs, [str(elsewhere), str(namesake)]).read()
    with pytest.raises(UserError, match=r"names 2: temperature=0\.6,n=8-ef567890, temperature=0\.6-abcd1234"):
        RunFolders(runs, ["temperature"]).read()
    with pytest.raises(UserError, match=r"begins with 'temprature=0\.6'.* nearest: temperature=0\.6"):
        RunFolders(runs, ["temprature=0.6"]).read()
