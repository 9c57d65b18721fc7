"""Test a user's task: `build`'s rows become veRL's, the content is their identity, and each mistake is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.compose import register_resolvers
from experiments.config.sweep_compose import Composer
from experiments.digests import code_digest
from experiments.errors import UserError
from experiments.planning.content import _build
from experiments.planning.plan import PlannedRun, plan_runs
from experiments.project import CONFIG_DIR
from experiments.store.code_copy import snapshot
from experiments.tasks import reward_check
from experiments.tasks.dataset import DataSet, arguments, make, prepare
from experiments.tasks.rows import checked
from experiments.tasks.user_code import TookTooLong, ask
from tests.experiments.conftest import SHIPPED

ARGUMENTS = {"train_size": 3, "test_size": 2, "data_seed": 0, "template": "compact"}
GOOD = """
def build(train_size, test_size, data_seed, template):
    rows = [{"prompt": f"numbers {n}", "ground_truth": {"n": n, "even": [n % 2 == 0]}} for n in range(5)]
    return rows[:3], rows[3:]
"""


def task(folder: Path, text: str) -> Path:
    file = folder / "mine.py"
    file.write_text(text)
    return file


def made(folder: Path, text: str, **changes: Any) -> DataSet:
    return make(task(folder, text), "mine", {**ARGUMENTS, **changes}, folder / "data")


def refused(folder: Path, text: str, **changes: Any) -> list[str]:
    """Return the problems of a task, without the folder of its file."""
    with pytest.raises(UserError) as error:
        made(folder, text, **changes)
    assert not list(folder.glob("data/*")), "nothing is left of what was refused"
    return [problem.replace(f"{folder}/", "") for problem in error.value.problems]


def test_rows_are_as_verl_wants_them_and_tested_twice(tmp_path: Path) -> None:
    data = made(tmp_path, GOOD)
    assert data.train.parent == data.test.parent == tmp_path / "data" / f"mine-{data.digest[:12]}"
    train, test = (parquet.read_table(file).to_pylist() for file in (data.train, data.test))
    assert train[1] == {
        "data_source": "mine",
        "agent_name": "single_turn_agent",
        "prompt": [{"role": "user", "content": "numbers 1 <think>"}],
        "ability": "mine",
        "reward_model": {"style": "rule", "ground_truth": {"n": 1, "even": [False]}},
        "extra_info": {"split": "train", "index": 1},
    }
    assert [(row["data_source"], row["agent_name"], row["reward_model"]["ground_truth"]["n"]) for row in test] == [
        ("mine", "single_turn_agent", 3),
        ("mine", "single_turn_agent", 4),
        ("mine_greedy", "greedy_agent", 3),
        ("mine_greedy", "greedy_agent", 4),
    ]


def test_a_text_is_put_into_the_template_and_messages_are_taken_as_they_are(tmp_path: Path) -> None:
    text = GOOD.replace('f"numbers {n}"', 'f"How {{much}} is {n}?" if n else [{"role": "user", "content": "whole"}]')
    whole, base = parquet.read_table(made(tmp_path, text, template="base").train, columns=["prompt"]).to_pylist()[:2]
    assert whole["prompt"] == [{"role": "user", "content": "whole"}]
    assert base["prompt"][0]["content"].endswith(
        "\nUser: How {much} is 1?\nAssistant: Let me solve this step by step.\n<think>"
    )


def test_the_same_rows_are_the_same_data_whatever_makes_them(tmp_path: Path) -> None:
    first = made(tmp_path, GOOD)
    other = "WORDS = 'a comment and a name'\n" + GOOD.replace("range(5)", "iter([0, 1, 2, 3, 4])")
    assert made(tmp_path, other) == first
    assert made(tmp_path, GOOD.replace("n % 2 == 0", "n % 2 == 1")).digest != first.digest


def test_rows_without_end_are_taken_as_far_as_they_are_asked_for(tmp_path: Path) -> None:
    text = """
import itertools
def build(train_size, **others):
    rows = ({"prompt": f"numbers {n}", "ground_truth": n} for n in itertools.count())
    return [next(rows) for _ in range(train_size)], rows
"""
    data = made(tmp_path, text, train_size=7)
    assert parquet.read_metadata(data.train).num_rows == 7 and parquet.read_metadata(data.test).num_rows == 4


def test_every_key_of_the_task_reaches_build() -> None:
    node = {"name": "mine", "path": "mine.py", "train_size": 3, "levels": [1, 2], "code": "0", "digest": "1"}
    assert arguments(node, "base") == {"train_size": 3, "levels": [1, 2], "template": "base"}


ROWS = "def build(**others):\n    good = [{'prompt': f'p{n}', 'ground_truth': n} for n in range(9)]\n    return "


@pytest.mark.parametrize(
    "text, problem",
    [
        ("x = 1", "task.path must have a function build, but mine.py has none; write def build(train_size, "),
        ("build = 3", "task.path must have a function build, but mine.py has a int of that name; write def build("),
        (
            "def build(size): ...",
            "build of task.path=mine.py must take train_size, test_size, data_seed, template, but is build(size): "
            "missing a required argument: 'size'; write def build(train_size, test_size, data_seed, template):",
        ),
        (
            "def build(train_size, test_size): ...",
            "build of task.path=mine.py must take train_size, test_size, data_seed, template, but is "
            "build(train_size, test_size): got an unexpected keyword argument 'data_seed'; write def build(train_s",
        ),
        (
            "import nothing_like_it",
            "the file of task.path=mine.py must not raise, but raises ModuleNotFoundError: No m",
        ),
        ("\n\nraise SystemExit(3)", "the file of task.path=mine.py must not raise, but raises SystemExit: 3 (line 3)"),
        (
            "def build(**others):\n    return [], {}['x']",
            "build of task.path=mine.py must not raise, but raises KeyError: 'x' (line 2); mend it",
        ),
        (
            ROWS + "(r['x'] for r in good), good",
            "build of task.path=mine.py must not raise, but raises KeyError: 'x' (line 3); mend it",
        ),
        (ROWS + "None", "must return its train and its test rows, but returns None; write: return train, test"),
        (ROWS + "good", "must return its train and its test rows, but returns [{'prompt': 'p0', 'ground_truth': 0}, "),
        (ROWS + "good, 'test'", "must return lists of rows, but its test rows are 'test'; write: return train, test"),
        (
            ROWS + "good, ['p']",
            "test row 0 of task.path=mine.py must be a dict of prompt and ground_truth, but is 'p'; write {",
        ),
        (
            ROWS + "[{'prompt': 'p'}], good",
            "train row 0 of task.path=mine.py must be a dict of prompt and ground_truth",
        ),
        (
            ROWS + "good[:1] + [{'prompt': '', 'ground_truth': 1}], good",
            "train row 1 of task.path=mine.py must have a text or a list of chat messages as its prompt, but has ''; ",
        ),
        (
            ROWS + "[{'prompt': [{'content': 'p'}], 'ground_truth': 1}], good",
            "must have a text or a list of chat messages as its prompt, but has [{'content': 'p'}]; write ",
        ),
        (
            ROWS + "[{'prompt': 'p', 'ground_truth': {1, 2}}], good",
            "must have a ground truth of numbers, texts, lists and dicts, but has {1, 2} (Object of type set is not "
            "JSON serializable); convert it",
        ),
        (
            ROWS + "[{'prompt': 'p', 'ground_truth': float('nan')}], good",
            "must have a ground truth of numbers, texts, lists and dicts, but has nan (Out of range float values",
        ),
        (
            ROWS + "good[:3], [{'prompt': 'p', 'ground_truth': 'a text'}] * 2",
            "the ground truths of task.path=mine.py must be of one kind, but Could not convert 'a text' with type str: "
            "tried to convert to int64; give all of them the same keys",
        ),
        (
            ROWS + "[{'prompt': f'q{k}', 'ground_truth': {k: 1}} for k in 'abc'], good[:0]",
            "the ground truths of task.path=mine.py must be of one kind, but {'a': 1} would be read as {'a': 1, 'b': ",
        ),
        (
            ROWS + "good, good[9:]",
            "must give at least task.test_size=2 test rows, but gives 0; return train, test with",
        ),
        (
            ROWS + "good[:2], good[2:]",
            "build of task.path=mine.py must give at least task.train_size=3 train rows, but gives 2; set "
            "task.train_size=2",
        ),
        (
            ROWS + "good, good[2:]",
            "the test rows of task.path=mine.py must be held out, but 1 of 2 prompts are train prompts too, the first "
            "is 'p2 <think>'; put each into one of them only",
        ),
        (
            "import random\n" + ROWS + "random.sample(good[2:], 3), good[:2]",
            "build of task.path=mine.py must give the same rows whenever it is called, but two calls differ; draw from "
            "random.Random(data_seed)",
        ),
    ],
)
def test_a_mistake_is_told_with_what_would_work(tmp_path: Path, text: str, problem: str) -> None:
    found = refused(tmp_path, text)
    assert any(problem in message for message in found), found


def test_all_problems_of_the_rows_are_told_at_once(tmp_path: Path) -> None:
    found = refused(tmp_path, ROWS + "good[:1], [*good[:1], {'prompt': 'q', 'ground_truth': 'one'}][:1]")
    assert [problem.split(" of ")[0] for problem in found] == ["build", "build", "the test rows"]


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_a_leak_is_found_wherever_it_is(at: int, train_size: int, test_size: int) -> None:
    """`build` repeats one train row among its test rows: the leak is found if both rows are asked for."""
    train = [{"prompt": f"a{n}", "ground_truth": n} for n in range(9)]
    test = [{"prompt": f"b{n}" if n != at else "a0", "ground_truth": n} for n in range(9)]
    sizes = {"train_size": train_size, "test_size": test_size, "template": "compact"}
    leaks = train_size > 0 and at < test_size
    try:
        checked(lambda **others: (train, test), Path("mine.py"), sizes)
    except UserError as error:
        assert leaks and len(error.problems) == 1 and "must be held out, but 1 of" in error.problems[0]
    else:
        assert not leaks


# In a process of its own


def test_what_a_file_does_to_its_process_reaches_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = 'import os, sys\nprint("loaded")\nos.write(1, b"x")\nsys.stdin.read()\nos.environ["SPOILT"] = "1"\n' + GOOD
    data = prepare(task(tmp_path, text), "mine", ARGUMENTS, tmp_path / "data")
    assert data == made(tmp_path, GOOD), "and the rows are the same as in this process"
    assert capfd.readouterr() == ("", "")


def test_rows_out_of_a_set_are_the_same_in_every_process(tmp_path: Path) -> None:
    text = ROWS.replace("range(9)", "set('abcdefgh')").replace("'ground_truth': n", "'ground_truth': 1")
    text += "good[:3], good[3:]"
    digests = {prepare(task(tmp_path, text), "mine", ARGUMENTS, tmp_path / name).digest for name in "ab"}
    assert len(digests) == 1


def test_problems_come_back_from_the_other_process(tmp_path: Path) -> None:
    file = task(tmp_path, ROWS + "good[:1], good[:1]")
    with pytest.raises(UserError) as apart:
        prepare(file, "mine", ARGUMENTS, tmp_path / "data")
    with pytest.raises(UserError) as here:
        make(file, "mine", ARGUMENTS, tmp_path / "data")
    assert apart.value.problems == here.value.problems and len(here.value.problems) == 3


def test_a_process_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    file = task(tmp_path, "import os, sys\nprint('no ink', file=sys.stderr, flush=True)\nos._exit(7)")
    with pytest.raises(UserError) as error:
        prepare(file, "mine", ARGUMENTS, tmp_path / "data")
    assert error.value.problems == (
        "the functions of task.path must return, but their process ended with 7: no ink; mend it",
    )


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    file = task(
        tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\nwhile True: ..."
    )
    request = {"file": str(file), "name": "mine", "arguments": ARGUMENTS, "cache_dir": str(tmp_path)}
    with pytest.raises(TookTooLong) as late:
        ask("experiments.tasks.dataset", request, "task.path", seconds=1.5)
    assert late.value.about is None
    started = tmp_path / "pid"
    assert not started.exists() or not Path("/proc", started.read_text()).exists()


# When a run is planned


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PlannedRun]]:
    """Return a function that plans a run of mine.py, whose path is relative to the folder of the command."""
    monkeypatch.chdir(tmp_path)
    mine = ["task.path=mine.py", "task.name=mine", "~task.source", "~task.space", "++task.top=5"]
    mine += ["reward.custom_reward_function.path=${task.path}", "~reward.custom_reward_function.reward_kwargs"]
    folders = [f"runs_dir={tmp_path / 'runs'}", f"data_dir={tmp_path / 'data'}"]

    def plan(*overrides: str) -> PlannedRun:
        for cached in (code_digest, _build, reward_check._problems):
            cached.cache_clear()
        (run,) = plan_runs([composer.compose([*SHIPPED, "experiment=smoke", *mine, *folders, *overrides])])
        return run

    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        composer = Composer.of_running_hydra()
        yield plan


MINE = """
def build(train_size, test_size, data_seed, template, top):
    rows = [
        {"prompt": f"numbers {a}, {b}, {top} target {c}", "ground_truth": c}
        for a in range(9) for b in range(9) for c in range(9)
    ]
    return rows[test_size:], rows[:test_size]


def compute_score(solution_str, ground_truth, **others):
    return float(str(ground_truth) in solution_str)
"""


def test_a_run_is_known_by_its_rows_and_its_score(tmp_path: Path, plan: Callable[..., PlannedRun]) -> None:
    file = task(tmp_path, MINE)
    first = plan()
    config = first.config
    assert config["task"]["path"] == config["reward"]["custom_reward_function"]["path"] == str(file)
    assert Path(config["data"]["train_files"]).parent == tmp_path / "data" / f"mine-{config['task']['digest'][:12]}"
    assert plan("task.top=6").folder.id != first.folder.id, "an argument of build"
    task(tmp_path, MINE.replace("float(str", "0.5 * float(str"))
    scored = plan()
    assert scored.folder.id != first.folder.id and scored.config["task"]["digest"] == config["task"]["digest"]
    task(tmp_path, MINE.replace("{a}, {b}", "{b}, {a}"))
    assert plan().config["task"]["digest"] != config["task"]["digest"]


def test_a_launch_takes_the_file_along(tmp_path: Path, plan: Callable[..., PlannedRun]) -> None:
    file = task(tmp_path, MINE)
    run = plan()
    copy = snapshot(tmp_path / "runs", [run.config]) / "outside" / file.relative_to("/")
    assert copy.read_text() == MINE


def test_problems_of_the_task_are_told_with_the_others(tmp_path: Path, plan: Callable[..., PlannedRun]) -> None:
    def told(text: str, *overrides: str) -> list[str]:
        task(tmp_path, text)
        with pytest.raises(UserError) as error:
            plan(*overrides)
        return [problem.replace(f"{tmp_path}/", "") for problem in error.value.problems]

    assert told(MINE, "task.train_size=800", "rollout.n=1") == [
        "build of task.path=mine.py must give at least task.train_size=800 train rows, but gives 721; set "
        "task.train_size=721",
        "rollout.n must be at least 2 with GRPO, but is 1: a group of one has no mean to compare with (it would "
        "silently be REINFORCE); set rollout.n=5 or algorithm=ppo",
    ]
    assert told("def build(:\n", "task.path=other.py", "reward.custom_reward_function.path=mine.py") == [
        "task.path must be a Python file, but other.py: No such file or directory; check the path",
        "reward.custom_reward_function.path must be a Python file, but mine.py: invalid syntax (mine.py, line 1); "
        "check the path",
    ]
    assert told(MINE, "~task.test_size", "task.data_seed=-1", "task.name=my greedy") == [
        "task.test_size must be a whole number of at least 1, but is None; try 1000",
        "task.data_seed must be a whole number of at least 0, but is -1; try 0",
        "task.name must be letters, digits, _, . and -, and not end in greedy, but is 'my greedy'; try my_task",
    ]
    for unread in told(MINE.replace("target", "above")):
        assert "must have a tokenizer that keeps every character of the prompts, but 'numbers " in unread
    assert told(MINE.replace("float(str", "complex(str")) == [
        'compute_score of reward.custom_reward_function.path=mine.py must return a number or a dict with "score", but '
        'returns 0j for \'\'; write e.g. return {"score": 0.0, "acc": 0.0}'
    ]
