"""Check the Python files that a config points at: the file of the task and the file of the reward."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments.digests import file_stamp

REWARD = "reward.custom_reward_function.path"


def python_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """Return, by key, the absolute paths of the task's and the reward's file.

    A relative path starts at the folder in which the command is typed.
    """
    named = {"task.path": config["task"].get("path"), REWARD: config["reward"]["custom_reward_function"]["path"]}
    return {key: Path(str(path)).expanduser().absolute() for key, path in named.items() if path is not None}


def code_problems(config: Mapping[str, Any]) -> dict[str, str]:
    """Return, by key, a problem for each of `python_files` that can't be read as Python."""
    files, found = python_files(config), {}
    if "task.path" not in files and config["data"]["train_files"] is None:
        found["task.path"] = (
            "task.path must be a Python file with a function build, but is None; write it (docs/own_task.md)"
        )
    for key, file in files.items():
        if wrong := _not_python(file, file_stamp(file)):
            found[key] = f"{key} must be a Python file, but {file}: {wrong}; check the path"
    return found


@cache  # the arms of a sweep share their code
def _not_python(file: Path, stamp: tuple[int, int] | None) -> str | None:
    try:
        compile(file.read_bytes(), file, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None
