"""`evaluate` and `sample`: what they write and print, and that a kill in between changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.runs.__main__ import main
from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir
from experiments.trained.answers import Answers
from experiments.trained.problems import Problem
from experiments.trained.scoring import Scorer
from tests.experiments.trained.conftest import PROBLEMS, STEP

SAMPLES = 4


def command(run: RunDir, *arguments: str) -> int:
    return main(["--runs-dir", str(run.path.parent), *arguments])


def only_answers(run: RunDir) -> Answers:
    (path,) = (run.path / "evaluations").iterdir()
    return Answers(path)


def test_a_checkpoint_is_sampled_scored_and_summed_up(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run, "evaluate", "kl=0.01", "--samples", str(SAMPLES)) == 0
    answers = only_answers(run)
    assert answers.path.name.startswith(f"step_{STEP}-validation-")
    rows = answers.rows()
    assert list(rows) == [(problem, sample) for problem in range(PROBLEMS) for sample in range(SAMPLES)]
    assert all(
        {"input", "output", "gts", "score", "acc", "format", "tokens", "data_source"} <= set(r) for r in rows.values()
    )
    assert len({row["output"] for row in rows.values()}) > PROBLEMS, "the answers to a problem differ"
    summary = json.loads((answers.path / "summary.json").read_text())
    mean = sum(row["acc"] for row in rows.values()) / len(rows)
    assert summary["accuracy"][0] == pytest.approx(mean) and summary["pass_at"]["1"][0] == pytest.approx(mean)
    solved = sum(any(rows[p, k]["acc"] for k in range(SAMPLES)) for p in range(PROBLEMS)) / PROBLEMS
    assert summary["pass_at"][str(SAMPLES)][0] == pytest.approx(solved)
    printed, errors = capsys.readouterr()
    assert f"accuracy  {mean:.3f}  [" in printed and "format" in printed and f"pass@{SAMPLES}" in printed
    assert f"{PROBLEMS * SAMPLES}/{PROBLEMS * SAMPLES} answers" in errors


def test_after_a_kill_only_what_is_missing_is_sampled_and_it_is_the_same(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(run, "evaluate", "kl=0.01", "--samples", str(SAMPLES), "--step", "0") == 0
    answers = only_answers(run)
    whole = answers.rows()
    lines = answers.file.read_bytes().splitlines(keepends=True)
    answers.file.write_bytes(b"".join(lines[:9]) + lines[9][:40])  # torn in the second problem
    capsys.readouterr()
    assert command(run, "evaluate", "kl=0.01", "--samples", str(SAMPLES), "--step", "0") == 0
    assert "24 answers to 6 problems, 9 of them are there" in capsys.readouterr().out
    assert answers.rows() == whole
    assert read_jsonl(answers.file)[1] == 1, "the torn line is a line of its own"
    # More samples keep those that there are; fewer need no sampling.
    assert command(run, "evaluate", "kl=0.01", "--samples", "5", "--step", "0") == 0
    assert {place: row for place, row in answers.rows().items() if place[1] < SAMPLES} == whole
    assert command(run, "evaluate", "kl=0.01", "--samples", "1", "--step", "0") == 0
    assert json.loads((answers.path / "summary.json").read_text())["samples"] == 1


def write(file: Path, rows: Sequence[object]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_problems_of_one_s_own_are_answered_beside_the_validation_s(run: RunDir, tmp_path: Path) -> None:
    truth = {"target": 45, "numbers": [3, 7, 12]}
    file = write(tmp_path / "mine.jsonl", [{"prompt": "numbers 3, 7, 12 target 45", "ground_truth": truth}] * 2)
    assert command(run, "evaluate", "kl=0.01", "--samples", "2", "--data", str(file)) == 0
    rows = only_answers(run).rows()
    assert only_answers(run).path.name.startswith(f"step_{STEP}-mine-")
    assert rows[0, 0]["input"] == "numbers 3, 7, 12 target 45 <think>" and rows[0, 0]["gts"] == truth


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "--data must have at least one problem"),
        ([{"prompt": "numbers 3", "ground_truth": 1}, {"prompt": "x"}], "row 1 of "),
        ([3], "row 0 of "),
        ([{"prompt": "numbers" + " 3," * 40, "ground_truth": 1}], "a prompt must have 1 to data.max_prompt_length=16"),
    ],
)
def test_a_file_without_problems_is_refused(
    rows: list[object], said: str, run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "mine.jsonl", rows)
    assert command(run, "evaluate", "kl=0.01", "--samples", "2", "--data", str(file), "--step", "0") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and said in errors[0]


def test_other_mistakes_are_one_message(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run, "evaluate", "kl=0.01", "--samples", "0") == 2
    assert command(run, "evaluate", "kl=0.01", "--data", str(tmp_path / "none.jsonl")) == 2
    assert command(run, "sample", "kl=0.01", "--problem", "6") == 2
    assert command(run, "sample", "kl=0.01", "a prompt", "--problem", "1") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --samples must be 1 or more answers to a problem, but is 0; e.g. 64",
        f"error: --data must be a file of problems, but there is no file {tmp_path / 'none.jsonl'}; name one",
        "error: --problem must be from 0 to 5, but is 6",
        "error: PROMPT and --problem exclude each other; leave one out",
    ]


def test_a_sample_shows_the_prompt_the_answer_and_its_scores(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run, "sample", "kl=0.01", "--greedy", "--problem", "2", "--step", "0") == 0
    first = capsys.readouterr().out
    assert "step 0, greedy" in first and "numbers " in first and "score " in first
    assert command(run, "sample", "kl=0.01", "--greedy", "--step", "0", "numbers 3, 7, 12 target 45 <think> é") == 0
    printed = capsys.readouterr().out
    assert "numbers 3, 7, 12 target 45 <think>\n---\n" in printed and "score" not in printed
    assert "the model did not read all of PROMPT" in printed


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "return {'score': float('nan')}",
            "must return a number, or a dict whose score and acc are numbers, but returns",
        ),
        ("return {'score': 1.0, 'acc': 'yes'}", "'acc': 'yes'"),
        ("raise KeyError(solution_str[:0])", "must not raise, but raises KeyError"),
    ],
)
def test_a_reward_that_scores_badly_is_one_message(body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        f"def compute_score(data_source, solution_str, ground_truth, extra_info):\n    {body}\n"
    )
    chosen = {"path": str(tmp_path / "reward.py"), "name": "compute_score"}
    scorer = Scorer({"reward": {"custom_reward_function": chosen}})
    with pytest.raises(UserError) as caught:
        scorer.score(Problem(0, ({"role": "user", "content": "q"},), 1, "mine", {}), "text")
    (problem,) = caught.value.problems
    assert said in problem


def test_a_reward_of_a_user_s_own_may_return_a_bare_number_or_numpy_s(tmp_path: Path) -> None:
    body = "    print('noise')\n    return numpy.float32(0.5)\n"
    (tmp_path / "reward.py").write_text(f"import numpy\n\n\nasync def compute_score(solution_str, **kwargs):\n{body}")
    scorer = Scorer(
        {"reward": {"custom_reward_function": {"path": str(tmp_path / "reward.py"), "name": "compute_score"}}}
    )
    problem = Problem(0, ({"role": "user", "content": "q"},), 1, "mine", {})
    assert scorer.score(problem, "text") == {"score": 0.5, "acc": 0.5}
