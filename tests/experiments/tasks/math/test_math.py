"""GSM8K and MATH from a local copy: rows, splits, what is refused, and math-verify's judgement as our reward."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from experiments.errors import UserError
from experiments.planning.plan import PlannedRun
from experiments.tasks.math import competition, gsm8k, local_copy
from experiments.tasks.math.reward import compute_score

WORDS = [{"question": f"What is {n} + {n}?", "answer": f"Add them.\n#### {2 * n:,}"} for n in range(990, 1010)]
BOXED = [
    {"problem": f"Find ${n}/7$.", "solution": f"$\\boxed{{1}}$, no: $\\boxed{{\\frac{{{n}}}{{7}}}}$."}
    for n in range(20)
]
SIZES = {"train_size": 12, "test_size": 5, "data_seed": 0, "template": "base"}


def written(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        file.write_text(json.dumps(rows))
    return str(file)


def questions(rows: list[dict[str, Any]]) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows]


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl"])
def test_a_file_gives_the_same_rows_whatever_its_kind(tmp_path: Path, kind: str) -> None:
    train, test = gsm8k.build(written(tmp_path / f"copy.{kind}", WORDS), **SIZES)
    assert (len(train), len(test)) == (12, 5)
    assert not set(questions(train)) & set(questions(test))
    assert (train, test) == gsm8k.build(written(tmp_path / "another.json", WORDS), **SIZES)
    assert test != gsm8k.build(str(tmp_path / f"copy.{kind}"), **{**SIZES, "data_seed": 1})[1]
    by_truth = {row["ground_truth"]: row["prompt"][0]["content"] for row in (*train, *test)}
    assert len(by_truth) == 17 and all(truth.isdigit() for truth in by_truth), "no commas"
    text = by_truth[train[0]["ground_truth"]]
    assert "\nUser: What is " in text and "</answer> tags.\nAssistant: Let me solve this step by step.\n<think>" in text


def test_a_folder_keeps_its_splits_and_a_test_problem_is_not_trained_on(tmp_path: Path) -> None:
    spelt = {**WORDS[0], "question": f"  {WORDS[0]['question'].upper()} "}
    written(tmp_path / "main" / "train-00000-of-00001.parquet", [*WORDS[5:], spelt, WORDS[7]])
    written(tmp_path / "main" / "test-00000-of-00001.parquet", WORDS[:5])
    (tmp_path / "README.md").write_text("not data")
    train, test = gsm8k.build(str(tmp_path), **{**SIZES, "train_size": 15})
    assert sorted(row["ground_truth"] for row in test) == sorted(gsm8k.right(row) for row in WORDS[:5])
    assert sorted(row["ground_truth"] for row in train) == sorted(gsm8k.right(row) for row in WORDS[5:])
    with pytest.raises(UserError) as error:
        gsm8k.build(str(tmp_path), **{**SIZES, "train_size": 16})
    assert str(error.value) == (
        f"task.train_size and task.test_size must be at most what task.source={tmp_path} has, 15 different problems to "
        "train on and 5 to test on, but are 16 and 5; lower one of them"
    )


def test_math_s_answer_is_its_column_or_the_last_box_of_its_solution(tmp_path: Path) -> None:
    train, test = competition.build(written(tmp_path / "copy.jsonl", BOXED), **SIZES)
    assert {row["ground_truth"] for row in (*train, *test)} <= {f"\\frac{{{n}}}{{7}}" for n in range(20)}
    assert competition.right({"answer": " 3 ", "solution": "\\boxed{4}"}) == "3"
    assert competition.right({"solution": "\\fbox{$\\sqrt{2}$}"}) == "$\\sqrt{2}$"
    assert competition.right({"solution": "\\boxed{\\frac{1}{2}"}) is None
    assert competition.right({"solution": "no box"}) is None


@pytest.mark.parametrize(
    "name, rows, says",
    [
        (
            "copy.json",
            BOXED,
            "must have the columns question and answer, but {file} has problem, solution; give a copy",
        ),
        (
            "copy.jsonl",
            [*WORDS, {"question": "Why?", "answer": "So."}],
            "in every row, but row 20 of {file} is {{'quest",
        ),
        ("copy.json", WORDS[:16], "has, 16 different problems for both, but are 12 and 5; lower one of them"),
    ],
)
def test_a_wrong_copy_is_told(tmp_path: Path, name: str, rows: list[dict[str, Any]], says: str) -> None:
    file = written(tmp_path / name, rows)
    with pytest.raises(UserError) as error:
        gsm8k.build(file, **SIZES)
    assert len(error.value.problems) == 1 and says.format(file=file) in str(error.value)


def test_a_source_that_is_no_copy_is_told(tmp_path: Path) -> None:
    (tmp_path / "copy.parquet").write_bytes(b"no parquet")
    (tmp_path / "copy.csv").write_text("question,answer")
    (tmp_path / "copy.json").write_text("[1, 2]")
    said = {}
    for source in (None, "copy.parquet", "copy.json", "copy.csv", "missing", "."):
        with pytest.raises(UserError) as error:
            gsm8k.build(source and str(tmp_path / source), **SIZES)
        (said[source],) = error.value.problems
    assert "but is None; set task.source=" in said[None]
    for name in ("copy.parquet", "copy.json"):
        assert f"reading {tmp_path / name} gives" in said[name]
    assert said["copy.csv"].endswith("copy.csv has another ending; check the path")
    assert said["missing"].endswith("missing is not there; check the path")
    assert "begin with train and with test" in said["."] and "are copy.json, copy.parquet; rename" in said["."]


def test_the_content_and_the_scorer_s_version_are_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gsm8k.identity(written(tmp_path / "one.json", WORDS), **SIZES)
    assert first == gsm8k.identity(written(tmp_path / "two.json", WORDS), **SIZES)
    assert first != gsm8k.identity(written(tmp_path / "three.json", WORDS[1:]), **SIZES)
    monkeypatch.setattr(local_copy, "version", lambda package: "99")
    assert first != gsm8k.identity(str(tmp_path / "one.json"), **SIZES)


def test_without_math_verify_the_plan_says_what_to_install_beside_what_else_is_wrong(
    ask: Callable[..., list[PlannedRun]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_copy, "SCORED_WITH", ("no-such-package",))
    with pytest.raises(UserError) as error:
        ask("task=gsm8k task.source=/no/such/copy rollout.n=1")
    said = "\n".join(error.value.problems)
    assert "pip install -e '.[math]'" in said and "/no/such/copy is not there" in said
    assert "rollout.n must be at least 2" in said and len(error.value.problems) == 3


def test_the_miniature_can_t_read_it_and_says_what_to_do(ask: Callable[..., list[PlannedRun]], tmp_path: Path) -> None:
    source = written(tmp_path / "copy.json", WORDS)
    with pytest.raises(UserError) as error:
        ask(f"task=gsm8k task.source={source} task.train_size=16 task.test_size=4")
    assert all("must have a tokenizer that keeps every character" in problem for problem in error.value.problems)
    assert "take another model (model=...)" in error.value.problems[0]


RIGHT = [
    *(("72", answer) for answer in ("72", "72.0", "$72", "72 apples", "$72$", "\\boxed{72}", "x = 72", "70 + 2")),
    *(("\\$32,\\!348", answer) for answer in ("32348", "\\$32,348", "$32,348")),
    *(("15\\%", answer) for answer in ("15%", "$15\\%$", "15\\%")),
    *(("\\frac{1}{2}", answer) for answer in ("1/2", "0.5", "\\frac12", "$\\dfrac{1}{2}$")),
    *(("(3,\\infty)", "(3, \\infty)"), ("\\text{Evelyn}", "Evelyn"), ("x^2+2x+1", "(x+1)^2"), ("1,2", "2, 1")),
]
WRONG = [
    ("72", "73"),
    ("72", "72, 73"),
    ("3", "-3"),
    ("(3,\\infty)", "3"),
    ("(1,2)", "(2,1)"),
    ("\\text{Evelyn}", "Eve"),
    ("3", "3} 4"),
    ("3", "3 or 4"),
]
# The plan's check of the reward, in the test above, has 9**9**9, which costs seconds.
HOSTILE = [
    "$" + "\\frac{1}{" * 60 + "$",
    "(" * 400,
    "(" * 100_000,
    "\x00\ud800",
    "\\boxed{" * 60,
    "$" * 499,
]


def test_math_verify_judges_in_threads_and_ends() -> None:
    def scored(case: tuple[str, str]) -> dict[str, float]:
        return compute_score("gsm8k", f"so it is <answer> {case[1]} </answer>", case[0])

    with ThreadPoolExecutor(4) as threads:
        assert [case for case, score in zip(RIGHT, threads.map(scored, RIGHT), strict=True) if score["acc"] != 1] == []
        for case, score in zip(WRONG, threads.map(scored, WRONG), strict=True):
            assert score == {"score": 0.1, "acc": 0.0, "format": 1.0}, case
        hostile = [("72", text) for text in (*HOSTILE, "__import__('os').system('true')")]
        assert all(score["acc"] == 0 and score["score"] <= 0.1 for score in threads.map(scored, hostile))
    nothing = {"score": 0.0, "acc": 0.0, "format": 0.0}
    assert compute_score("gsm8k", "72", "72") == compute_score("gsm8k", "<answer> </answer>", "72") == nothing
    assert compute_score("gsm8k", "<answer>9</answer>", "72", format_score=0.3)["score"] == 0.3
