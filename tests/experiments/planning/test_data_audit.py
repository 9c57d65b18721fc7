"""task.source and planning/data_audit.py, on a file with one row of each fault, as parquet and as JSON Lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from experiments.errors import UserError
from experiments.planning import data_audit
from experiments.planning.data_audit import read_split, report
from experiments.tasks.countdown import dataset, hub
from experiments.tasks.dataset import prepare

ROWS: list[dict[str, Any]] = [
    {"nums": [1, 2, 3], "target": 6},
    {"nums": [1, 1, 1], "target": 99},  # no solution
    {"nums": [4, 5, 6, 7], "target": 22},
    {"nums": [3, 2, 1], "target": 6},  # a test row: a train problem with its numbers in another order
    {"nums": [10, 20, 30], "target": 60},
]
WORDS = (
    "2 train problems (0 of them repeat an earlier one up to the order of the numbers, kept as in the article), 1 test "
    "problems; dropped: 1 without a solution, 1 test problems that are train problems, 0 repeated test problems\n"
    "of 5 rows read: 4 with 3 numbers, 1 with 4 numbers; numbers 1 to 30, targets 6 to 99"
)


def write(folder: Path, ending: str) -> Path:
    file = folder / f"copy{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), file)
    elif ending == "-array.json":
        file.write_text(json.dumps(ROWS, indent=1))
    else:
        file.write_text("\n".join(map(json.dumps, ROWS)))
    return file


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".json", "-array.json"])
def test_the_audit_of_a_copy(tmp_path: Path, ending: str) -> None:
    task = {"source": str(write(tmp_path, ending)), "train_size": 3, "test_size": 2}
    assert report(*read_split(task)) == WORDS


def test_the_audit_of_generated_problems_drops_nothing() -> None:
    task = {"source": "generated", "space": "miniature", "train_size": 50, "test_size": 10, "data_seed": 0}
    words = report(*read_split(task))
    assert words.startswith("50 train problems (0 of them") and "dropped: 0 without a solution, 0 test" in words


def test_both_kinds_of_copy_make_the_same_rows(tmp_path: Path) -> None:
    arguments = {"space": "article", "template": "base", "train_size": 3, "test_size": 2, "data_seed": 0}
    file, cache = Path(dataset.__file__), tmp_path / "cache"
    made = [
        prepare(file, "countdown", {**arguments, "source": str(write(tmp_path, ending))}, cache)
        for ending in (".parquet", ".jsonl", "-array.json")
    ]
    first, *others = (parquet.read_table(data.train) for data in made)
    assert all(other == first for other in others)


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"task.source=hub must find .*; fetch .* or task.source=generated"):
        hub.locate("hub")


@pytest.mark.parametrize("content", ["[1, 2]", "[{", '[{"nums": 3}]', "[]", "{}", "[{}]", "\x00", '{"nums": [1, 2]}'])
def test_json_that_is_no_data_set_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "copy.json"
    file.write_text(content)
    with pytest.raises(UserError, match="must"):
        hub.read(file, 2)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.space=foo"], "task.space must be article or miniature, but is 'foo'"),
        (["task.source=null"], "task.source must be generated, hub or the path of a copy, but is None"),
        (["task.source=-1"], "must"),
        (["task.train_size=x"], "task.train_size must be a number"),
        (["task.train_size=0"], "task.train_size must be a whole number of at least 1, but is 0"),
        (["task=nope"], "nope"),
        (["task.space=[a"], "[a"),
        (["task.sorce=hub"], "did you mean task.source"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    overrides: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit", *overrides])
    assert data_audit.main() == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told


def test_the_model_decides_how_many_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The article's model reads as many rows as the article's split, and a file of five rows is too short for that."""
    monkeypatch.setattr(sys, "argv", ["audit", "model=qwen2.5-3b", f"task.source={write(tmp_path, '.jsonl')}"])
    assert data_audit.main() == 2
    assert "must have at least 328704 rows for train and test together, but has 5" in capsys.readouterr().err
