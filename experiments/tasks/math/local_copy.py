"""Read a local copy of a data set: a parquet, JSON or JSON Lines file, or a folder with files of both splits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments import digests
from experiments.errors import UserError
from experiments.tasks.rows import Row
from experiments.tasks.templates import TAGGED, TEMPLATES, template_problems, wrap_tagged
from experiments.tasks.user_code import short

FORMAT = 1  # raise it when the same copy gives other rows, so that no old cache is taken for new
SUFFIXES = (".parquet", ".json", ".jsonl")
SPLITS = ("train", "test")
SCORED_WITH = ("math-verify", "latex2sympy2_extended", "sympy")


@dataclass(frozen=True)
class Copied:
    """How a data set looks where it is copied from."""

    name: str
    """Of its repository on the hub."""
    question: str
    """The column of the questions."""
    answers: tuple[str, ...]
    """The columns that may hold the answer; one of them must be there."""
    right: Callable[[Mapping[str, Any]], str | None]
    """Returns the right answer of a row, None if it has none."""

    def identity(self, source: str, train_size: int, test_size: int, data_seed: int, template: str) -> dict[str, Any]:
        """Return all that determines the rows, and the versions of what scores them: another version, another run.

        Raises UserError: math-verify is not installed, the source is not there, or there is no such template.
        """
        problems, versions, files = [], {}, []
        try:
            versions = {package: version(package) for package in SCORED_WITH}
        except PackageNotFoundError:
            problems.append(
                "the answers of this task must be scored by math-verify, but it is not installed; do: pip install -e "
                "'.[math]'"
            )
        try:
            files = [file for split in self._files(source).values() for file in split]
        except UserError as error:
            problems += error.problems
        problems += template_problems(template)
        if problems:
            raise UserError(*problems)
        return {
            "format": FORMAT,
            "versions": versions,
            "copy": digests.files_digest(tuple(files)),
            "sizes": [train_size, test_size],
            "seed": data_seed,
            # The texts and not their names, since an edited template makes another data set.
            "template": TEMPLATES[template].replace("{question}", TAGGED),
        }

    def build(
        self, source: str, train_size: int, test_size: int, data_seed: int, template: str
    ) -> tuple[list[Row], list[Row]]:
        """Return the train and the test rows: no question is in both, nor twice in one.

        A folder keeps its splits. A file is shuffled, and its first problems are the test problems.

        Raises UserError: the source is not there, has other columns, rows without an answer, or too few problems.
        """
        splits = {
            split: self._problems([row for file in files for row in self._rows(file)])
            for split, files in self._files(source).items()
        }
        rng = random.Random(data_seed)
        mixed = {split: rng.sample(sorted(problems.items()), len(problems)) for split, problems in splits.items()}
        if "" in mixed:
            test, train = mixed[""][:test_size], mixed[""][test_size:]
            there = f"{len(mixed[''])} different problems for both"
        else:
            test = mixed["test"][:test_size]
            held_out = {key for key, _ in mixed["test"]}
            train = [(key, problem) for key, problem in mixed["train"] if key not in held_out]
            there = f"{len(train)} different problems to train on and {len(mixed['test'])} to test on"
        if len(train) < train_size or len(test) < test_size:
            raise UserError(
                f"task.train_size and task.test_size must be at most what task.source={source} has, {there}, but are "
                f"{train_size} and {test_size}; lower one of them"
            )
        return _asked(train[:train_size], template), _asked(test, template)

    def _files(self, source: Any) -> dict[str, list[Path]]:
        """Return the files of each split; a file of its own is of the split ""."""
        columns = f"{self.question} and {' or '.join(self.answers)}"
        what = f"a copy of {self.name}, a file ({', '.join(SUFFIXES)}) with the columns {columns}, or a folder of such"
        if not isinstance(source, str) or not source:
            raise UserError(f"task.source must be {what}, but is {source!r}; set task.source=/its/path")
        path = Path(source).expanduser().absolute()
        if path.is_file() and path.suffix in SUFFIXES:
            return {"": [path]}
        if not path.is_dir():
            found = "has another ending" if path.is_file() else "is not there"
            raise UserError(f"task.source must be {what}, but {path} {found}; check the path")
        there = [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]
        splits = {split: [file for file in there if file.name.startswith(split)] for split in SPLITS}
        if not all(splits.values()):
            names = ", ".join(file.name for file in there[:5]) or "none"
            raise UserError(
                f"task.source must have files whose names begin with train and with test if it is a folder, but the "
                f"files of {path} are {names}; rename them, or give one file"
            )
        return splits

    def _rows(self, file: Path) -> list[dict[str, Any]]:
        """Return the rows of a file; UserError if it can't be read or lacks a column."""
        import pyarrow as pa

        try:
            rows, names = _read(file)
        except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"task.source must be a parquet, JSON or JSON Lines file, but reading {file} gives '{reason}'; copy it "
                "again"
            ) from error
        if self.question not in names or not set(self.answers) & set(names):
            raise UserError(
                f"task.source must have the columns {self.question} and {' or '.join(self.answers)}, but {file} has "
                f"{', '.join(names) or 'none'}; give a copy of {self.name}"
            )
        for place, row in enumerate(rows):
            if not isinstance(row.get(self.question), str) or not self.right(row):
                raise UserError(
                    f"task.source must have a question and an answer in every row, but row {place} of {file} is "
                    f"{short({key: row.get(key) for key in (self.question, *self.answers) if key in row})}; remove it"
                )
        return rows

    def _problems(self, rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
        """Return (question, answer) by question, in which case and blanks don't count; the first of equal ones."""
        found: dict[str, tuple[str, str]] = {}
        for row in rows:
            question = row[self.question].strip()
            found.setdefault(" ".join(question.casefold().split()), (question, str(self.right(row))))
        return found


def _read(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a file's rows and the names of its columns."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        table = parquet.read_table(file)
        return table.to_pylist(), table.column_names
    text = file.read_text(encoding="utf-8").strip()
    if text.startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return rows, list(dict.fromkeys(key for row in rows for key in row))


def _asked(problems: Iterable[tuple[str, tuple[str, str]]], template: str) -> list[Row]:
    return [{"prompt": wrap_tagged(template, question), "ground_truth": answer} for _, (question, answer) in problems]
