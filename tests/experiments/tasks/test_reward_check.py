"""Test the call of a reward function before anything starts: what would break a training is reported in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from experiments.errors import UserError
from experiments.tasks import reward_check
from experiments.tasks.countdown import reward
from experiments.tasks.reward_check import RESPONSES, check, reward_problems

HEAD = "def compute_score(solution_str, ground_truth, **others):\n    "


def train_file(folder: Path, ground_truth: Any) -> Path:
    row = {"data_source": "mine", "reward_model": {"style": "rule", "ground_truth": ground_truth}, "prompt": "p"}
    parquet.write_table(pa.Table.from_pylist([row] * 3), folder / "train.parquet")
    return folder / "train.parquet"


def problems(folder: Path, path: Path | str | None, ground_truth: Any = 4, **kwargs: Any) -> list[str]:
    """Return what reward_problems says of the function in a file."""
    reward_check._problems.cache_clear()
    chosen = {"path": path, "name": "compute_score", **({"reward_kwargs": kwargs} if kwargs else {})}
    train = str(train_file(folder, ground_truth))
    config = {"reward": {"custom_reward_function": chosen}, "data": {"train_files": train}}
    return [problem.replace(f"{folder}/", "") for problem in reward_problems(config)]


def own(folder: Path, text: str) -> Path:
    file = folder / "mine.py"
    file.write_text(text)
    return file


def checked(folder: Path, text: str) -> str:
    """Return the problem of a function with this text, called in this process."""
    row = {"data_source": "mine", "ground_truth": 4, "extra_info": {}}
    with pytest.raises(UserError) as error:
        check({"path": str(own(folder, text)), "name": "compute_score", "kwargs": {}, "row": row}, lambda about: None)
    (problem,) = error.value.problems
    return problem.replace(f"{folder}/", "").replace("reward.custom_reward_function.path", "PATH")


@pytest.mark.parametrize(
    "body",
    [
        "return 0.5",
        "return len(solution_str) == ground_truth",
        'return {"score": 0, "acc": False, "verdict": "wrong"}',
        "import numpy\n    return {'score': numpy.float32(1), 'acc': numpy.int64(0)}",
        "print('said')\n    return 0",
    ],
)
def test_a_score_is_a_number_or_a_dict_with_one(tmp_path: Path, body: str) -> None:
    assert problems(tmp_path, own(tmp_path, HEAD + body)) == []


def test_a_coroutine_is_a_reward_function_too(tmp_path: Path) -> None:
    assert problems(tmp_path, own(tmp_path, f"async {HEAD}return 0.5")) == []


def test_it_gets_what_verl_passes(tmp_path: Path) -> None:
    text = f"""
extra_info = {{"num_turns": 2, "rollout_reward_scores": {{}}}}
{HEAD}assert others == {{"data_source": "mine", "extra_info": extra_info, "base": 0.25}}, others
    assert ground_truth == {{"numbers": [1, 2]}}, ground_truth
    return others["base"]
"""
    assert problems(tmp_path, own(tmp_path, text), {"numbers": [1, 2]}, base=0.25) == []


@pytest.mark.parametrize(
    "text, problem",
    [
        (
            "def score(text): ...",
            "PATH must have a function compute_score, but mine.py has none; write def compute_score(data_source, "
            "ground_truth, extra_info, solution_str):",
        ),
        (
            "def compute_score(response, ground_truth): ...",
            "compute_score of PATH=mine.py must take data_source, ground_truth, extra_info, solution_str, but is "
            "compute_score(response, ground_truth): missing a required argument: 'response'; write def compute_score(",
        ),
        (
            "def compute_score(solution_str, ground_truth): ...",
            "compute_score(solution_str, ground_truth): got an unexpected keyword argument 'data_source'; write def ",
        ),
        (
            HEAD + "pass",
            "compute_score of PATH=mine.py must return a number or a dict with \"score\", but returns None for ''; "
            'write e.g. return {"score": 0.0, "acc": 0.0}',
        ),
        (HEAD + "return 'good'", "but returns 'good' for ''"),
        (HEAD + "return float('nan')", "but returns nan for ''"),
        (HEAD + "return {'acc': 1.0}", "but returns {'acc': 1.0} for ''"),
        (
            HEAD + "return {'score': 1.0, 'why': [1]}",
            "but returns also {'why': [1]}, which is neither a number nor a text, for ''",
        ),
        (
            HEAD + "return float(solution_str[0] == 'x')",
            "compute_score of PATH=mine.py must score any response, but raises IndexError: string index out of range "
            "(line 2) for '' and the ground truth 4; return 0.0 for what can't be read",
        ),
        (HEAD + "return 1.0 if not solution_str else int(solution_str)", "raises ValueError: invalid literal for int"),
        (HEAD + "raise SystemExit", "must score any response, but raises SystemExit (line 2) for ''"),
        (
            "import no_such_module_here",
            "the file of PATH=mine.py must not raise, but raises ModuleNotFoundError: No mo",
        ),
    ],
)
def test_what_would_break_a_training_is_told(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in checked(tmp_path, text)


def test_a_problem_comes_back_from_the_process_that_called_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, own(tmp_path, HEAD + "return ground_truth['target']"))
    assert "must score any response, but raises TypeError: 'int' object is not subscriptable (line 2)" in problem


def test_an_eval_that_computes_for_years_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_check, "SECONDS", 4.0)
    text = f"import re\n\n{HEAD}found = re.search('<answer>(.*9.*)</answer>', solution_str)\n"
    (problem,) = problems(tmp_path, own(tmp_path, f"{text}    return float(eval(found[1]) == 4) if found else 0.0\n"))
    assert problem == (
        "compute_score of reward.custom_reward_function.path=mine.py must score any response at once, but takes more "
        "than 4 s for '<answer> 9**9**9 </answer>'; read responses in bounded time, never with eval"
    )


def test_the_shipped_reward_passes_and_its_mode_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {"target": 3, "numbers": [1, 2]}
    for mode in ("strict", "tinyzero"):
        assert problems(tmp_path, reward.__file__, truth, mode=mode, log_every=1) == []
    assert problems(tmp_path, reward.__file__, truth, mode="lax") == [
        "the reward's mode must be strict or tinyzero, but is 'lax'; set it to one of them"
    ]
    assert "raises KeyError: 'target'" in problems(tmp_path, reward.__file__, {"numbers": [1]})[0]
    assert capsys.readouterr().out == "", "a plan for programs stays one"


def test_without_a_function_or_rows_there_is_nothing_to_call(tmp_path: Path) -> None:
    assert problems(tmp_path, None) == []
    config = {"reward": {"custom_reward_function": {"path": reward.__file__, "name": "compute_score"}}}
    for files in (None, [], "/no/such/file.parquet"):
        assert reward_problems({**config, "data": {"train_files": files}}) == []


def test_the_responses_are_of_the_hostile_kinds() -> None:
    assert "" in RESPONSES and max(map(len, RESPONSES)) > 5000 and any("\x00" in text for text in RESPONSES)
