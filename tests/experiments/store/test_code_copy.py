"""Test experiments/store/code_copy.py: a launch executes the code that was there when it started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.digests import code_digest
from experiments.project import PROJECT_DIR
from experiments.store.code_copy import PACKAGE, relocated, snapshot, variables
from experiments.store.frozen import freeze_launch
from experiments.store.rundir import RunDir

WaitFor = Callable[..., None]


@pytest.fixture
def own_reward(tmp_path: Path) -> Path:
    """Write a user's reward function, in two files outside the project."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "ink.py").write_text("WORD = 'blue'\n")
    reward = folder / "reward.py"
    reward.write_text(
        "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nimport ink\n\n"
        "def compute_score():\n    return 'one', ink.WORD\n"
    )
    return reward


def config_with(reward: Path | str) -> dict[str, Any]:
    return {
        "reward": {"custom_reward_function": {"path": str(reward)}},
        "model": {"path": str(PROJECT_DIR / "experiments" / "tiny_model" / "weights")},
        "agents": [
            str(PROJECT_DIR / "experiments" / "verl_plugin" / "rollout" / "agent_loops.yaml"),
            "/no/such/file",
            1,
            None,
        ],
    }


def test_a_copy_is_shared_by_launches_of_the_same_code(tmp_path: Path, own_reward: Path) -> None:
    plain = snapshot(tmp_path, [])
    assert snapshot(tmp_path, []) == plain
    first = snapshot(tmp_path, [config_with(own_reward)])
    assert first != plain
    own_reward.write_text("def compute_score():\n    return 'two', 'red'\n")
    assert snapshot(tmp_path, [config_with(own_reward)]) not in (plain, first)
    assert len(list((tmp_path / ".code").iterdir())) == 3, "nothing half-made is left"


def test_a_copy_is_small_and_holds_nothing_compiled(tmp_path: Path) -> None:
    files = [file for file in snapshot(tmp_path, []).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4 * 2**20
    assert {file.suffix for file in files}.isdisjoint({".pyc"})


def test_code_is_named_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    code = snapshot(tmp_path, [])
    reward = Path(PACKAGE) / "tasks" / "countdown" / "reward.py"
    assert code_digest((code / reward,), code) == code_digest((PROJECT_DIR / reward,), PROJECT_DIR)


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_reward: Path) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        snapshot(tmp_path / "runs", [config_with(own_reward)])
    assert list((tmp_path / "runs" / ".code").iterdir()) == []


@pytest.mark.parametrize("text", ["def broken(:\n", None], ids=["torn", "missing"])
def test_a_file_that_is_no_good_is_left_to_the_attempt(tmp_path: Path, text: str | None) -> None:
    reward = tmp_path / "reward.py"
    if text:
        reward.write_text(text)
    assert (snapshot(tmp_path / "runs", [config_with(reward)]) / PACKAGE / "attempt" / "__main__.py").is_file()


def test_where_nothing_was_copied_a_config_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_with("/elsewhere/reward.py")
    monkeypatch.delenv("R1Z_CODE_ORIGIN", raising=False)
    assert relocated(config) == config
    monkeypatch.setenv("R1Z_CODE_ORIGIN", str(PROJECT_DIR))
    assert relocated(config) == config


SEEN = """
import importlib.util, json, sys
import experiments
from experiments.store.code_copy import relocated
config = relocated(json.loads(sys.argv[1]))
path = config["reward"]["custom_reward_function"]["path"]
spec = importlib.util.spec_from_file_location("custom", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps({"package": experiments.__file__, "config": config, "score": module.compute_score()}))
"""


def seen_by_a_process(code: Path, config: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SEEN, json.dumps(config)],
        env={**os.environ, **variables(code)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_runs_the_copy_whatever_becomes_of_the_files(tmp_path: Path, own_reward: Path) -> None:
    config = config_with(own_reward)
    code = snapshot(tmp_path / "runs", [config])
    own_reward.write_text("raise SystemExit('edited')\n")
    (own_reward.parent / "ink.py").unlink()
    seen = seen_by_a_process(code, config)
    assert seen["score"] == ["one", "blue"]
    assert Path(seen["package"]).is_relative_to(code)
    there = seen["config"]
    assert there["model"]["path"] == str(code / "experiments" / "tiny_model" / "weights")
    assert there["agents"] == [
        str(code / "experiments" / "verl_plugin" / "rollout" / "agent_loops.yaml"),
        "/no/such/file",
        1,
        None,
    ]


# A separate project (a copy of this package) launches three runs; each attempt prints what it imported.
ATTEMPT = """
import importlib.util, json, sys, time
from pathlib import Path
from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir
from experiments.store.code_copy import relocated
run = RunDir(Path(sys.argv[3]))
assert sys.argv[6] == "--config"
config = relocated(run.load_config(sys.argv[7]))
spec = importlib.util.spec_from_file_location("custom", config["reward"]["custom_reward_function"]["path"])
reward = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reward)
from experiments.tasks.countdown import prompts
with run.lock():
    attempt = run.new_attempt()
    said = {"score": reward.compute_score(), "edited": hasattr(prompts, "EDITED"), "lr": config["lr"]}
    run.record("started", attempt=attempt.number, **said)
    while run.id == "00000001" and not (run.path.parent / "go").exists():
        time.sleep(0.02)
    run.record("finished", attempt=attempt.number, step=4)
"""

LAUNCHER = """
import dataclasses, sys
from pathlib import Path
from omegaconf import OmegaConf
from experiments.launchers import local
from experiments.processes.standby import Standby
from experiments.planning.plan import PlannedRun
from experiments.store.rundir import RunDir


class Given(Standby):
    def python(self, config, code, place=0):
        command, variables = super().python(config, code, place)
        return [*command, sys.argv[2]], variables


local.check_disk, local.disk_needed = lambda *a: None, lambda *a: 0
runs = []
for name in ("a-00000001", "b-00000002"):
    run = RunDir(Path(sys.argv[1]) / name)
    config = {"seed": 1, "lr": 0.5, "task": {"name": "x"}, "hardware": {"fast": False},
        "trainer": {"device": "cpu", "n_gpus_per_node": 1},
        "reward": {"custom_reward_function": {"path": sys.argv[3]}}}
    given = dict(name=name, folder=run, config=config, verl=OmegaConf.create(config), steps=4)
    runs.append(PlannedRun(**given, state="planned", reached=0))
sys.exit(local.run_all(runs, Given()))
"""


def test_what_waits_in_a_local_sweep_is_out_of_an_edit_s_reach(
    tmp_path: Path, own_reward: Path, wait_for: WaitFor
) -> None:
    """The reward, the package, conf/ and the settings asked for change while the first of two runs trains."""
    project, runs_dir = tmp_path / "project", tmp_path / "runs"
    for part in (PACKAGE, "conf"):
        shutil.copytree(PROJECT_DIR / part, project / part, ignore=shutil.ignore_patterns("__pycache__", "local"))
    (tmp_path / "attempt.py").write_text(ATTEMPT)
    launcher = subprocess.Popen(
        [sys.executable, "-P", "-c", LAUNCHER, str(runs_dir), str(tmp_path / "attempt.py"), str(own_reward)],
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    first, second = (RunDir(runs_dir / name) for name in ("a-00000001", "b-00000002"))
    try:
        wait_for(lambda: first.state() == "running" or launcher.poll() is not None, "the first run starts")
        own_reward.write_text("def compute_score():\n    return 'two', 'red'\n")
        with open(project / PACKAGE / "tasks" / "countdown" / "prompts.py", "a") as file:
            file.write("EDITED = True\n")
        (project / PACKAGE / "store" / "rundir.py").write_text("raise SystemExit('in the middle of an edit')\n")
        (project / "conf" / "config.yaml").write_text("lr: 9\n")
        again = {**second.load_config(), "lr": 7}  # somebody asks for the run with another setting
        second.record("launched", config=freeze_launch(second.path, json.dumps(again), again))
        (runs_dir / "go").touch()
        printed = launcher.communicate(timeout=60)[0]
    finally:
        launcher.kill()
    assert launcher.returncode == 0, printed
    for run in (first, second):
        (said,) = [event for event in run.events() if event["event"] == "started"]
        assert (said["score"], said["edited"], said["lr"]) == (["one", "blue"], False, 0.5), printed
    launched, _ = [event for event in second.events() if event["event"] == "launched"]
    assert (runs_dir / ".code" / launched["code"] / PACKAGE).is_dir()
