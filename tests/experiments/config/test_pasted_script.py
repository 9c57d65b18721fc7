"""config/pasted_script.py: a script of early 2025 is answered in one round, with a command that trains the same."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from experiments.config.article_scripts import SCRIPTS
from experiments.config.identity import run_id
from experiments.config.pasted_script import answer
from experiments.project import PROJECT_DIR
from experiments.values import at

Resolve = Callable[..., dict[str, Any]]
VARIABLES = {"$DATA_DIR": "./data", "$BASE_MODEL": "~/huggingface.co/Qwen/Qwen2.5-3B", "$EXPERIMENT_NAME": "mine"}


def pasted(name: str, **changes: str) -> list[str]:
    """Return a script's arguments as a shell hands them over; `changes` by the end of a key (dots as __)."""
    lines = []
    for key, value in SCRIPTS[name].items():
        text = "null" if value is None else str(value).replace("'", "")
        for variable, instead in VARIABLES.items():
            text = text.replace(variable, instead)
        for ending, changed in changes.items():
            if key.endswith(ending.replace("__", ".")):
                text = changed
        lines.append(f"{key}={text}")
    return lines


def typed(told: str) -> list[str]:
    """Return the overrides of the command that an answer proposes."""
    words = shlex.split(told.splitlines()[0].split("; type: ")[1])
    assert words[:3] == ["python", "-m", "experiments.run"]
    return words[3:]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_as_it_stands_is_its_preset(name: str) -> None:
    told = answer(pasted(name))
    assert told is not None and typed(told) == [f"experiment={name}"]
    for line in pasted(name):
        (row,) = [row for row in told.splitlines()[2:] if row.split()[0] == line]
        fate = row.removeprefix(f"  {line}").strip()
        assert fate.startswith(("in the preset", "left out: ")) and len(fate) < 120, row


def test_each_old_key_is_told_what_became_of_it() -> None:
    told = answer(pasted("article_ppo"))
    assert told is not None
    rows = {row.split()[0]: row.split(maxsplit=1)[1] for row in told.splitlines()[2:]}
    assert rows["actor_rollout_ref.actor.ppo_micro_batch_size=4"] == (
        "in the preset, as actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2, of one GPU"
    )
    assert rows["critic.ppo_micro_batch_size=4"].startswith(
        "in the preset, as critic.ppo_infer_max_token_len_per_gpu=2560"
    )
    assert rows["trainer.total_epochs=15"].startswith("left out: a run ends by steps: trainer.total_training_steps")
    assert rows["algorithm.kl_ctrl.kl_coef=0.001"] == "in the preset"
    grpo = answer(pasted("article_grpo"))
    assert grpo is not None and "with GRPO it did nothing then either" in grpo
    assert "hardware=" not in told + grpo


def test_other_values_are_typed_under_the_keys_that_set_them_today(resolved: Resolve) -> None:
    lines = pasted("article_grpo", rollout__n="8", rollout__temperature="0.6", kl_loss_coef="0.01", n_gpus_per_node="4")
    lines = [line.replace("ppo_micro_batch_size=4", "ppo_micro_batch_size=16") for line in lines]
    told = answer([*lines, "critic.optim.lr=1e-5", "hydra/launcher=slurm", "trainer.critic_warmup=0"])
    assert told is not None
    overrides = typed(told)
    assert overrides[0] == "experiment=article_grpo" and "hydra/launcher=slurm" in overrides
    assert {"rollout.n=8", "rollout.temperature=0.6", "kl.coef=0.01", "hardware.gpus_per_node=4"} <= set(overrides)
    assert "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32" in overrides, "16 x 8, over four GPUs"
    assert not any(line.startswith("critic.") for line in overrides), "GRPO has none"
    config = resolved(*[line for line in overrides if not line.startswith("hydra/")])
    assert at(config, "actor_rollout_ref.actor.kl_loss_coef") == 0.01
    assert at(config, "trainer.n_gpus_per_node") == 4


def test_a_script_with_its_variables_unset_or_in_quotes_is_the_same(resolved: Resolve) -> None:
    for text in ("", "$N_GPUS"):
        told = answer(pasted("article_ppo", n_gpus_per_node=text, model__path=text, tensor_model_parallel_size=text))
        assert told is not None and typed(told) == ["experiment=article_ppo"]


def test_another_model_is_the_choice_of_its_name_or_a_path(resolved: Resolve) -> None:
    told = answer(pasted("article_ppo", model__path="/models/Qwen2.5-1.5B/"))
    assert told is not None and typed(told) == ["experiment=article_ppo", "model=qwen2.5-1.5b"]
    assert resolved(*typed(told))["critic"]["model"]["path"] == "Qwen/Qwen2.5-1.5B"
    told = answer(pasted("article_ppo", model__path="/models/of mine"))
    assert told is not None and typed(told) == ["experiment=article_ppo", 'model.path="/models/of mine"']


def test_a_script_without_a_kl_term(resolved: Resolve) -> None:
    told = answer(pasted("article_grpo", use_kl_loss="False"))
    assert told is not None
    assert run_id(resolved(*typed(told))) == run_id(resolved("experiment=article_grpo", "kl.coef=0"))


def test_a_command_of_today_is_none() -> None:
    for command in ("rollout.temperature=0.6,1.0", "algorithm=ppo critic.ppo_micro_batch_size=4", "", "sweeps=all"):
        assert answer(command.split()) is None


@pytest.mark.parametrize("name", ["article_grpo", "article_ppo"])
def test_pasting_a_script_is_answered_in_one_round(name: str) -> None:
    command = [sys.executable, "-m", "experiments.run"]
    first = subprocess.run([*command, *pasted(name)], cwd=PROJECT_DIR, capture_output=True, text=True)
    assert first.returncode == 2 and first.stdout == ""
    assert first.stderr.count("error: ") == 1 and first.stderr.endswith("nothing was started.\n")
    told = first.stderr.removeprefix("error: ")
    second = subprocess.run([*command, *typed(told), "show=plan"], cwd=PROJECT_DIR, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "550" in second.stdout and "GPU-hours" in second.stdout
