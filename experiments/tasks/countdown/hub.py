"""The public data set Jiayi-Pan/Countdown-Tasks-3to4, from the hub or from a file that somebody has downloaded."""

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.tasks.countdown.problems import Key, Problem, key
from experiments.tasks.countdown.solver import MAX_COUNT, search, solve


@dataclass(frozen=True)
class Counts:
    """What became of the rows that were read."""

    train: int
    test: int
    unsolvable: int
    test_in_train: int
    test_repeated: int
    train_repeated: int

    def __str__(self) -> str:
        """The counts in words."""
        return (
            f"{self.train} train problems ({self.train_repeated} of them repeat an earlier one up to the order of the "
            f"numbers, kept as in the article), {self.test} test problems; dropped: {self.unsolvable} without a "
            f"solution, {self.test_in_train} test problems that are train problems, {self.test_repeated} repeated test "
            "problems"
        )


REPOSITORY = "Jiayi-Pan/Countdown-Tasks-3to4"
FILE = "data/train-00000-of-00001.parquet"


def locate(source: str) -> Path:
    """Return the file of task.source: a path, or for "hub" the file in the hub's cache, which is fetched if missing.

    Raises:
        UserError: it cannot be fetched.
    """
    if source != "hub":
        return Path(source).expanduser()
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(REPOSITORY, FILE, repo_type="dataset"))
    except (ImportError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no answer"])[0]
        raise UserError(
            f"task.source=hub must find {REPOSITORY}, but fetching it gives '{reason}'; fetch {FILE} where there is a "
            "network (hf download --repo-type dataset) and set task.source to the file, or task.source=generated"
        ) from error


def digest(source: Path) -> str:
    """The sha256 of the file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"the data set must be a parquet file, but {source} gives '{error.strerror}'; download one of "
            "https://huggingface.co/datasets/Jiayi-Pan/Countdown-Tasks-3to4 and give its path"
        ) from error


def read(source: Path, rows: int) -> list[Problem]:
    """The problems in the first `rows` rows of a parquet, JSON or JSON Lines file with the columns nums and target.

    Raises:
        UserError: it is no such file, has other columns or too few rows, or rows are malformed.
    """
    import pyarrow as pa

    try:
        table = _table(source)
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source} must be a parquet or JSON file, but reading it gives '{error}'; download it again"
        ) from error
    wrong = _wrong_columns(table.schema)
    if wrong:
        raise UserError(
            f"{source} must have the columns nums (list of integers) and target (integer), but has {wrong}; "
            "give the parquet file of Jiayi-Pan/Countdown-Tasks-3to4"
        )
    if table.num_rows < rows:
        raise UserError(
            f"{source} must have at least {rows} rows for train and test together, but has "
            f"{table.num_rows}; give the whole file or lower train_size or test_size"
        )
    table = table.select(["nums", "target"]).slice(0, rows)
    return _problems(source, table.to_pylist())


def _table(source: Path) -> Any:
    """Return the file as an Arrow table: .json and .jsonl hold one array or one object per line, others are parquet."""
    if source.suffix in (".json", ".jsonl"):
        import pyarrow as pa
        import pyarrow.json

        text = source.read_text(encoding="utf-8").lstrip()
        if text.startswith("["):
            return pa.Table.from_pylist(json.loads(text))
        return pyarrow.json.read_json(source)
    import pyarrow.parquet

    return pyarrow.parquet.read_table(source)


def split(problems: list[Problem], train_size: int) -> tuple[list[Problem], list[Problem], Counts]:
    """Return the train problems, from the first `train_size`, the test problems, from the others, and the counts.

    Problems without a solution are dropped from both. A test problem is also dropped if it is among the train problems
    or earlier among the test problems, up to the order of the numbers.

    Raises:
        UserError: no train problem or no test problem is left.
    """
    solvable = _solvable(problems)
    train = [problem for problem, good in zip(problems[:train_size], solvable, strict=False) if good]
    known = {key(problem) for problem in train}
    seen: set[Key] = set()
    test = []
    in_train = repeated = 0
    for problem, good in zip(problems[train_size:], solvable[train_size:], strict=True):
        if not good:
            continue
        name = key(problem)
        if name in known:
            in_train += 1
        elif name in seen:
            repeated += 1
        else:
            seen.add(name)
            test.append(problem)
    counts = Counts(
        train=len(train),
        test=len(test),
        unsolvable=len(problems) - sum(solvable),
        test_in_train=in_train,
        test_repeated=repeated,
        train_repeated=len(train) - len(known),
    )
    if not train or not test:
        raise UserError(f"train and test must both keep problems, but there are {counts}; give another file or split")
    return train, test, counts


def _wrong_columns(schema: Any) -> str:
    """What is wrong with the columns of an Arrow schema, in words; empty if nothing."""
    import pyarrow as pa

    found = {field.name: field.type for field in schema}
    nums, target = found.get("nums", pa.null()), found.get("target", pa.null())
    is_list = pa.types.is_list(nums) or pa.types.is_large_list(nums)
    if is_list and pa.types.is_integer(nums.value_type) and pa.types.is_integer(target):
        return ""
    return ", ".join(f"{name} ({kind})" for name, kind in found.items()) or "none"


def _problems(source: Path, rows: list[dict[str, Any]]) -> list[Problem]:
    problems = []
    malformed = []
    for index, row in enumerate(rows):
        nums, target = row["nums"], row["target"]
        if (
            nums is None
            or target is None
            or not 2 <= len(nums) <= MAX_COUNT
            or target < 1
            or any(number is None or number < 0 for number in nums)
        ):
            malformed.append(index)
        else:
            problems.append(Problem(tuple(nums), target))
    if malformed:
        first = rows[malformed[0]]
        raise UserError(
            f"every row of {source} must have 2 to {MAX_COUNT} numbers >= 0 and a target >= 1, but {len(malformed)} do "
            f"not, the first is row {malformed[0]} with nums {first['nums']} and target {first['target']}; remove them"
        )
    return problems


def _is_small(problem: Problem) -> bool:
    """Whether `search` is exact for a problem."""
    return max(prod(max(number, 1) for number in problem.numbers), problem.target) < 1 << 50


def _solvable(problems: list[Problem]) -> list[bool]:
    """Which problems have a solution, over the rationals."""
    solvable = np.zeros(len(problems), dtype=np.bool_)
    for size in {len(problem.numbers) for problem in problems}:
        # Nearly all have a solution in whole-number steps, and `search` looks for those in many problems at once.
        places = [
            place for place, problem in enumerate(problems) if len(problem.numbers) == size and _is_small(problem)
        ]
        if places:
            numbers = np.array([problems[place].numbers for place in places], dtype=np.int64)
            targets = np.array([problems[place].target for place in places], dtype=np.int64)
            solvable[places] = search(numbers, targets) >= 0
    for place in np.flatnonzero(~solvable):
        problem = problems[place]
        solvable[place] = solve(problem.numbers, problem.target) is not None
    return [bool(flag) for flag in solvable]
