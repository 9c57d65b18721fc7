"""Test the reward: the published table in both modes, hostile texts, and what veRL needs from it."""

import importlib.util
import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors import UserError
from experiments.tasks.countdown import reward
from experiments.tasks.countdown.problems import ARTICLE, MINIATURE, generate
from experiments.tasks.countdown.reward import compute_score
from experiments.tasks.countdown.solver import solve

THINK = "12 - 3 = 9, 9 * 7 = 63 </think>\n"
A = [1, 2, 3]

# response, numbers, target, strict score, TinyZero's score, format, hack
TABLE = [
    ("<answer>(1+2)*3</answer>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("thinking\n</think>\n<answer>(1+2)*3</answer>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>(1+2)*3</answer><|endoftext|>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>(1+2)*3</answer>\n", A, 9, 1.0, 0.0, 1.0, 0.0),
    ("<answer>(1+2)*3</answer>\n<|im_end|>", A, 9, 1.0, 0.0, 1.0, 0.0),
    ("<answer>\n(1+2)*3\n</answer>", A, 9, 1.0, 0.0, 1.0, 0.0),
    ("<answer>(1+2)*3 = 9</answer>", [1, 2, 3], 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer>(1+2)\u00d73</answer>", A, 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer>(1+2)x3</answer>", A, 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer>(01+2)*3</answer>", A, 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer>(1+2)</answer>", A, 3, 0.1, 0.1, 1.0, 0.0),
    ("<answer>(1+2)*3*3</answer>", A, 27, 0.1, 0.1, 1.0, 0.0),
    ("<answer>3/(2-1-1)</answer>", [1, 1, 2, 3], 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer>3(3)</answer>", [3, 3], 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer></answer>", A, 9, 0.0, 0.1, 0.0, 0.0),
    ("<answer> </answer>", A, 9, 0.0, 0.1, 0.0, 0.0),
    ("<answer>I do not know</answer>", A, 9, 0.0, 0.1, 0.0, 0.0),
    ("<answer>1.5*4</answer>", [1, 5, 4], 6, 0.1, 1.0, 1.0, 1.0),
    ("<answer>.5*8+5</answer>", [5, 8, 5], 9, 0.1, 1.0, 1.0, 1.0),
    ("<answer>2**3+1</answer>", A, 9, 0.1, 1.0, 1.0, 1.0),
    ("<answer>7//2+1</answer>", [1, 2, 7], 4, 0.1, 1.0, 1.0, 1.0),
    ("<answer>-3+6+1</answer>", [1, 3, 6], 4, 1.0, 1.0, 1.0, 0.0),
    ("<answer>3--6</answer>", [3, 6], 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>3.*3.</answer>", [3, 3], 9, 0.1, 1.0, 1.0, 1.0),
    ("no closing think tag <answer>(1+2)*3</answer>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>9**9**9</answer>", [9, 9, 9], 9, 0.1, 0.1, 1.0, 0.0),
    # beyond the published table
    ("<answer>(1+2)*3", A, 9, 0.0, 0.0, 0.0, 0.0),
    ("(1+2)*3 </answer>", A, 9, 0.0, 0.0, 0.0, 0.0),
    ("", A, 9, 0.0, 0.0, 0.0, 0.0),
    ("<answer>3*2*1</answer> wait <answer>(1+2)*3</answer>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>(1+2)*3</answer> or <answer>3*2", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>(1+2)*3</answer> or <answer>5</answer>", A, 9, 0.1, 0.1, 1.0, 0.0),
    ("<answer>so <answer>(1+2)*3</answer>", A, 9, 1.0, 0.1, 1.0, 0.0),
    ("<answer>(1+2)*3</answer></answer>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>(1+2)*3</answer>\n<answer>x</answer", A, 9, 1.0, 0.0, 1.0, 0.0),
    ("<answer>1\n2 3</answer> <answer>(1+2)*3\t</answer>", A, 9, 1.0, 1.0, 1.0, 0.0),
    ("<answer>(1+2)\v*3</answer>", A, 9, 1.0, 0.1, 1.0, 0.0),
    ("<answer>8/(3-8/3)</answer>", [3, 3, 8, 8], 24, 1.0, 1.0, 1.0, 0.0),
    ("<answer>100000000*3/3</answer>", [3, 3, 100000000], 100000000, 1.0, 1.0, 1.0, 0.0),
    ("<answer>1/3*3</answer>", [1, 3, 3], 1, 1.0, 1.0, 1.0, 0.0),
    ("<answer>10+1/1000000</answer>", [1, 10, 1000000], 10, 0.1, 1.0, 1.0, 1.0),
    ("<answer>(1+2)*\u0663</answer>", A, 9, 0.0, 0.1, 0.0, 0.0),
    ("<answer>+3*3</answer>", [3, 3], 9, 0.1, 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("response", "numbers", "target", "strict", "tinyzero", "well_formed", "hack"), TABLE)
def test_table(
    response: str, numbers: list[int], target: int, strict: float, tinyzero: float, well_formed: float, hack: float
) -> None:
    truth = {"target": target, "numbers": numbers}
    parts = {"acc": float(strict == 1.0), "format": well_formed, "hack": hack}
    for text in (response, THINK + response):
        assert compute_score("countdown", text, truth) == {"score": strict, **parts}
        assert compute_score("countdown", text, truth, mode="tinyzero") == {"score": tinyzero, **parts}


def test_format_score_is_what_was_asked_for() -> None:
    truth = {"target": 9, "numbers": A}
    assert compute_score("countdown", "<answer>1</answer>", truth, format_score=0.25)["score"] == 0.25
    assert compute_score("countdown", "<answer></answer>", truth, mode="tinyzero", format_score=0)["score"] == 0.0
    assert isinstance(compute_score("countdown", "<answer>1</answer>", truth, format_score=0)["score"], float)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match="must be strict or tinyzero, but is 'lenient'"):
        compute_score("countdown", "", {"target": 9, "numbers": A}, mode="lenient")


def test_takes_what_verl_passes() -> None:
    """Numbers from a parquet file may be numpy's; veRL adds keywords of its own."""
    truth = {"target": np.int64(9), "numbers": np.array([3, 1, 2])}
    scores = compute_score(
        data_source="countdown",
        solution_str="<answer>(1+2)*3</answer>",
        ground_truth=truth,
        extra_info={"split": "train", "index": 0, "num_turns": 2},
        reward_router_address=None,
        reward_model_tokenizer=None,
    )
    assert scores == {"score": 1.0, "acc": 1.0, "format": 1.0, "hack": 0.0}
    assert all(type(part) is float for part in scores.values())


def test_verl_can_load_the_file_by_its_path() -> None:
    """veRL's verl.utils.import_utils.load_module loads it under a made-up name that is not in sys.modules."""
    spec = importlib.util.spec_from_file_location("custom_module_1", reward.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.compute_score("countdown", "<answer>3*3</answer>", {"target": 9, "numbers": [3, 3]})["score"] == 1.0


@pytest.mark.parametrize("space", [ARTICLE, MINIATURE])
def test_solver_and_reward_agree(space: Any) -> None:
    for problem in generate(space, 100, seed=5):
        truth = {"target": problem.target, "numbers": problem.numbers}
        text = f"<answer> {solve(problem.numbers, problem.target)} </answer>"
        for mode in reward.MODES:
            assert compute_score("countdown", text, truth, mode=mode)["score"] == 1.0
        wrong = {"target": problem.target + 1, "numbers": problem.numbers}
        assert compute_score("countdown", text, wrong)["score"] == 0.1


tagged = st.lists(st.text(max_size=6) | st.sampled_from(["<answer>", "</answer>", "1", "+", "2*3", "\n"])).map("".join)


@settings(max_examples=300)
@given(st.text() | tagged)
def test_any_text_gets_a_score(text: str) -> None:
    truth = {"target": 7, "numbers": A}
    for mode in reward.MODES:
        scores = compute_score("countdown", text, truth, mode=mode)
        assert set(scores) == {"score", "acc", "format", "hack"}
        assert scores["score"] in (0.0, 0.1, 1.0)
        assert scores["format"] >= scores["acc"]
        assert not (scores["hack"] and scores["acc"])
    strict = compute_score("countdown", text, truth)
    assert strict["score"] == (1.0 if strict["acc"] else 0.1 * strict["format"])


HOSTILE = """
import importlib.util, json, random, sys
spec = importlib.util.spec_from_file_location("custom_module_2", sys.argv[1])
reward = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reward)
rng = random.Random(0)
digits = lambda: "9" * rng.choice([1, 2, 400, 5000])
size = lambda: rng.choice([1, 3, 60, 199, 201, 3000, 20000])
families = [
    lambda: "(" * (n := size()) + "9" + ")" * n,
    lambda: "(" * size() + "9",
    lambda: "-" * size() + "9",
    lambda: "**".join(["9"] * rng.randint(2, 9)),
    lambda: "9**9**" + "-" * rng.randint(0, 3) + "9",
    lambda: f"(9**{'9' * rng.randint(1, 5)})**9",
    lambda: f"9*9.**{digits()}",
    lambda: f"{digits()}**{digits()}",
    lambda: "*".join([digits()] * rng.randint(1, 40)),
    lambda: "9/9/" + "(9-9)" * rng.randint(1, 3),
    lambda: "<answer>" * size() + "9*9+9",
    lambda: "</answer>" * size() + "<answer>" * size(),
    lambda: "9 " * size() + "/" * rng.randint(0, 3),
    lambda: "".join(rng.choice("09+-*/(). \\n\\t\\x00\\u0663\\u00d7=<>answer/") for _ in range(rng.randint(0, 300))),
    lambda: "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(0, 200))),
    lambda: "__import__('os').system('true')" + digits(),
    lambda: "9 if 9 else (lambda: 9)() or [9 for _ in ()]",
    lambda: "9\\x00+9+9",
    lambda: "9+9+\\u0669",
    lambda: "1e" + digits(),
]
counts = {}
for index in range(10_000):
    body = families[index % len(families)]()
    before = rng.choice(["<answer>", "<answer> ", "<answer>\\n", "x\\n<answer>"])
    answer = before + body + rng.choice(["</answer>", "</answer>\\n"])
    truth = {"target": 9, "numbers": [9] * rng.choice([1, 3, 3, 4])}
    for mode in reward.MODES:
        scores = reward.compute_score("countdown", answer, truth, mode=mode)
        name = f"{mode} {scores['score']}"
        counts[name] = counts.get(name, 0) + 1
print(json.dumps(counts))
"""


def test_ten_thousand_hostile_answers() -> None:
    """In a process of its own, so that a hang in the middle of C code ends as a failure."""
    command = [sys.executable, "-c", HOSTILE, str(Path(reward.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == 20_000
    # "((9))" and "--9" for the number 9 are right; most other answers get nothing or the format credit.
    assert 0 < counts["strict 1.0"] < 1000
    assert set(counts) <= {f"{mode} {score}" for mode in reward.MODES for score in (0.0, 0.1, 1.0)}
    assert done.stderr == ""


def test_prints_one_sample_in_so_many_and_touches_no_random_state(capsys: pytest.CaptureFixture[str]) -> None:
    truth = {"target": 9, "numbers": A}
    random.seed(3)
    before = random.getstate()
    printed = []
    for index in range(6400):
        compute_score("countdown", f"try {index} <answer>(1+2)*3</answer>", truth, log_every=64)
        printed.append(bool(capsys.readouterr().out))
    assert random.getstate() == before
    assert 60 <= sum(printed) <= 140
    chosen = printed.index(True)
    compute_score("countdown", f"try {chosen} <answer>(1+2)*3</answer>", truth, log_every=64)
    assert capsys.readouterr().out  # the same sample is chosen again
    compute_score("countdown", f"try {chosen} <answer>(1+2)*3</answer>", truth)
    assert not capsys.readouterr().out  # off unless asked for


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("<answer>(1+2)*3</answer>", "right; strict score 1"),
        ("<answer>1+2+3</answer>", "wrong value; strict score 0.1"),
        ("<answer>2**3+1</answer>", "cannot be evaluated; strict score 0.1, a hack"),
        ("<answer>1+2</answer>", "does not use each number exactly once; strict score 0.1"),
        ("<answer>nine</answer>", "not an equation; strict score 0"),
        ("nine", "no answer; strict score 0"),
    ],
)
def test_a_printed_sample_shows_all_of_it(response: str, verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
    compute_score("countdown", "line 1\nline 2 " + response, {"target": 9, "numbers": A}, log_every=1)
    out = capsys.readouterr().out
    assert "target 9, numbers [1, 2, 3]" in out
    assert f"verdict: {verdict}\n" in out
    assert f"response: line 1\nline 2 {response}" in out


def test_a_printed_sample_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    compute_score("countdown", "\x1b[2J\x07\ud800\x9b <answer>\x00</answer>", {"target": 9, "numbers": A}, log_every=1)
    out = capsys.readouterr().out
    assert "\\x1b[2J\\x07\\ud800\\x9b <answer>\\x00</answer>" in out
    assert out.replace("\n", "").isprintable()


def test_a_closed_output_does_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert (
        compute_score("countdown", "<answer>3*3</answer>", {"target": 9, "numbers": [3, 3]}, log_every=1)["acc"] == 1.0
    )
