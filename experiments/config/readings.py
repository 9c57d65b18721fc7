"""When a run reads a key of its config: the table behind unread.py.

The conditions were read in the modules of veRL 0.9.1 that a run of our trainer imports: verl/trainer/ppo/v1,
verl/trainer/ppo/core_algos.py, verl/workers/engine_workers.py, verl/workers/utils/losses.py, verl/workers/engine/fsdp
and verl/experimental/agent_loop. Light, since identity.py needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from experiments.values import Config, at, is_whole
from experiments.verl_keys import ACTOR, CRITIC_TOKENS, REFERENCE, ROLLOUT, has_critic, has_reference

Condition = Callable[[Config], bool]


def never(config: Config) -> bool:
    """Hold for no config."""
    return False


def value_in(key: str, values: Collection[Any]) -> Condition:
    """Return the condition that the value at a key is one of `values`."""
    return lambda config: at(config, key) in values


def given(key: str) -> Condition:
    """Return the condition that the value at a key is neither null, nor false, nor 0."""
    return lambda config: bool(at(config, key))


def no(condition: Condition) -> Condition:
    """Return the opposite condition."""
    return lambda config: not condition(config)


@dataclass(frozen=True)
class Reading:
    """When a run reads some keys, and what to say if it does not."""

    keys: str
    """A regular expression that matches the whole of each key."""
    read: Condition
    why: str
    """Why the run does not read them: the end of "..., but "."""
    do: str


IN_REWARD, IN_LOSS = "algorithm.use_kl_in_reward", f"{ACTOR}.use_kl_loss"
ESTIMATOR, LOSS_MODE = "algorithm.adv_estimator", f"{ACTOR}.policy_loss.loss_mode"
NO_KL = "set kl.coef, which sets the KL term of every algorithm"
DROP = "leave it out"


def _escaped(*keys: str) -> str:
    return "|".join(map(re.escape, keys))


def _falls(optimizer: str) -> Condition:
    """Return the condition that a learning rate falls; warmup_style is the former name of lr_scheduler_type."""
    keys = (f"{optimizer}.lr_scheduler_type", f"{optimizer}.warmup_style")
    return lambda config: "cosine" in [at(config, key) for key in keys]


def _counted_warm_up(optimizer: str) -> Condition:
    return lambda config: is_whole(at(config, f"{optimizer}.lr_warmup_steps"), 1)


def _any_dynamic(role: str) -> Condition:
    return given(f"{role}.{'log_prob_' if role != ACTOR else ''}use_dynamic_bsz")


def _of_loss(keys: str, mode: str) -> Reading:
    """Return when a run reads the actor's keys that belong to one loss."""
    why, do = f"its {LOSS_MODE} is not {mode}", f"set {LOSS_MODE}={mode} too, or leave it out"
    return Reading(rf"{re.escape(ACTOR)}\.{keys}", value_in(LOSS_MODE, (mode,)), why, do)


def _micro_batches() -> Iterator[Reading]:
    """Yield when veRL cuts the batches of a role by samples, and when by tokens."""
    for role, samples, tokens in (
        (ACTOR, "ppo_micro_batch_size_per_gpu", "ppo_max_token_len_per_gpu"),
        (ROLLOUT, "log_prob_micro_batch_size_per_gpu", "log_prob_max_token_len_per_gpu"),
        (REFERENCE, "log_prob_micro_batch_size_per_gpu", "log_prob_max_token_len_per_gpu"),
    ):
        dynamic = _any_dynamic(role)
        switch = f"{ACTOR}.use_dynamic_bsz"
        yield Reading(
            _escaped(f"{role}.{samples}"),
            no(dynamic),
            "its micro-batches are cut by tokens",
            f"set {role}.{tokens}, or {switch}=false",
        )
        yield Reading(
            _escaped(f"{role}.{tokens}"),
            dynamic,
            "its micro-batches are cut by samples",
            f"set {role}.{samples}, or {switch}=true",
        )


# The first entry that matches a key and whose condition does not hold says why the key is not read.
READINGS: tuple[Reading, ...] = (
    Reading(r"trainer\.total_epochs", never, "it ends by steps", "set trainer.total_training_steps"),
    Reading(r"trainer\.use_v1", never, "it always uses veRL's v1 trainer", DROP),
    Reading(
        r"actor_rollout_ref\.rollout\.agent\.agent_loop_manager_class|reward\.num_workers",
        no(given("hardware.fast")),
        "hardware.fast=true puts its own in place of it",
        "set hardware.fast=false too",
    ),
    # Without a critic.
    Reading(
        r"critic\.(?!enable$|grad_clip$|ppo_micro_batch_size$).+",
        has_critic,
        "it trains no critic",
        "did you mean algorithm=ppo?",
    ),
    Reading(
        r"critic\.(ppo_micro_batch_size_per_gpu|use_dynamic_bsz|ppo_max_token_len_per_gpu|forward_.+)",
        never,
        "veRL 0.9.1 cuts the critic's batches by another key",
        f"set {CRITIC_TOKENS}, in tokens of prompts and responses",
    ),
    # The KL term.
    Reading(
        r"algorithm\.kl_ctrl\.(horizon|target_kl)",
        value_in("algorithm.kl_ctrl.type", ("adaptive",)),
        "algorithm.kl_ctrl.type is not adaptive",
        "set algorithm.kl_ctrl.type=adaptive, or leave it out",
    ),
    Reading(r"algorithm\.(kl_penalty|kl_ctrl\..+)", given(IN_REWARD), "no KL term is part of its reward", NO_KL),
    Reading(re.escape(ACTOR) + r"\.kl_loss_(coef|type)", given(IN_LOSS), "its loss has no KL term", NO_KL),
    Reading(r"kl\.type", given("kl.coef"), "kl.coef is 0", "set kl.coef too, or leave it out"),
    Reading(re.escape(REFERENCE) + r"\..+", has_reference, "no KL term needs its reference model", NO_KL),
    # Advantages.
    Reading(r"algorithm\.lam", value_in(ESTIMATOR, ("gae",)), "only GAE has a lambda", "did you mean algorithm=ppo?"),
    Reading(
        r"algorithm\.gamma",
        value_in(ESTIMATOR, ("gae", "reinforce_plus_plus")),
        "its advantages are not discounted",
        "did you mean algorithm=ppo?",
    ),
    Reading(
        r"algorithm\.norm_adv_by_std_in_grpo",
        value_in(ESTIMATOR, ("grpo", "grpo_passk")),
        "veRL 0.9.1 hands it to grpo and grpo_passk alone",
        "did you mean algorithm=grpo?",
    ),
    Reading(r"algorithm\.(use_pf_ppo|pf_ppo\..+)", value_in(ESTIMATOR, ("gae",)), "it is no PPO", DROP),
    Reading(r"algorithm\.pf_ppo\..+", given("algorithm.use_pf_ppo"), "algorithm.use_pf_ppo is false", DROP),
    Reading(
        r"algorithm\.filter_groups\.max_num_gen_batches",
        never,
        "veRL's v1 trainer has another key for it",
        "set algorithm.filter_groups.max_inflight_gen_batches",
    ),
    Reading(
        r"algorithm\.filter_groups\.(?!enable$).+",
        given("algorithm.filter_groups.enable"),
        "algorithm.filter_groups.enable is false",
        DROP,
    ),
    Reading(
        r"algorithm\.rollout_correction\.rollout_is_(threshold|batch_normalize)",
        given("algorithm.rollout_correction.rollout_is"),
        "algorithm.rollout_correction.rollout_is is null",
        "set it too, or leave this out",
    ),
    Reading(
        r"algorithm\.rollout_correction\.rollout_rs_threshold",
        given("algorithm.rollout_correction.rollout_rs"),
        "algorithm.rollout_correction.rollout_rs is null",
        "set it too, or leave this out",
    ),
    Reading(
        r"algorithm\.rollout_correction\.loss_type",
        given("algorithm.rollout_correction.bypass_mode"),
        "algorithm.rollout_correction.bypass_mode is false",
        "set it too, or leave this out",
    ),
    # The loss.
    Reading(
        _escaped(f"{ACTOR}.clip_ratio"),
        lambda config: None in (at(config, f"{ACTOR}.clip_ratio_low"), at(config, f"{ACTOR}.clip_ratio_high")),
        "veRL 0.9.1 reads two other keys before it",
        f"set {ACTOR}.clip_ratio_low and {ACTOR}.clip_ratio_high",
    ),
    Reading(
        _escaped(f"{ACTOR}.clip_ratio", f"{ACTOR}.clip_ratio_low", f"{ACTOR}.clip_ratio_high"),
        no(value_in(LOSS_MODE, ("sapo", "gpg", "kl_cov", "dro"))),
        f"its {LOSS_MODE} clips no ratio",
        DROP,
    ),
    Reading(
        _escaped(f"{ACTOR}.clip_ratio_c"),
        value_in(LOSS_MODE, ("vanilla", "dppo_tv", "dppo_kl", "bypass_mode")),
        f"its {LOSS_MODE} has no dual clip",
        DROP,
    ),
    _of_loss(r"policy_loss\.clip_cov_.+", "clip_cov"),
    _of_loss(r"policy_loss\.(kl_cov_ratio|ppo_kl_coef)", "kl_cov"),
    _of_loss(r"policy_loss\.dro_beta", "dro"),
    _of_loss(r"tau_(pos|neg)", "sapo"),
    Reading(
        _escaped(f"{ACTOR}.loss_scale_factor"),
        value_in(f"{ACTOR}.loss_agg_mode", ("seq-mean-token-sum-norm",)),
        f"{ACTOR}.loss_agg_mode is not seq-mean-token-sum-norm",
        "set it too, or leave this out",
    ),
    *_micro_batches(),
    # Learning rates.
    *(
        entry
        for optimizer in (f"{ACTOR}.optim", "critic.optim")
        for entry in (
            Reading(
                re.escape(optimizer) + r"\.(min_lr_ratio|num_cycles|zero_indexed_step)",
                _falls(optimizer),
                f"{optimizer}.lr_scheduler_type is not cosine",
                "set it too, or leave this out",
            ),
            Reading(
                re.escape(optimizer) + r"\.lr_warmup_steps_ratio",
                no(_counted_warm_up(optimizer)),
                f"{optimizer}.lr_warmup_steps counts the steps of its warm-up",
                "set one of the two",
            ),
        )
    ),
    # Sampling.
    Reading(
        re.escape(ROLLOUT) + r"\.(val_kwargs\.)?do_sample",
        never,
        "veRL's v1 trainer samples by the temperature alone",
        f"set {ROLLOUT}.val_kwargs.temperature=0 for a greedy validation",
    ),
    Reading(
        re.escape(ROLLOUT) + r"\.(gpu_memory_utilization|enforce_eager|cudagraph_capture_sizes|max_num_batched_tokens"
        r"|enable_(chunked_prefill|prefix_caching)|logprobs_mode|scheduling_policy|disable_log_stats"
        r"|limit_images|quantization(_config_file)?|engine_kwargs\..+)",
        no(value_in(f"{ROLLOUT}.name", ("hf",))),
        "its rollout engine is hf, not vLLM",
        "set hardware= to GPUs, or leave it out",
    ),
    Reading(
        re.escape(ROLLOUT) + r"\.multi_turn\.(?!enable$).+",
        given(f"{ROLLOUT}.multi_turn.enable"),
        "its responses have one turn",
        DROP,
    ),
    # Parts of veRL that are off.
    Reading(
        r"actor_rollout_ref\.model\.(lora_alpha|target_modules|exclude_modules|target_parameters)",
        lambda config: any(at(config, f"actor_rollout_ref.model.{key}") for key in ("lora_rank", "lora_adapter_path")),
        "actor_rollout_ref.model.lora_rank is 0",
        "set it too, or leave this out",
    ),
    Reading(r"reward\.reward_model\.(?!enable).+", given("reward.reward_model.enable"), "it has no reward model", DROP),
    Reading(
        r"reward\.reward_kwargs\..+",
        value_in("reward.reward_manager.name", ("dapo",)),
        "its reward manager is not DAPO's",
        "did you mean algorithm=dapo?",
    ),
    Reading(
        r"reward\.sandbox_fusion\.(?!url$).+", given("reward.sandbox_fusion.url"), "it has no sandbox for code", DROP
    ),
    Reading(r"distillation\.(?!enabled$).+", given("distillation.enabled"), "it has no teacher", DROP),
    Reading(
        r"skip\.(?P<part>\w+)\.(?!enable$).+",
        lambda config: any(at(config, f"skip.{part}.enable") for part in ("rollout", "rollout_tq", "async_rollout")),
        "it skips no rollout",
        DROP,
    ),
    Reading(
        r"data\.filter_overlong_prompts_workers",
        given("data.filter_overlong_prompts"),
        "data.filter_overlong_prompts is false",
        "set it too, or leave this out",
    ),
    # Keys that were moved: veRL's own config still has them. checks/unread_keys.py has others, with their new values.
    Reading(r"reward_model\.(?!reward_manager$).+", never, "veRL ignores the old key", "set reward.reward_model"),
    Reading(r"sandbox_fusion\..+", never, "veRL ignores the old key", "set reward.sandbox_fusion"),
    Reading(
        re.escape("actor_rollout_ref.") + r"(actor|ref)\.(use_remove_padding|use_fused_kernels)",
        never,
        "veRL takes the model's instead",
        "set actor_rollout_ref.model.use_remove_padding or use_fused_kernels",
    ),
    # What no module of veRL 0.9.1 reads that a run of our trainer imports.
    Reading(
        r"model_engine|actor_rollout_ref\.(nccl_timeout|hybrid_engine)|trainer\.(balance_batch|esi_redundant_time)"
        r"|trainer\.(ray_wait_register_center_timeout|v1\.(colocate_async|separate_async)\..+)"
        r"|actor_rollout_ref\.actor\.(freeze_vision_tower|use_prefix_grouper)|data\.return_raw_input_ids"
        r"|actor_rollout_ref\.rollout\.(over_sample_rate|multi_stage_wake_up|disaggregation\..+)"
        r"|.+\.(turbo_config|mtp|tiled_mlp)\..+|.+\.qat\.quantization_config_path"
        r"|.+\.model\.lora\.(dropout_position|lora_._init_method|a2a_experimental|adapter_path|freeze_.+)",
        never,
        "no part of veRL's synchronous FSDP trainer reads it",
        DROP,
    ),
)
# Keys that the plan or an attempt fills in: what a command sets there is lost, but the planned run has its values.
BEFORE_THE_PLAN: tuple[Reading, ...] = (
    Reading(
        r"trainer\.(experiment_name|default_local_dir|rollout_data_dir|validation_data_dir)|tracking\.(group|tags)"
        r"|plugin\.code|(task|model)\.(code|digest)|(actor_rollout_ref\.actor|critic)\.optim\.total_training_steps",
        never,
        "the project fills it in",
        DROP,
    ),
    Reading(
        r"task\.(train_size|test_size|data_seed|source)",
        lambda config: None in (at(config, "data.train_files"), at(config, "data.val_files")),
        "its problems are read from data.train_files and data.val_files",
        "leave out either the files or this key",
    ),
)
