"""Digests: short names for the content of files (the base model, the data, the code of the reward and the plugin)."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

NOT_READ = ("README.md", "metrics.json")  # a model's card and its measurements: training does not read them


def file_stamp(file: Path) -> tuple[int, int] | None:
    """Return (time of the last change in ns, size in bytes), None if the file can't be seen: a key for caches."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@cache
def folder_digest(folder: Path) -> str:
    """Return 12 hexadecimal digits that name the contents of a folder's files (not their times)."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return _digest(
        (file.relative_to(folder).as_posix(), _sha256(file))
        for file in files
        if "__pycache__" not in file.parts and file.name not in NOT_READ
    )


@cache
def files_digest(files: tuple[Path, ...]) -> str:
    """Return 12 hexadecimal digits that name the contents of some files in this order, wherever the files are."""
    return _digest((str(place), _sha256(file)) for place, file in enumerate(files))


@cache
def code_digest(entries: tuple[Path, ...], root: Path) -> str:
    """Return 12 hexadecimal digits that name the statements of some Python files and of what they import.

    See `imported_files` for which imports count. Comments, docstrings and blank lines do not count: rewording them must
    not turn every run into a new one.
    """
    found = imported_files(entries, root)
    return _digest((name, hashlib.sha256(statements(file).encode()).digest()) for name, file in sorted(found.items()))


def imported_files(entries: tuple[Path, ...], root: Path) -> dict[str, Path]:
    """Return, by name, some Python files and all files that they import, directly or through others.

    Only imported files inside `root`, or beside the file that imports them, count. The name is the path inside `root`,
    and the file's own name elsewhere.
    """
    found: dict[str, Path] = {}
    waiting = [file.resolve() for file in entries]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
        if name not in found:
            found[name] = file
            waiting += _imported(file, root)
    return found


def _imported(file: Path, root: Path) -> list[Path]:
    """Return the files in `root`, or beside `file`, that `file` imports, inside its functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            names |= {package} | {f"{package}.{alias.name}".replace("..", ".") for alias in node.names}
    places = [folder / f"{name.strip('.').replace('.', '/')}.py" for name in names for folder in (root, file.parent)]
    return [place.resolve() for place in places if place.is_file()]


def statements(file: Path) -> str:
    """Return a Python file's text without comments, docstrings and blank lines."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            docstring = node.body[0]
            for row in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _sha256(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _digest(parts: Iterator[tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    for name, content in parts:
        total.update(f"{name}\n".encode() + content)
    return total.hexdigest()[:12]
