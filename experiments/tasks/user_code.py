"""Load a user's Python file as veRL does, call its functions, and report its mistakes in one line.

`ask` calls them in a process of its own. So what the file imports, prints, or does to its process does not reach the
process that plans.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.errors import UserError
from experiments.moved import new_name
from experiments.project import PACKAGE_DIR, PROJECT_DIR

SHOWN = 80  # how many characters of a bad value a message shows


class TookTooLong(Exception):
    """The process did not answer in time; `about` is what it was about to do, None if it did not say."""

    def __init__(self, about: Any) -> None:
        self.about = about


def is_ours(file: Path) -> bool:
    """Return whether a file is a part of this package."""
    return file.resolve().is_relative_to(PACKAGE_DIR)


def load(file: Path, key: str) -> ModuleType:
    """Return a Python file as a module, loaded as veRL does it: by its path, with nothing beside it importable.

    Raises UserError, which names the config's `key`, if executing it raises.
    """
    spec = importlib.util.spec_from_file_location("custom_module", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{key} must be a Python file, but is {file}; give a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    with user_errors("the file", file, key):
        spec.loader.exec_module(module)
    return module


def function(module: ModuleType, name: str, arguments: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """Return a module's function; UserError if there is none, or none that can be called with these arguments."""
    write = f"def {name}({', '.join(arguments)}):"
    found = getattr(module, name, None)
    if not callable(found):
        is_there = "none" if found is None else f"a {type(found).__name__} of that name"
        raise UserError(f"{key} must have a function {name}, but {module.__file__} has {is_there}; write {write}")
    with contextlib.suppress(ValueError):  # a built-in has no signature
        try:
            inspect.signature(found).bind(**arguments)
        except TypeError as error:
            raise UserError(
                f"{name} of {key}={module.__file__} must take {', '.join(arguments)}, but is "
                f"{name}{inspect.signature(found)}: {error}; write {write}"
            ) from error
    return found


@contextlib.contextmanager
def user_errors(what: str, file: Path, key: str) -> Iterator[None]:
    """Turn whatever a user's code raises into a UserError with the line of the file in which it happened."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        name = error.name if isinstance(error, ImportError) else None
        do = f"{name} is {new} now, import that" if name and (new := new_name(name)) else "mend it"
        raise UserError(f"{what} of {key}={file} must not raise, but raises {where(error, file)}; {do}") from error


def where(error: BaseException, file: Path) -> str:
    """Return an exception in words: its kind, its message, the line of the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.lineno:
        lines = [error.lineno]
    said = (str(error).splitlines() or [""])[0]
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"{text} (line {lines[-1]})" if lines else text


def short(value: Any) -> str:
    """Return a value as a message shows it."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def ask(module: str, request: Any, key: str, seconds: float | None = None) -> Any:
    """Run a module as a process, which calls `answer`; return its answer to a request. Both are JSON.

    Raises:
        UserError: the module raised one there, or the process died.
        TookTooLong: the answer took more than `seconds`.
    """
    inherited = os.environ.get("PYTHONPATH")
    # With one hash seed a set has the same order in each process: rows drawn from it are the same.
    variables = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(PROJECT_DIR)}
    if inherited:
        variables["PYTHONPATH"] += os.pathsep + inherited
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=seconds,
            env={**os.environ, **variables},
        )
    except subprocess.TimeoutExpired as error:
        replies = (error.stdout or b"").splitlines()
        raise TookTooLong(json.loads(replies[-1])["about"] if replies else None) from error
    last = json.loads((done.stdout.splitlines() or [b"{}"])[-1])
    if "problems" in last:
        raise UserError(*last["problems"])
    if "answer" not in last:
        said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["without a word"])[-1]
        raise UserError(
            f"the functions of {key} must return, but their process ended with {done.returncode}: {said[:300]}; mend it"
        )
    return last["answer"]


def answer(function: Callable[[Any, Callable[[Any], None]], Any]) -> None:
    """Answer `ask` in this process with what `function` returns for the request on standard input.

    `function` also gets a function by which it says what it is about to do. What the user's code prints goes to
    standard error, so that it does not mix with the answer.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)

        def reply(**what: Any) -> None:
            print(json.dumps(what), file=replies, flush=True)

        try:
            reply(answer=function(json.loads(sys.stdin.buffer.read()), lambda about: reply(about=about)))
        except UserError as error:
            reply(problems=error.problems)
