"""The command line: a mistake gets one message, exit code 2, no traceback, and starts nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.project import PROJECT_DIR
from tests.e2e.training import clean_environment

WEIGHTS = Path(__file__).parents[2] / "experiments" / "tiny_model" / "weights"


def command(folder: Path, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", "experiment=smoke", *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean_environment(), **variables},
    )


def broken_model(folder: Path) -> str:
    shutil.copytree(WEIGHTS, folder / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    return f"model.path={folder / 'model'}"


def empty_parquet(folder: Path) -> str:
    (folder / "train.parquet").write_bytes(b"")
    return f"data.train_files={folder / 'train.parquet'}"


MISTAKES = {
    "a misspelt knob": (["rollout.temprature=0.6"], ["rollout.temprature", "did you mean rollout.temperature"]),
    "a misspelt key of veRL": (
        ["actor_rollout_ref.actor.clip_ration=0.3"],
        ["there is none of that name", "actor_rollout_ref.actor.clip_ratio"],
    ),
    "a group's choice that is not there, two keys and two values": (
        ["algorithm=grop", "rollout.n=1", "kl.coef=-1", "kl.coeff=3", "modl=tiny"],
        [
            "algorithm must be cispo, clip_cov, dapo, ",
            ", but is 'grop'; did you mean grpo?",
            "rollout.n must be at least 2 with GRPO, but is 1",
            "kl.coef must be a number of at least 0, but is -1",
            "kl.coeff must be a key of the config",
            "modl must be a key of the config",
        ],
    ),
    "choices that are not there, in a sweep and of launchers": (
        ["-m", "algorithm=grpo,grop", "hydra/launcher=slrum", "seed=0.5,1"],
        [
            ", but is 'grop'; did you mean grpo?",
            "did you mean slurm?",
            "seed must be a whole number of at least 0, but is 0.5",
        ],
    ),
    "a text for a number": (["rollout.temperature=hot"], ["rollout.temperature must be a number", "'hot'"]),
    "two mistakes at once": (["rollout.n=none", "sed=1"], ["rollout.n must be", "sed must be a key"]),
    "broken grammar": (["rollout.temperature=[0.6"], ["[0.6", "grammar"]),
    "a path that the grammar does not take": (["model.path=~/m"], ["grammar", "'model.path=\"~/m\"'"]),
    "a group taken away": (["~temperature"], ["temperature must be one of its choices, but is deleted"]),
    "a negative KL": (["kl.coef=-1"], ["kl.coef must be a number of at least 0, but is -1"]),
    "GRPO with one response": (["rollout.n=1"], ["rollout.n must be at least 2 with GRPO, but is 1", "algorithm=ppo"]),
    "a batch that does not divide": (
        ["data.train_batch_size=24"],
        ["multiple of actor_rollout_ref.actor.ppo_mini_batch_size=16", "but is 24"],
    ),
    "no such model": (["model.path=/no/such/model"], ["model.path", "there is no /no/such/model"]),
    "a model without tokenizer": (broken_model, ["must hold a tokenizer", "save_pretrained"]),
    "an empty parquet": (empty_parquet, ["data.train_files must be a parquet file"]),
    "no such parquet": (["data.train_files=/no/such.parquet"], ["there is no /no/such.parquet"]),
    "prompts longer than the limit": (["data.max_prompt_length=4"], ["must be at least 9 tokens", "but is 4"]),
    "an unknown thing to show": (["show=me"], ["show must be config, verl, plan or json"]),
    "a sweep that is not there": (["sweeps=temprature"], ["there is no temprature.yaml", "did you mean temperature?"]),
    "a factor set twice": (["sweeps=temperature", "rollout.temperature=1"], ["must not be set beside sweeps"]),
    "prompts that the tokenizer drops": (
        ["model.template=base", "data.max_prompt_length=512"],
        ["a tokenizer that keeps every character of the prompts", "A conversation between User"],
    ),
    "no reward function": (
        ["reward.custom_reward_function.path=/no/reward.py"],
        ["reward.custom_reward_function.path must be a Python file", "/no/reward.py"],
    ),
    "four kinds of mistake in one config": (
        ["model.path=/nope", "rollout.n=1", "data.train_batch_size=24", "kl.type=banana", "task.space=foo"],
        [
            "there is no /nope",
            "rollout.n must be at least 2 with GRPO, but is 1",
            "but is 24: veRL would fill the last mini-batch with padding; set",
            "but is 'banana'; try low_var_kl",
            "task.space must be article or miniature, but is 'foo'",
        ],
    ),
    "mistakes in the command, a sweep and a value": (
        ["sweeps=nope", "rollout.temprature=3", "kl.coef=-1", "trainer.save_freq=null"],
        [
            "there is no nope.yaml",
            "did you mean rollout.temperature",
            "kl.coef must be a number of at least 0, but is -1",
            "trainer.save_freq must be a whole number of at least -1, but is None",
        ],
    ),
    "GRPO with one response, by veRL's name": (
        ["actor_rollout_ref.rollout.n=1", "actor_rollout_ref.rollout.temperature=0"],
        ["actor_rollout_ref.rollout.n must be at least 2 with GRPO", "rollout.temperature must be a number above 0"],
    ),
    "nothing where a mapping is": (["data=null"], ["data must be a mapping, but is None"]),
    "no temperature at a step": (
        ["temperature=piecewise", "temperature.points=[[10,nan]]"],
        ["temperature.points must be pairs", "nan"],
    ),
    "one bad arm of a sweep": (["rollout.n=1,5"], ["rollout.n must be at least 2"]),
    "an empty sweep": (["-m", "seed=range(5,5)"], ["a sweep must have an arm"]),
    "arms that are the same run": (
        ["-m", "rollout.temperature=0.6,1,1.0"],
        ["must be different runs, but experiment=smoke,seed=1 is asked for twice, by rollout.temperature=1 and by"],
    ),
    "a study that waits for no trial": (
        [*("-m", "hydra/sweeper=optuna", "hydra/launcher=plan", "rollout.temperature=interval(0.5,1.5)")],
        ["must see each trial's accuracy", "use hydra/launcher=local"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_message_and_starts_nothing(name: str, tmp_path: Path) -> None:
    overrides, expected = MISTAKES[name]
    done = command(tmp_path, *([overrides(tmp_path)] if callable(overrides) else overrides))
    assert done.returncode == 2, done.stdout + done.stderr
    for part in (*expected, "nothing was started"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*-*"))


@pytest.mark.parametrize(
    "command, package",
    [
        (["experiments.run"], "hydra"),
        (["experiments.runs", "list"], "rich"),
        (["analysis.plot_ablation"], "matplotlib"),
        (["analysis.report"], "matplotlib"),
    ],
)
def test_a_python_without_the_packages_is_told(command: list[str], package: str) -> None:
    """Outside the venv, as one forgets to activate it: -S leaves the packages out."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", *command],
        cwd=WEIGHTS.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: Python must be the project's own, but {sys.executable} has no {package}; "
        "do: make install, then: source .venv/bin/activate\n"
    )


def test_a_disk_without_room_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = command(tmp_path, "runs_dir=/proc/runs")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "/proc/runs" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_can_t_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command(tmp_path, f"runs_dir={tmp_path / 'file' / 'runs'}")
    assert done.returncode == 2 and f"{tmp_path / 'file'}" in done.stderr and "Traceback" not in done.stderr
    assert "list shows what was started" in done.stderr, "in the middle of a sweep it would be untrue to say: nothing"


def test_a_sweep_is_planned_and_nothing_is_started(tmp_path: Path) -> None:
    """The article's four ablations: eleven arms are asked for, eight are different."""
    done = command(tmp_path, "-m", "sweeps=all", "seed=1", "hydra/launcher=plan", "show=json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["asked"], len(plan["runs"])) == (11, 8)
    (baseline,) = (run for run in plan["runs"] if len(run["sweeps"]) > 1)
    assert baseline["arm"] == "experiment=smoke"
    assert baseline["sweeps"] == ["temperature", "algorithm", "rollout_n", "kl"]
    assert [run["arm"] for run in plan["runs"] if run["sweeps"] == ["algorithm"]] == ["experiment=smoke,algorithm=ppo"]
    assert {run["plan"] for run in plan["runs"]} == {"new"} and plan["unit"] == "CPU"
    assert not list(tmp_path.glob("runs/*-*"))


@pytest.mark.parametrize("sweeper", ["ablation", "basic"])
def test_hydra_s_own_sweeper_works_through_our_launchers(tmp_path: Path, sweeper: str) -> None:
    """Where a folder of configs is named in two words, too."""
    words = ["rollout.temperature=0.6,1", f"hydra/sweeper={sweeper}", "--config-dir", str(tmp_path), "-m"]
    done = command(tmp_path, *words, "hydra/launcher=plan")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 runs: 2 arms, 1 seed")


def test_a_factor_may_be_a_key_of_a_group_that_the_command_chooses(tmp_path: Path) -> None:
    """In a project of its own, which has a sweep over what only a schedule has."""
    project = tmp_path / "project"
    for part in ("experiments", "conf", "hydra_plugins", "sweeps"):
        shutil.copytree(PROJECT_DIR / part, project / part, ignore=shutil.ignore_patterns("__pycache__", "local"))
    levels = [{"value": 0.5}, {"value": 0.7}]
    (project / "sweeps" / "ends.yaml").write_text(json.dumps({"factor": "temperature.end", "levels": levels}))
    variables = {"PYTHONPATH": str(project)}
    wanted = ["-m", "sweeps=ends", "hydra/launcher=plan"]
    done = command(tmp_path, *wanted, "temperature=linear,cosine", **variables)
    assert done.returncode == 0 and done.stdout.startswith("4 runs: 4 arms, 1 seed"), done.stdout + done.stderr
    done = command(tmp_path, *wanted, **variables)
    assert done.returncode == 2 and "temperature.end must be a key of the config" in done.stderr


def test_what_can_t_be_run_is_left_out_on_request_and_said(tmp_path: Path) -> None:
    done = command(tmp_path, "-m", "algorithm=ppo,grpo", "rollout.n=1,4", "skip_invalid=true", "hydra/launcher=plan")
    assert done.returncode == 0, done.stderr
    assert "3 runs: 3 arms" in done.stdout and "left out: algorithm=grpo rollout.n=1: rollout.n must be" in done.stdout


PAIRS = "arms={temperature: linear, rollout.n: 3},{temperature: cosine, algorithm: ppo}"


@pytest.mark.parametrize(
    ("arms", "named"),
    [
        ("temperature=linear,cosine", ["schedule=linear,temperature.end=0.8", "schedule=cosine,temperature.end=0.8"]),
        (PAIRS, ["schedule=linear,n=3,temperature.end=0.8", "algorithm=ppo,schedule=cosine,temperature.end=0.8"]),
        ("arms={temperature: linear}", ["schedule=linear,temperature.end=0.8"]),
    ],
)
def test_a_key_that_every_arm_s_choice_has_may_be_set_for_all(tmp_path: Path, arms: str, named: list[str]) -> None:
    done = command(tmp_path, "-m", arms, "temperature.end=0.8", "show=json")
    assert done.returncode == 0, done.stderr
    assert [run["arm"] for run in json.loads(done.stdout)["runs"]] == [f"experiment=smoke,{arm}" for arm in named]


def test_show_config_is_the_resolved_config(tmp_path: Path) -> None:
    import yaml

    done = command(tmp_path, "show=config", "rollout.temperature=0.6")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["actor_rollout_ref"]["rollout"]["temperature"] == 0.6
    assert "${" not in done.stdout


def test_show_verl_is_a_command_line_of_verl(tmp_path: Path) -> None:
    done = command(tmp_path, "show=verl")
    assert done.returncode == 0, done.stderr
    assert "python -m verl.trainer.main_ppo" in done.stdout
    assert "algorithm.adv_estimator=grpo" in done.stdout and "actor_rollout_ref.actor.use_kl_loss=true" in done.stdout
