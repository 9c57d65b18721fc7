"""Make the data set of a run, and name everything that its config points at by a digest of its content."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments import digests
from experiments.checks.data_files import paths
from experiments.checks.user_code import REWARD, python_files
from experiments.errors import UserError
from experiments.models import hub as hub_model
from experiments.project import PACKAGE_DIR, PROJECT_DIR
from experiments.tasks import dataset

PLUGIN = PACKAGE_DIR / "verl_plugin"
WITHOUT_NUMBERS = PLUGIN / "lifecycle"  # it decides no number of a training: runs stay the same when it changes


def content_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Make the data set; return, by key, digests of what a resolved config points at, and absolute paths.

    Raises UserError if the data set can't be made.
    """
    name, code = str(config["model"]["path"]), python_files(config)
    reward = code.get(REWARD)
    found: dict[str, Any] = {
        "model.digest": f"hub:{name}@main",  # if it is not fetched yet: a launch fetches it first and plans again
        "task.code": digests.code_digest((reward,), PROJECT_DIR) if reward else None,
        "plugin.code": plugin_code(),
        **{key: str(file) for key, file in code.items()},  # an attempt works in a folder of its own
    }
    if isinstance(path := config["trainer"]["resume_from_path"], str) and path:
        found["trainer.resume_from_path"] = str(Path(path).expanduser().absolute())
    if (folder := hub_model.find(name)) is not None:
        revision = hub_model.name_and_revision(folder)
        found["model.path"] = str(folder.absolute())
        found["model.digest"] = f"hub:{revision}" if revision else digests.folder_digest(folder)
    data = config["data"]
    if data["train_files"] is None:
        arguments = dataset.arguments(config["task"], config["model"]["template"])
        built = _build(code["task.path"], str(config["task"]["name"]), json.dumps(arguments), str(config["data_dir"]))
        if isinstance(built, UserError):
            raise built
        found |= {"data.train_files": str(built.train), "task.digest": built.digest}
        if data["val_files"] is None:
            found["data.val_files"] = str(built.test)
            return found
    files = []
    for key in ("train_files", "val_files"):
        whole = [Path(file).expanduser().absolute() for file in paths(data[key])]
        files += whole
        if whole:  # a list stays a list, and one path stays one path
            found[f"data.{key}"] = [str(file) for file in whole] if isinstance(data[key], list) else str(whole[0])
    if all(file.is_file() for file in files):  # preflight reports a missing file
        own = digests.files_digest(tuple(files))
        found["task.digest"] = f"{found.get('task.digest', 'files')}:{own}"
    return found


@cache
def plugin_code() -> str:
    """Return 12 hexadecimal digits that name the plugin's code, as far as it decides numbers of a training."""
    files = sorted(PLUGIN.rglob("*.py"))
    deciding = (file for file in files if file.name != "__init__.py" and WITHOUT_NUMBERS not in file.parents)
    return digests.code_digest(tuple(deciding), PROJECT_DIR)


@cache  # the arms of a sweep share their data, or its problem
def _build(file: Path, name: str, arguments: str, data_dir: str) -> dataset.DataSet | UserError:
    """Return the data set that a task's file makes of its arguments (JSON text), or the error."""
    try:
        return dataset.prepare(file, name, json.loads(arguments), Path(data_dir).absolute())
    except UserError as error:
        return error


@cache
def code_version() -> dict[str, Any]:
    """Return {"commit", "diff" (of the working tree from the commit), "versions" (of the packages that matter)}."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(PROJECT_DIR), *arguments], capture_output=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode("utf-8", "replace")  # a file may be in any encoding

    versions = {}
    for package in ("verl", "torch", "ray", "transformers", "hydra-core", "wandb", "vllm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = git("rev-parse", "HEAD")
    return {"commit": commit.strip() if commit else None, "diff": git("diff", "HEAD"), "versions": versions}
