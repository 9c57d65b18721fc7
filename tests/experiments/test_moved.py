"""What still names a module as it was: a user's file is told the new name, an old frozen config is read with it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.moved import MOVED, new_name, renamed
from experiments.project import PROJECT_DIR
from experiments.store.code_copy import relocated
from experiments.tasks import user_code


def test_every_new_name_is_a_module_and_no_old_one_is() -> None:
    for old, new in MOVED.items():
        assert (PROJECT_DIR / "experiments" / f"{new.replace('.', '/')}.py").is_file(), new
        assert not (PROJECT_DIR / "experiments" / f"{old.replace('.', '/')}.py").is_file(), old


def test_a_name_of_today_stays_as_it_is() -> None:
    """Some old modules are packages now: what stands in them has not moved."""
    files = [file.relative_to(PROJECT_DIR).with_suffix("") for file in (PROJECT_DIR / "experiments").rglob("*.py")]
    names = [".".join(file.parts) for file in files if file.name != "__init__"]
    assert "experiments.verl_plugin.rollout.vllm_worker" in names
    assert [name for name in names if new_name(name) or new_name(f"{name}.Something")] == []
    assert relocated({"names": names}) == {"names": names}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("from experiments.compose import compose_config", "experiments.compose is experiments.config.compose now"),
        ("import experiments.rundir", "experiments.rundir is experiments.store.rundir now"),
        ("from experiments.launchers.slurm import follow", "experiments.launchers.slurm is experiments.launchers."),
        ("import no_such_package", "mend it"),
    ],
)
def test_a_user_s_file_that_imports_an_old_name_is_told_the_new_one(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{line}\n")
    with pytest.raises(UserError) as refused:
        user_code.load(file, "task.path")
    assert f"(line 1); {told}" in str(refused.value)


def test_a_frozen_config_of_an_older_version_names_what_is_there() -> None:
    callback = "experiments.verl_plugin.checkpoint.CheckpointEvents"
    frozen = {
        "trainer": {"checkpoint_callback_class": callback, "logger": ["file", "experiments"]},
        "loops": f"{PROJECT_DIR}/experiments/verl_plugin/agent_loops.yaml",
    }
    today = relocated(frozen)
    module, _, _ = today["trainer"]["checkpoint_callback_class"].rpartition(".")
    assert module == "experiments.verl_plugin.lifecycle.checkpoint" and find_spec(module) is not None
    assert Path(today["loops"]).is_file()
    assert today["trainer"]["logger"] == frozen["trainer"]["logger"]
    assert relocated(today) == today
    assert new_name("experiments.run") is None and renamed("/data/train.parquet") == "/data/train.parquet"
