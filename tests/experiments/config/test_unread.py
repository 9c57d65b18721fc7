"""config/unread.py: a key that its run does not read is known, with what to do; a key that is read is never refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.checks.unread_keys import LEGACY
from experiments.config.compose import verl_config_dir
from experiments.config.readings import BEFORE_THE_PLAN, READINGS
from experiments.config.unread import unknown_addition, unread, unread_problem
from experiments.config.verl import verl_defaults
from experiments.errors import UserError
from experiments.values import flatten

Resolve = Callable[..., dict[str, Any]]
ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
CORRECTION = "algorithm.rollout_correction"
GPU = ("model=qwen2.5-3b", "hardware=a100x2")


@pytest.mark.parametrize(
    ("key", "unread_with", "read_with"),
    [
        ("critic.optim.lr", (), ("algorithm=ppo",)),
        ("critic.optim.lr", ("algorithm=ppo", "critic.enable=false"), ("critic.enable=true",)),
        ("critic.use_dynamic_bsz", ("algorithm=ppo",), None),
        ("algorithm.kl_ctrl.kl_coef", (), ("algorithm=ppo",)),
        ("algorithm.kl_penalty", ("algorithm=ppo", "kl.coef=0"), ("algorithm=ppo",)),
        ("algorithm.kl_ctrl.horizon", ("algorithm=ppo",), ("algorithm=ppo", "algorithm.kl_ctrl.type=adaptive")),
        (f"{ACTOR}.kl_loss_coef", ("algorithm=ppo",), ()),
        (f"{ACTOR}.kl_loss_type", ("kl.coef=0",), ()),
        ("kl.type", ("kl.coef=0",), ()),
        (f"{REF}.log_prob_micro_batch_size_per_gpu", ("kl.coef=0",), ()),
        (f"{REF}.log_prob_micro_batch_size_per_gpu", GPU, (*GPU, "experiment=article_settings")),
        (f"{ACTOR}.ppo_micro_batch_size_per_gpu", GPU, ()),
        (f"{ACTOR}.ppo_max_token_len_per_gpu", (), GPU),
        ("algorithm.lam", (), ("algorithm=ppo",)),
        ("algorithm.gamma", (), ("algorithm.adv_estimator=reinforce_plus_plus",)),
        ("algorithm.norm_adv_by_std_in_grpo", ("algorithm=ppo",), ()),
        ("algorithm.pf_ppo.weight_pow", ("algorithm=ppo",), ("algorithm=ppo", "algorithm.use_pf_ppo=true")),
        ("algorithm.filter_groups.metric", (), ("algorithm.filter_groups.enable=true",)),
        (
            "reward.reward_kwargs.max_resp_len",
            ("algorithm=dapo", "reward.reward_manager.name=naive"),
            ("algorithm=dapo",),
        ),
        (f"{CORRECTION}.rollout_is_threshold", (), (f"{CORRECTION}.rollout_is=token",)),
        (f"{CORRECTION}.rollout_rs_threshold", (), (f"{CORRECTION}.rollout_rs=token",)),
        (f"{CORRECTION}.loss_type", (), (f"{CORRECTION}.bypass_mode=true",)),
        (f"{ACTOR}.clip_ratio", (), (f"{ACTOR}.clip_ratio_low=null",)),
        (f"{ACTOR}.clip_ratio_high", (f"{ACTOR}.policy_loss.loss_mode=gpg",), ()),
        (f"{ACTOR}.clip_ratio_c", (f"{ACTOR}.policy_loss.loss_mode=gspo",), ()),
        (f"{ACTOR}.policy_loss.clip_cov_lb", (), (f"{ACTOR}.policy_loss.loss_mode=clip_cov",)),
        (f"{ACTOR}.policy_loss.ppo_kl_coef", (), (f"{ACTOR}.policy_loss.loss_mode=kl_cov",)),
        (f"{ACTOR}.tau_pos", (), (f"{ACTOR}.policy_loss.loss_mode=sapo",)),
        (
            "algorithm.norm_adv_by_std_in_grpo",
            ("algorithm.adv_estimator=grpo_vectorized",),
            ("algorithm.adv_estimator=grpo_passk",),
        ),
        (f"{ACTOR}.loss_scale_factor", (), (f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm",)),
        (f"{ACTOR}.optim.num_cycles", (), (f"{ACTOR}.optim.lr_scheduler_type=cosine",)),
        (f"{ACTOR}.optim.lr_warmup_steps_ratio", (f"{ACTOR}.optim.lr_warmup_steps=3",), ()),
        (f"{ROLLOUT}.val_kwargs.do_sample", (), None),
        (f"{ROLLOUT}.gpu_memory_utilization", (), GPU),
        (f"{ROLLOUT}.enforce_eager", (), GPU),
        ("actor_rollout_ref.model.lora_alpha", (), ("actor_rollout_ref.model.lora_rank=8",)),
        ("trainer.total_epochs", (), None),
        ("trainer.balance_batch", GPU, None),
        ("trainer.experiment_name", (), None),
        ("trainer.default_local_dir", (), None),
        ("tracking.group", (), None),
        ("reward.num_workers", (), ("hardware.fast=false",)),
        (
            "task.train_size",
            ("data.train_files=a.parquet", "data.val_files=b.parquet"),
            ("data.train_files=a.parquet",),
        ),
        ("reward_model.model.path", (), None),
        ("data.filter_overlong_prompts_workers", (), ("data.filter_overlong_prompts=true",)),
    ],
)
def test_a_key_is_read_only_where_something_reads_it(
    resolved: Resolve, key: str, unread_with: tuple[str, ...], read_with: tuple[str, ...] | None
) -> None:
    problem = unread_problem(key, resolved(*unread_with))
    assert problem is not None and problem.startswith(f"{key} must be a key that the run reads, but ")
    assert problem.count("; ") == 1 and not problem.endswith((".", "; ")), "what must be, what is, what to do"
    if read_with is not None:
        assert unread_problem(key, resolved(*read_with)) is None


@pytest.mark.parametrize("config", [(), ("algorithm=ppo",), GPU, (*GPU, "algorithm=ppo"), ("kl.coef=0",)])
def test_the_pattern_and_the_problems_agree(resolved: Resolve, config: tuple[str, ...]) -> None:
    composed = resolved(*config)
    pattern, filled_in = unread(composed), re.compile("|".join(f"(?:{entry.keys})" for entry in BEFORE_THE_PLAN))
    for key, _ in flatten(composed):
        if not filled_in.fullmatch(key):
            assert (unread_problem(key, composed) is None) == (pattern.fullmatch(key) is None), key


def test_every_entry_of_the_table_is_of_a_key_that_there_is(resolved: Resolve) -> None:
    keys = [key for name in ("ppo", "dapo") for key, _ in flatten(resolved(f"algorithm={name}"))]
    keys += ["model.code", "critic.forward_x"]
    for entry in (*READINGS, *BEFORE_THE_PLAN):
        assert any(re.fullmatch(entry.keys, key) for key in keys), entry


def test_what_the_experiments_set_is_read(resolved: Resolve) -> None:
    """The settings of the README and of conf/experiment: refusing one of them would be a fault of the table."""
    for key in ("rollout.temperature", "rollout.n", "kl.coef", "seed", "data.train_batch_size", f"{ACTOR}.optim.lr"):
        for config in ((), ("algorithm=ppo",), GPU):
            assert unread_problem(key, resolved(*config)) is None
    # The KL term and the entropy are averaged by it, whatever the policy's loss does.
    sapo = f"{ACTOR}.policy_loss.loss_mode=sapo"
    assert unread_problem(f"{ACTOR}.loss_agg_mode", resolved(sapo)) is None
    for key in (f"{ACTOR}.entropy_coeff", f"{ACTOR}.clip_ratio_high", "trainer.val_before_train", "trainer.save_freq"):
        assert unread_problem(key, resolved()) is None


# Additions: +key=value


@pytest.mark.parametrize("key", ["trainer.nonsense_of_mine", "actor_rollout_ref.actor.klip_ratio", "wholly.new_word_x"])
def test_an_added_key_that_no_code_names_is_refused(resolved: Resolve, key: str) -> None:
    known = [one for one, _ in flatten(resolved())]
    assert unknown_addition(key, known) == (
        f"{key} must be a key that something reads, but neither veRL nor this project names it; leave +{key} out"
    )


@pytest.mark.parametrize(
    "key",
    [
        "reward.custom_reward_function.reward_kwargs.anything_at_all",
        "actor_rollout_ref.model.override_config.some_new_field",
        "task.my_argument",
        "ray_kwargs.ray_init.object_store_memory",
        "critic.ppo_infer_max_token_len_per_gpu",
    ],
)
def test_an_added_key_that_somebody_reads_is_accepted(resolved: Resolve, key: str) -> None:
    assert unknown_addition(key, [one for one, _ in flatten(resolved())]) is None


# The table against veRL's sources


# Parts of veRL that no run of our trainer imports, or that read no config of a run.
OTHERS = (
    *("experimental/fully", "experimental/one_step", "experimental/separation", "experimental/agent_loop/tool_agent"),
    *("experimental/teacher", "models/mcore", "workers/engine/megatron", "workers/engine/torchtitan"),
    *(
        "workers/engine/veomni",
        "workers/engine/automodel",
        "workers/engine/mindspeed",
        "workers/engine/fsdp/fsdp_turbo",
    ),
    *("utils/megatron", "utils/checkpoint/megatron", "utils/sglang", "utils/skip", "utils/qat", "utils/trtllm"),
    *("utils/modelopt", "utils/kernel", "utils/dataset/rm_", "utils/dataset/sft", "utils/dataset/multiturn_sft"),
    *("workers/rollout/trtllm", "workers/rollout/sglang", "trainer/ppo/v1/trainer_separate", "model_merger"),
    *("trainer/ppo/v1/trainer_colocate", "trainer/ppo/ray_trainer.py", "trainer/ppo/prefix_grouper", "third_party"),
    *("trainer/main_ppo_v0", "trainer/main_eval", "trainer/main_gen", "trainer/sft"),
)
# Read by other packages (Ray, TransferQueue), by a function that the v1 trainer takes from ray_trainer.py
# (compute_advantage), or only where a switch of its own is on.
ELSEWHERE = re.compile(
    r"ray_kwargs\..+|transfer_queue\..+|data\.max_response_length|skip\..+|algorithm\.use_pf_ppo|.+profiler.+|.+\._target_"
)


def names_in_code(root: Path) -> Iterator[str]:
    """Yield the attributes and the texts in veRL's code; of the config's dataclasses only what their methods say."""
    for file in root.rglob("*.py"):
        place = file.relative_to(root).as_posix()
        if place.startswith(OTHERS):
            continue
        tree: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
        if place.startswith(("workers/config", "trainer/config")):
            tree = [node for node in ast.walk(tree[0]) if isinstance(node, ast.FunctionDef)]
        for node in (inner for top in tree for inner in ast.walk(top)):
            if isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
                yield from re.findall(r"\w+", node.value) if re.fullmatch(r"[\w.]+", node.value) else ()


def test_every_key_that_veRL_s_code_never_names_is_in_the_table(resolved: Resolve) -> None:
    named = set(names_in_code(Path(verl_config_dir()).parent.parent))
    keys = [key for key in dict(flatten(verl_defaults())) if not ELSEWHERE.fullmatch(key)]
    silent = [key for key in keys if key.rsplit(".", 1)[-1] not in named]
    assert len(silent) > 40, "the scan finds them"
    configs = [resolved(), resolved("algorithm=ppo")]
    old = {entry[0] for entry in LEGACY}
    missed = [key for key in silent if key not in old and any(unread_problem(key, one) is None for one in configs)]
    assert missed == []


# A command


def test_a_key_is_refused_if_no_run_of_the_command_reads_it(ask: Callable[..., Any]) -> None:
    with pytest.raises(UserError) as refused:
        ask("critic.optim.lr=1e-5", "critic.optim.lr=1e-6")
    assert refused.value.problems == (
        "critic.optim.lr must be a key that the run reads, but it trains no critic; did you mean algorithm=ppo?",
    )
    grpo, ppo = ask("critic.optim.lr=1e-5", "critic.optim.lr=1e-5 algorithm=ppo")
    assert grpo.folder.id == ask("")[0].folder.id, "the run without a critic is the baseline"
    assert grpo.config["tracking"]["group"] == ask("")[0].config["tracking"]["group"]
    assert "critic.optim.lr=1e-05" in ppo.config["tracking"]["group"]


def test_one_key_has_one_message(ask: Callable[..., Any]) -> None:
    with pytest.raises(UserError) as refused:
        ask("algorithm.kl_ctrl.kl_coef=0.5 actor_rollout_ref.actor.grad_clip=0.5 critic.ppo_micro_batch_size=4")
    assert len(refused.value.problems) == 3
    assert [problem.split(" ")[0] for problem in sorted(refused.value.problems)] == [
        "actor_rollout_ref.actor.grad_clip",
        "algorithm.kl_ctrl.kl_coef",
        "critic.ppo_micro_batch_size",
    ]
