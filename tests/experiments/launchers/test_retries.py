"""launchers/retries.py: what is tried again, how often, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.errors import UserError
from experiments.launchers import retries as module
from experiments.launchers.retries import Retries, check_retries, told
from experiments.planning.plan import PlannedRun
from experiments.store.events import Event
from experiments.store.failures import CLASSES, passes
from experiments.store.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    folder = RunDir(tmp_path / "a-00000001")
    folder.create("seed: 1\n", {})
    folder.record(Event.LAUNCHED, steps=10)
    return PlannedRun(folder.path.name, folder, {}, OmegaConf.create({}), 10, "planned", 0)


def fail(run: PlannedRun, kind: str = "killed", step: int = 0, remedy: str = "start again") -> None:
    if step:
        (run.folder.checkpoints / f"global_step_{step}").mkdir(parents=True)
        (run.folder.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))
    run.folder.record(Event.FAILED, kind=kind, cause="the actor W was killed by SIGKILL", remedy=remedy)


def test_a_run_is_tried_again_while_each_try_gets_further(run: PlannedRun) -> None:
    retries = Retries(5)
    fail(run)
    why = "killed: the actor W was killed by SIGKILL"
    assert retries.again(run.folder) == f"tried again (1 of 5) from step 0, since {why}"
    fail(run, step=2)
    assert "(2 of 5) from step 2" in str(retries.again(run.folder))
    fail(run)
    assert retries.again(run.folder) is None, "it got no further than step 2"
    events = [event for event in run.folder.events() if event["event"] == "retried"]
    assert [(event["number"], event["step"]) for event in events] == [(1, 0), (2, 2)]
    assert str(told(run.folder.events())).startswith("tried again 2 times: killed: the actor W")


def test_no_more_often_than_asked(run: PlannedRun) -> None:
    retries = Retries(1)
    fail(run, step=1)
    assert retries.again(run.folder) is not None
    fail(run, step=3)
    assert retries.again(run.folder) is None
    assert Retries(0).again(run.folder) is None and told([]) is None


def test_a_run_that_the_machine_had_no_memory_for_is_tried_alone(run: PlannedRun) -> None:
    retries = Retries(2)
    fail(run, "out of memory", remedy="it is the machine's own memory, not the device's: end other programs")
    assert str(retries.again(run.folder)).startswith("tried again, alone (1 of 2)") and retries.alone == {run.name}
    fail(run, step=1)
    assert retries.again(run.folder) is not None and retries.alone == {run.name}


def test_there_is_a_pause(run: PlannedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    retries = Retries(2)
    assert retries.is_due(run.folder)
    fail(run)
    retries.again(run.folder)
    assert not retries.is_due(run.folder)
    now += module.PAUSE_SECONDS
    assert retries.is_due(run.folder)


PASSING = {"killed", "stalled", "file system", "port taken", "Ray could not start"}


def test_a_mistake_is_never_tried_again(run: PlannedRun) -> None:
    for kind, _, remedy in CLASSES:
        machine = remedy.startswith("it is the machine's own memory")
        assert passes({"kind": kind, "remedy": remedy}) == (kind in PASSING or machine), kind
    for kind in ("configuration", "reward error", "NaN loss", "disk full", "error"):
        fail(run, kind)
        assert Retries(2).again(run.folder) is None
    run.folder.record(Event.INTERRUPTED)
    assert Retries(2).again(run.folder) is None


@pytest.mark.parametrize("most", [-1, 1.5, None, "two", True])
def test_a_number_of_tries_that_is_none(most: object) -> None:
    with pytest.raises(UserError, match=r"hydra\.launcher\.retries must be a whole number of at least 0, but is"):
        check_retries(most)
