"""Copy the code that a launch executes when the launch starts, so that a later edit does not reach a waiting run.

    runs_dir/.code/<digest>/     on the PYTHONPATH of every process of a run
        code.json                the commit, the diff and the versions of the first launch of this code
        experiments/             this package
        <path in the project>    a Python file that a config points at (e.g. a user's reward), and what it imports
        outside/<path>           the same for files outside the project

Launches of the same code share a copy. Copies are never removed: they are small, and show exactly what an attempt
executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.digests import folder_digest, imported_files
from experiments.moved import renamed
from experiments.project import PROJECT_DIR
from experiments.variables import ORIGIN

FOLDER = ".code"
PACKAGE = "experiments"


def snapshot(runs_dir: Path, configs: Iterable[Mapping[str, Any]], version: Mapping[str, Any] | None = None) -> Path:
    """Return the folder with a copy of the package and of the Python files that the resolved configs point at.

    `version`: the content of a new copy's code.json.
    """
    parent = runs_dir / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
    try:
        made.chmod(0o755)
        shutil.copytree(PROJECT_DIR / PACKAGE, made / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        for file in _python_files(configs):
            copy = made / _place(file, PROJECT_DIR)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        target = parent / folder_digest(made)  # the copy's, since the files may have changed while they were copied
        (made / "code.json").write_text(json.dumps(version or {}, indent=1) + "\n", encoding="utf-8")
        try:
            made.rename(target)
        except OSError:  # the copy is there already, perhaps since a moment ago
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def variables(code: Path) -> dict[str, str]:
    """Return the variables with which a Python process imports a copy instead of the project."""
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{code}{os.pathsep}{inherited}" if inherited else str(code), ORIGIN: str(PROJECT_DIR)}


def relocated(node: Any) -> Any:
    """Return a frozen config in which paths of files that the running copy holds point into the copy.

    A config that was frozen by an older version of this project gets today's names of what has moved since.
    """
    if isinstance(node, dict):
        return {key: relocated(value) for key, value in node.items()}
    if isinstance(node, list):
        return [relocated(value) for value in node]
    if not isinstance(node, str):
        return node
    text, origin = renamed(node), os.environ.get(ORIGIN)
    if origin and Path(origin) != PROJECT_DIR and text.startswith("/"):
        copy = PROJECT_DIR / _place(Path(text), Path(origin))
        return str(copy) if copy.exists() else text
    return text


def _python_files(configs: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Return the files outside the package that configs point at, and what these import of the project or beside them.

    A missing file is left out, and so are the imports of one that can't be parsed: the attempt will report both.
    """
    found: set[Path] = set()
    for path in sorted(_python_paths(configs)):
        file = Path(os.path.abspath(path))
        if file.is_file():
            found.add(file)
            with contextlib.suppress(SyntaxError):
                found |= set(imported_files((file,), PROJECT_DIR).values())
    return sorted(file for file in found if not file.is_relative_to(PROJECT_DIR / PACKAGE))


def _python_paths(configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return every value that names a Python file. It must be fast: a thousand configs have almost a million values."""
    named: set[str] = set()
    left: list[Any] = list(configs)
    while left:
        node = left.pop()
        if isinstance(node, str):
            if node.endswith(".py"):
                named.add(node)
        elif isinstance(node, Mapping):
            left.extend(node.values())
        elif isinstance(node, (list, tuple)):
            left.extend(node)
    return named


def _place(file: Path, project: Path) -> Path:
    """Return the place of a file, given by its absolute path, inside a copy."""
    if file.is_relative_to(project):
        return file.relative_to(project)
    return Path("outside") / file.relative_to("/")
