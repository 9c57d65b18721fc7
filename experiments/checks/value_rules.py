"""The rules for single values of a config: the type and the range that each value must have by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.checks.rule import Rule, above_zero, flag, not_negative, one_of, text, whole, whole_or_null
from experiments.checks.training_rules import TRAINING_RULES
from experiments.values import Config, at, is_number, is_whole
from experiments.verl_keys import ACTOR, MINI_BATCH, REFERENCE, ROLLOUT, has_critic, has_reference

# verl/trainer/ppo/core_algos.py of veRL 0.9.1: AdvantageEstimator, kl_penalty_forward.
ESTIMATORS = (
    *("gae", "grpo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "remax", "rloo", "opo", "grpo_passk"),
    *("gpg", "rloo_vectorized", "grpo_vectorized", "optimal_token_baseline", "tir_optimal_token_baseline", "gdpo"),
)
KL_TYPES = tuple(f"{name}{end}" for name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3") for end in ("", "+"))
ENGINES = ("vllm", "hf", "sglang", "trtllm")
SHOWN = (None, "config", "verl", "plan", "json")


def _given(key: str) -> Callable[[Config], bool]:
    return lambda config: bool(at(config, key))


def _on_vllm(config: Config) -> bool:
    return bool(at(config, f"{ROLLOUT}.name") == "vllm")


def _critic_given(key: str) -> Callable[[Config], bool]:
    return lambda config: has_critic(config) and bool(at(config, key))


TOKENS = "try 16384"
OPTIMIZER = "optimizer_offload"

RULES = (
    above_zero("rollout.temperature", "try 1.0"),
    above_zero(f"{ROLLOUT}.temperature", "try 1.0", repeats="rollout.temperature"),
    whole("rollout.n", 1, "try 5"),
    whole(f"{ROLLOUT}.n", 1, "try 5", repeats="rollout.n"),
    not_negative("kl.coef", "try 0.001, or 0 for no KL term"),
    not_negative(f"{ACTOR}.kl_loss_coef", "try 0.001", when=_given(f"{ACTOR}.use_kl_loss"), repeats="kl.coef"),
    not_negative(
        "algorithm.kl_ctrl.kl_coef", "try 0.001", when=_given("algorithm.use_kl_in_reward"), repeats="kl.coef"
    ),
    one_of("kl.type", KL_TYPES, "try low_var_kl with GRPO, kl with PPO"),
    one_of(f"{ACTOR}.kl_loss_type", KL_TYPES, "try low_var_kl", when=_given(f"{ACTOR}.use_kl_loss"), repeats="kl.type"),
    one_of("algorithm.kl_penalty", KL_TYPES, "try kl", when=_given("algorithm.use_kl_in_reward"), repeats="kl.type"),
    one_of("algorithm.adv_estimator", ESTIMATORS, "set algorithm=grpo or algorithm=ppo"),
    flag("algorithm.use_kl_in_reward"),
    whole("seed", 0, "try 1"),
    whole("trainer.total_training_steps", 1, "try 50"),
    whole("trainer.save_freq", -1, "try 10, or -1 for no checkpoints"),
    whole("trainer.test_freq", -1, "try 10, or -1 for no validation"),
    whole_or_null("trainer.max_actor_ckpt_to_keep", "try 2, or null for all"),
    whole_or_null("trainer.max_critic_ckpt_to_keep", "try 2, or null for all"),
    *(
        Rule(
            f"{role}.checkpoint.{contents}",
            "a list with model, optimizer and extra in it, which a run is resumed from",
            lambda value: isinstance(value, list) and {"model", "optimizer", "extra"} <= set(value),
            "try [model,optimizer,extra]",
            repeats=f"{role}.checkpoint.save_contents" if contents == "load_contents" else None,
        )
        for role in (ACTOR, "critic")
        for contents in ("save_contents", "load_contents")
    ),
    whole("data.train_batch_size", 1, "try a power of two"),
    whole("data.max_prompt_length", 1, "try a power of two"),
    whole("data.max_response_length", 1, "try a power of two"),
    whole(MINI_BATCH, 1, "try 16"),
    whole("critic.ppo_mini_batch_size", 1, "try 16", when=has_critic, repeats=MINI_BATCH),
    whole("hardware.gpus_per_node", 1, "try 1"),
    whole("trainer.n_gpus_per_node", 1, "try 1", repeats="hardware.gpus_per_node"),
    whole("hardware.nodes", 1, "try 1"),
    whole("trainer.nnodes", 1, "try 1", repeats="hardware.nodes"),
    Rule(
        "hardware.memory_gib",
        "null or a number above 0",
        lambda value: value is None or (is_number(value) and value > 0),
        "try 79 for a GPU of 80 GB",
    ),
    Rule(
        "hardware.seconds_per_step",
        "null or a number above 0",
        lambda value: value is None or (is_number(value) and value > 0),
        "try null",
    ),
    flag("hardware.fast"),
    whole("task.train_size", 1, "try 1000"),
    whole("task.test_size", 1, "try 1000"),
    whole("task.data_seed", 0, "try 0"),
    Rule(
        "task.name",
        "letters, digits, _, . and -, and not end in greedy",
        lambda value: isinstance(value, str) and re.fullmatch(r"\w[\w.-]*(?<!greedy)", value, re.ASCII) is not None,
        "try my_task",
    ),
    Rule("show", "config, verl, plan or json", lambda value: value in SHOWN, "leave it out to run"),
    text("runs_dir", "leave it out, or set runs_dir=/a/path", kind="a folder"),
    text("data_dir", "leave it out, or set data_dir=/a/path", kind="a folder"),
    Rule(
        "trainer.logger",
        "a list with file in it, which the figures are drawn from",
        lambda value: isinstance(value, list) and "file" in value,
        "set trainer.logger=[file,wandb], or leave it to tracking=...",
    ),
    text("model.path", "try Qwen/Qwen2.5-3B or a model's folder"),
    text("model.template", "try base"),
    whole_or_null("model.parameters", "try null"),
    Rule(
        "model.shape",
        "null or the sizes in the model's config.json",
        lambda value: value is None or isinstance(value, Mapping),
        "try null",
    ),
    Rule(
        "reward.custom_reward_function.reward_kwargs",
        "null or a mapping",
        lambda value: value is None or isinstance(value, Mapping),
        "try {mode: strict}",
    ),
    # How a step is cut up, and over which GPUs.
    whole(f"{ROLLOUT}.tensor_model_parallel_size", 1, "try 1"),
    whole(f"{ROLLOUT}.data_parallel_size", 1, "try 1"),
    whole(f"{ROLLOUT}.pipeline_model_parallel_size", 1, "try 1"),
    whole(f"{ACTOR}.ulysses_sequence_parallel_size", 1, "try 1"),
    whole("critic.ulysses_sequence_parallel_size", 1, "try 1"),
    whole(f"{REFERENCE}.ulysses_sequence_parallel_size", 1, "try 1", repeats=f"{ACTOR}.ulysses_sequence_parallel_size"),
    one_of(f"{ROLLOUT}.name", ENGINES, "try vllm on GPUs, hf elsewhere"),
    Rule(
        f"{ROLLOUT}.gpu_memory_utilization",
        "a number above 0 and at most 1",
        lambda value: is_number(value) and 0 < value <= 1,
        "try 0.5",
        when=_on_vllm,
    ),
    whole(f"{ROLLOUT}.max_num_batched_tokens", 1, "try 8192", when=_on_vllm),
    whole(f"{ROLLOUT}.max_num_seqs", 1, "try 1024"),
    flag(f"{ROLLOUT}.enable_chunked_prefill", "true"),
    flag(f"{ROLLOUT}.free_cache_engine", "true"),
    flag(f"{ACTOR}.use_dynamic_bsz", "true"),
    flag(f"{ROLLOUT}.log_prob_use_dynamic_bsz", "true", repeats=f"{ACTOR}.use_dynamic_bsz"),
    flag(f"{REFERENCE}.log_prob_use_dynamic_bsz", "true", repeats=f"{ACTOR}.use_dynamic_bsz"),
    flag("critic.use_dynamic_bsz", "true", repeats=f"{ACTOR}.use_dynamic_bsz"),
    whole(f"{ACTOR}.ppo_max_token_len_per_gpu", 1, TOKENS, when=_given(f"{ACTOR}.use_dynamic_bsz")),
    whole(
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu",
        1,
        TOKENS,
        when=_given(f"{ROLLOUT}.log_prob_use_dynamic_bsz"),
        repeats=f"{ACTOR}.ppo_max_token_len_per_gpu",
    ),
    whole(
        f"{REFERENCE}.log_prob_max_token_len_per_gpu",
        1,
        TOKENS,
        when=lambda config: has_reference(config) and bool(at(config, f"{REFERENCE}.log_prob_use_dynamic_bsz")),
        repeats=f"{ACTOR}.ppo_max_token_len_per_gpu",
    ),
    whole("critic.ppo_max_token_len_per_gpu", 1, TOKENS, when=_critic_given("critic.use_dynamic_bsz")),
    whole(
        "critic.forward_max_token_len_per_gpu",
        1,
        TOKENS,
        when=_critic_given("critic.use_dynamic_bsz"),
        repeats="critic.ppo_max_token_len_per_gpu",
    ),
    whole(
        "critic.ppo_infer_max_token_len_per_gpu",
        1,
        TOKENS,
        when=lambda config: has_critic(config) and "ppo_infer_max_token_len_per_gpu" in config["critic"],
    ),
    flag(f"{ACTOR}.use_kl_loss"),
    flag(f"{ACTOR}.entropy_from_logits_with_chunking"),
    flag(f"{ACTOR}.fsdp_config.param_offload"),
    flag(f"{ACTOR}.fsdp_config.{OPTIMIZER}"),
    flag(f"{REFERENCE}.fsdp_config.param_offload"),
    flag("critic.fsdp.param_offload"),
    flag(f"critic.fsdp.{OPTIMIZER}"),
    flag("actor_rollout_ref.model.use_remove_padding"),
    flag("actor_rollout_ref.model.enable_gradient_checkpointing", "true"),
    *TRAINING_RULES,
)


def faults(config: Config) -> dict[str, str]:
    """Return the problems of single values of a resolved config, by the key of the value."""
    found: dict[str, str] = {}
    for rule in RULES:
        value = at(config, rule.key)
        # veRL's key copies ours: the same wrong value in both is one mistake. Another value was set by itself.
        twice = rule.repeats in found and value == at(config, rule.repeats or "")
        if not twice and rule.when(config) and not rule.fits(value):
            found[rule.key] = f"{rule.key} must be {rule.kind}, but is {value!r}; {rule.do}"
        elif twice:
            found[rule.key] = found[rule.repeats or ""]
    return found | dict(_schedule_faults(config["temperature"]))


def _schedule_faults(temperature: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) of the temperature's schedule: a schedule that its group does not have, or wrong points."""
    schedule, points = temperature["schedule"], temperature.get("points")
    kinds: tuple[str, ...] = ("linear", "cosine") if "end" in temperature else ("constant",)
    if "points" in temperature:
        kinds = ("piecewise",)
    if not isinstance(schedule, str) or schedule not in kinds:
        yield (
            "temperature.schedule",
            f"temperature.schedule must be chosen by its group, but is {schedule!r}; "
            "set temperature=constant, temperature=linear, temperature=cosine or temperature=piecewise",
        )
    elif "points" in temperature and not _are_points(points):
        yield (
            "temperature.points",
            "temperature.points must be pairs of a step above 1 and a temperature above 0, steps ascending, but is "
            f"{points!r}; try [[10,1.0],[20,0.6]]",
        )
    if "end" in temperature:
        ends = (
            above_zero("end", "try 0.6"),
            whole("steps", 2, "set it to the step in which the temperature is to reach temperature.end"),
        )
        for rule in ends:
            key, value = f"temperature.{rule.key}", temperature.get(rule.key)
            if not rule.fits(value):
                yield key, f"{key} must be {rule.kind}, but is {value!r}; {rule.do}"


def _are_points(points: Any) -> bool:
    if not isinstance(points, list) or not points:
        return False
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        return False
    steps = [1, *(point[0] for point in points)]
    return (
        all(is_whole(step, 1) for step in steps)
        and sorted(set(steps)) == steps
        and all(is_number(point[1]) and point[1] > 0 for point in points)
    )
