"""reasoning-gym's data sets: what is drawn and what is refused; a hostile answer is neither executed nor waited for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from experiments.errors import UserError
from experiments.planning.plan import PlannedRun
from experiments.project import PROJECT_DIR
from experiments.tasks.dataset import DataSet, prepare
from experiments.tasks.reasoning_gym import offered
from experiments.tasks.reasoning_gym.offered import EVAL, PARSE_EXPR, REFUSED
from experiments.tasks.reasoning_gym.reward import compute_score

FILE = PROJECT_DIR / "experiments" / "tasks" / "reasoning_gym" / "dataset.py"
Ask = Callable[..., list[PlannedRun]]
TRUSTED = ("basic_arithmetic", "bitwise_arithmetic", "number_sorting")  # they evaluate what the package made itself

CALLS = """
import ast, inspect, json, sys
from reasoning_gym.factory import DATASETS
from reasoning_gym.logic import propositional_logic  # it has a parse_expr of its own, which evaluates nothing

functions = {"eval", "exec", "__import__", "parse_expr", "sympify", "S", "parse_latex", "import_module"}
found = {}
for name, (made, _) in DATASETS.items():
    module = sys.modules[made.__module__]
    nodes = [node.func for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]
    called = {getattr(node, "id", getattr(node, "attr", "")) for node in nodes}
    if called & functions and module is not propositional_logic:
        found[name] = " ".join(sorted(called & functions))
import reasoning_gym
answers = json.loads(sys.argv[1])
for name, answer in answers.items():
    made = reasoning_gym.create_dataset(name, seed=1, size=8)
    answers[name] = [made.score_answer(answer, made[place]) for place in range(8)]
print(json.dumps([len(DATASETS), found, answers]))
"""

SCORED = """
import ast, json, os, sys
import reasoning_gym
from experiments.tasks.reasoning_gym.draw import _truth
from experiments.tasks.reasoning_gym.judge import scorer

file = sys.argv[1]
made = f"__import__('os').mkdir({file!r})"
hostile = [made, f"[{made}]", f"(lambda: {made})()", "().__class__", "E.__class__", "exp(1, a=0)", "Integral(x, x)"]
found = {}
for name in sys.argv[2:]:
    made = reasoning_gym.create_dataset(name, seed=3, size=4)
    score, entries = scorer(name, "{}"), [made[place] for place in range(4)]
    texts = [_truth(name, {}, entry)["entry"] for entry in entries]
    own = [score({"answer": entry["answer"], "entry": text}) for entry, text in zip(entries, texts)]
    theirs = [score({"answer": text, "entry": texts[0]}) for text in hostile]
    found[name] = [own, max(theirs), os.path.exists(file)]
print(json.dumps(found))
"""

REFUSALS = """
import json
from experiments.errors import UserError
from experiments.tasks.reasoning_gym.draw import draw

asked = json.loads(input())
def said(request):
    try:
        return len(draw(**{"config": {}, "train_size": 4, "test_size": 2, "data_seed": 0, **request})["train"])
    except UserError as error:
        return error.problems
print(json.dumps([said(request) for request in asked]))
"""


def printed(code: str, *arguments: str, given: Any = None) -> Any:
    """Return what a program prints as JSON: reasoning-gym, and what is changed in it, stay out of this process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=json.dumps(given),
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_other_data_set_evaluates_text_and_what_is_refused_can_be_deceived() -> None:
    tricks = {"coin_flip": "0", "complex_arithmetic": "nan", "game_of_life_halting": "so", "puzzle24": "6*4*1*1"}
    number, found, scores = printed(CALLS, json.dumps(tricks))
    assert number == 106 and set(tricks) | {"composite"} == set(REFUSED)
    assert all(given.count(1.0) >= 7 for given in scores.values()), scores
    assert found == (
        dict.fromkeys((*EVAL, *TRUSTED), "eval")
        | dict.fromkeys((*PARSE_EXPR, "puzzle24"), "parse_expr")
        | {"codeio": "exec"}  # of programs that the package ships
    )


def test_own_answers_get_full_marks_and_hostile_ones_are_not_executed(tmp_path: Path) -> None:
    names = (*EVAL, *PARSE_EXPR, "rearc", "knights_knaves", "time_intervals")
    found = printed(SCORED, str(tmp_path / "made"), *names)
    for name, (own, hostile, executed) in found.items():
        # Their own answer to some integrals is Integral(...), which would be an answer to all.
        assert own.count(1.0) >= (1 if name == "intermediate_integration" else 4), name
        assert hostile < 0.1 and not executed, name


def test_what_can_t_be_drawn_is_told_in_one_line() -> None:
    asked = {
        "countdwn": {"name": "countdwn"},
        "coaching": {"name": "qqqq"},
        "puzzle24": {"name": "puzzle24"},
        "key": {"name": "chain_sum", "config": {"max_term": 3, "seed": 4}},
        "value": {"name": "chain_sum", "config": {"min_terms": 9, "max_terms": 3}},
        "few": {"name": "chain_sum", "config": {"min_terms": 2, "max_terms": 2, "max_digits": 1}, "train_size": 500},
    }
    said = dict(zip(asked, printed(REFUSALS, given=list(asked.values())), strict=True))
    assert all(len(problems) == 1 for problems in said.values())
    (name,), (nothing_near,), (few,) = said["countdwn"], said["coaching"], said["few"]
    assert name.startswith(
        "task.dataset must be one of the 101 that reasoning-gym offers, but is countdwn; try countdown"
    )
    assert nothing_near.endswith("but is qqqq; docs/tasks.md says how to list them")
    assert said["puzzle24"] == [
        "task.dataset must be one whose scorer can be trusted, but is puzzle24: its scorer does not look at the four "
        "numbers of the problem; take another"
    ]
    assert said["key"] == [
        "task.dataset_config must have keys of chain_sum, which are allow_negation, max_digits, max_terms, min_digits, "
        "min_terms, but has max_term, seed; take one of them"
    ]
    assert said["value"] == [
        "task.dataset_config must be one with which chain_sum makes problems, but is {'min_terms': 9, 'max_terms': 3}: "
        "max_terms must be >= min_terms; change it, or leave it out"
    ]
    assert few.startswith(
        "task.train_size and task.test_size must be at most 200 together, the different problems among "
    )


def test_problems_are_drawn_once_the_same_ones_everywhere_and_the_reward_scores_them(tmp_path: Path) -> None:
    """isomorphic_strings depends on the order of sets, which differs from process to process unless it is fixed."""
    given = {
        "dataset": "isomorphic_strings",
        "dataset_config": {"max_string_length": 4},
        "train_size": 60,
        "test_size": 20,
        "data_seed": 0,
        "template": "base",
    }

    def made(folder: str, **changes: Any) -> tuple[DataSet, list[dict[str, Any]], list[dict[str, Any]]]:
        data = prepare(FILE, "isomorphic", {**given, **changes}, tmp_path / folder)
        train, test = (parquet.read_table(file).to_pylist() for file in (data.train, data.test))
        return data, train, test[: len(test) // 2]

    data, train, test = made("one")
    prompts = [row["prompt"][0]["content"] for row in (*train, *test)]
    assert len(train) == 60 and len(test) == 20 and len(set(prompts)) == 80
    assert prompts[0].startswith("A conversation between User") and "in <answer> </answer> tags." in prompts[0]
    assert made("two")[1:] == (train, test)
    other, _, others = made("one", data_seed=1)
    assert other.digest != data.digest and others != test
    assert json.loads((data.train.parent / "meta.json").read_text())["identity"]["reasoning-gym"] == offered.VERSION

    truths = [row["reward_model"]["ground_truth"] for row in train[:8]]
    own = [ast.literal_eval(truth["entry"])["answer"] for truth in truths]
    answered = [f"so <answer>\n{answer} </answer>" for answer in own]
    with ThreadPoolExecutor(4) as threads:
        scores = list(threads.map(compute_score, ["x"] * 8, answered, truths))
    assert scores == [{"score": 1.0, "acc": 1.0, "format": 1.0}] * 8
    partial = compute_score("x", f"<answer>I say {own[0]}</answer>", truths[0])
    assert 0 < partial["score"] < 1 and partial["acc"] == 0 and partial["format"] == 1
    nothing = {"score": 0.0, "acc": 0.0, "format": 0.0}
    assert compute_score("x", own[0], truths[0]) == compute_score("x", "<answer> </answer>", truths[0]) == nothing
    assert compute_score("x", f"<answer>{'(' * 100_000}</answer>", truths[0]) == {**nothing, "format": 1.0}


def test_the_plan_tells_all_at_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offered, "VERSION", "0.0.1")
    with pytest.raises(UserError) as error:
        ask("task=reasoning_gym task.dataset=null task.dataset_config=[1] rollout.n=1")
    said = "\n".join(error.value.problems)
    assert "must have reasoning-gym 0.0.1, but it is 0.1.25; do: pip install -e '.[reasoning-gym]'" in said
    assert "task.dataset must be the name of one" in said and "task.dataset_config must be null or a mapping" in said
    assert "rollout.n must be at least 2" in said and len(error.value.problems) == 4
