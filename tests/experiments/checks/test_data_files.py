"""checks/data_files.py refuses parquet files that veRL could not read, or would read but not train on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.experiments.right_config import (
    DYNAMIC,
    Make,
    problems_of,
    sizes,
    suggestion,
    the_problem,
    with_values,
    write_rows,
)


@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_a_data_file_must_be_there(make: Make, tmp_path: Path, key: str) -> None:
    missing = tmp_path / "missing.parquet"
    expected = f"{key} must be a parquet file, but there is no {missing}; check the path, or leave it null"
    assert the_problem(with_values(make(), {key: str(missing)})) == expected
    assert the_problem(with_values(make(), {key: [str(missing)]})) == expected


@pytest.mark.parametrize("content", [b"", b"not a parquet file at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_data_file_must_be_parquet(make: Make, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(content)
    problem = the_problem(make(data__train_files=str(file)))
    assert re.fullmatch(
        rf"data.train_files must be a parquet file, but {file} can't be read \(.+\); build it again", problem
    )


def test_a_cut_off_file_is_told(make: Make, files: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes((files / "train.parquet").read_bytes()[:-20])
    assert "can't be read" in the_problem(make(data__train_files=str(file)))


def test_a_folder_is_no_data_file(make: Make, tmp_path: Path) -> None:
    assert f"must be a parquet file, but {tmp_path} can't be read" in the_problem(make(data__train_files=str(tmp_path)))


def test_columns_must_be_those_of_verl(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"prompt": [["x"]], "nums": [[1, 2, 3]]}), file)
    assert the_problem(make(data__train_files=str(file))) == (
        f"data.train_files must have veRL's columns, but {file} lacks data_source, reward_model; "
        "build it with experiments.tasks"
    )


def test_there_must_be_texts_only(make: Make, tmp_path: Path) -> None:
    """veRL would look at the images where it samples; the workers would compute the log-probs without them."""
    file = write_rows(tmp_path / "train.parquet", 40, images=[["a.png"]] * 40)
    assert the_problem(make(data__train_files=str(file))).startswith(
        f"data.train_files must hold texts only, but {file} has a column images: the workers fetch a row's tokens"
    )
    assert problems_of(with_values(make(data__train_files=str(file)), {"data.image_key": "pictures"})) == []


def test_there_must_be_rows(make: Make, files: Path, tmp_path: Path) -> None:
    file = tmp_path / "test.parquet"
    parquet.write_table(parquet.read_table(files / "test.parquet").slice(0, 0), file)
    assert the_problem(make(data__val_files=str(file))) == (
        f"data.val_files must have rows, but {file} is empty; build it again"
    )


def test_there_must_be_a_batch_of_rows_to_train_on(make: Make, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.parquet", 20)
    config = make(data__train_files=str(file))
    problem = the_problem(config)
    assert problem == (
        f"data.train_files must hold at least data.train_batch_size=32 rows, but {file} has 20; "
        "set data.train_batch_size=20"
    )
    assert problem not in problems_of(with_values(config, suggestion(problem)))
    assert problems_of(make(data__val_files=str(file))) == [], "validation takes what there is"


def test_too_few_rows_for_the_gpus_do_not_lead_in_a_circle(make: Make, tmp_path: Path) -> None:
    """21 rows on 2 GPUs: 21 is not a multiple of 2, and there are no 22 rows, so the suggestion is 20."""
    file = write_rows(tmp_path / "train.parquet", 21)
    config = sizes(make, 32, 5, 2, 2, data__train_files=str(file), **DYNAMIC)
    for _ in range(6):
        found = problems_of(config)
        if not found:
            break
        config = with_values(config, suggestion(found[0]))
    assert problems_of(config) == []


def test_prompts_must_fit(make: Make, tmp_path: Path) -> None:
    """Prompts that are too long are found anywhere in the file."""
    prompts = [[{"role": "user", "content": " ".join(["w"] * (17 if row > 600 else 3))}] for row in range(1000)]
    file = write_rows(tmp_path / "train.parquet", 1000, prompt=prompts)
    config = make(data__train_files=str(file))
    problem = the_problem(config)
    assert problem == (
        f"data.max_prompt_length must be at least 17 tokens for {file}, but is 16: 399 of its 1,000 prompts are "
        "longer; set data.max_prompt_length=17"
    )
    assert problems_of(with_values(config, suggestion(problem))) == []


def test_prompts_on_the_hub_s_tokenizer_are_left_to_verl(make: Make, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.parquet", 40, words=17)
    assert problems_of(make(data__train_files=str(file), model__path="Qwen/Qwen2.5-3B")) == []


@pytest.mark.parametrize(
    "prompts",
    [
        ["numbers 3, 7, 12"] * 40,
        [None] * 40,
        [[{"role": "user", "text": "w"}]] * 40,
        [[1, 2]] * 40,
        [[{"content": None}]] * 40,
    ],
    ids=["text", "nothing", "no content", "numbers", "empty content"],
)
def test_prompts_must_be_chats(make: Make, tmp_path: Path, prompts: list[Any]) -> None:
    file = write_rows(tmp_path / "train.parquet", 40, prompt=prompts)
    assert the_problem(make(data__train_files=str(file))) == (
        f"data.train_files must hold prompts as lists of messages with a content, but {file} does not; "
        "build it with experiments.tasks"
    )


@pytest.mark.parametrize("empty", [None, [], [{"role": "user", "content": ""}]], ids=str)
@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_one_prompt_that_says_nothing_is_told(make: Make, tmp_path: Path, key: str, empty: Any) -> None:
    """It is found in a file of several row groups, where a column has several chunks."""
    prompts: list[Any] = [[{"role": "system", "content": ""}, {"role": "user", "content": "w"}]] * 40
    prompts[33] = empty
    file = write_rows(tmp_path / "rows.parquet", 40, prompt=prompts)
    parquet.write_table(parquet.read_table(file), file, row_group_size=8)
    assert the_problem(with_values(make(), {key: str(file)})) == (
        f"{key} must have a prompt in every row, but row 33 of {file} has none; build it again without it"
    )


TRUTH = {"ground_truth": {"target": 3, "numbers": [1, 2]}}


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        (['{"ground_truth": 3}'] * 40, "{file} has string; build it with experiments.tasks"),
        ([{"style": "rule"}] * 40, "{file} has struct<style: string>; build it with experiments.tasks"),
        ([TRUTH] * 39 + [None], "row 39 of {file} has none; build it again without such rows"),
        ([TRUTH, {"style": "rule"}] * 20, "row 1 of {file} has none; build it again without such rows"),
    ],
    ids=["text", "no ground truth", "nothing once", "no ground truth at times"],
)
@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_every_row_has_a_ground_truth(make: Make, tmp_path: Path, key: str, column: list[Any], wrong: str) -> None:
    file = write_rows(tmp_path / "rows.parquet", 40, reward_model=column)
    must = f"{key} must have mappings with a ground_truth as its reward_model, but "
    assert the_problem(with_values(make(), {key: str(file)})) == must + wrong.format(file=file)


@pytest.mark.parametrize(("key", "value"), [("train_files", []), ("val_files", []), ("val_files", None)])
def test_whoever_brings_training_data_brings_validation_data(make: Make, key: str, value: Any) -> None:
    assert the_problem(with_values(make(), {f"data.{key}": value})) == (
        f"data.{key} must be a parquet file, or several, but is {value}; set it, or leave both null for what "
        "task=... makes"
    )
