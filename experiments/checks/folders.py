"""Check that the libraries which a run uses can name its folders. They can name most; a few characters mean something.

The other characters that a file system takes are free: blanks, quotes, a hash, any alphabet.
"""

from __future__ import annotations

import os
from pathlib import Path

from experiments.checks.data_files import paths
from experiments.project import PROJECT_DIR
from experiments.values import Config


def folder_problems(config: Config) -> list[str]:
    """Return a problem for each path that PYTHONPATH or `datasets` would read as something else.

    A run imports a copy of the code in runs_dir, and makes its data set with the code of the project. veRL reads its
    data by `datasets`, which takes :: for a chain of files, and replaces $NAME if the environment has the variable.
    """
    code = (
        ("runs_dir", Path(str(config["runs_dir"])).absolute(), "choose another runs_dir"),
        ("the project's folder", PROJECT_DIR, "move the project"),
    )
    data = [Path(file) for key in ("train_files", "val_files") for file in paths(config["data"][key])]
    misread = dict.fromkeys(file.parent if _is_misread(file.parent) else file for file in data if _is_misread(file))
    return [
        *(
            f"{what} must not have {os.pathsep!r} in its path, at which PYTHONPATH would be cut, but is {folder}; {do}"
            for what, folder, do in code
            if os.pathsep in str(folder)
        ),
        *(
            "the data's path must have neither :: nor the $NAME of a variable, which the library `datasets` takes for "
            f"something else, but is {path}; choose another data_dir, or move your files"
            for path in misread
        ),
    ]


def _is_misread(path: Path) -> bool:
    return "::" in str(path) or os.path.expandvars(path) != str(path)
