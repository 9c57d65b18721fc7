"""The list of the tests that compare each rule of preflight with veRL itself; no rule may be missing from it.

A rule has the name of its test. The test shows two things: if the rule refuses a value, veRL, vLLM or torch stops at
it, or silently does something else than was asked for; if the rule accepts it, they start. A text that begins with
"ours" is the reason of a rule that only this project has. tests/e2e (both paths, GRPO and PPO, one and two ranks) and
tests/vllm have the trainings that pass.
"""

from __future__ import annotations

import re

import pytest

from experiments.checks.preflight import CHECKS
from experiments.checks.unread_keys import LEGACY
from experiments.checks.value_rules import RULES
from experiments.project import PROJECT_DIR

ESTIMATE = "ours: an estimate of memory, which only a GPU can hold against anything (python -m benchmarks.gpu)"
READ = "test_data_that_verl_can_t_train_on"
SCORED = "test_a_reward_that_verl_can_t_score_with"
WORKER = "test_a_worker_starts_or_stops_as_predicted"

BY_CHECK: dict[str, dict[str, str]] = {
    "algorithm_problems": {
        "an estimator that the trainer can't serve": "test_verl_serves_the_same_estimators",
        "a critic that is switched off": "ours: veRL would stop in the first step, at the values that are missing",
        "a penalty for long responses": "test_the_dapo_penalty_begins_at_four_fifths_of_the_longest_length",
        "a teacher": "test_a_worker_fetches_what_it_reads_of_what_is_stored",
        "a redrawn batch": "test_redrawn_samples_get_each_others_advantages",
        "an adaptive coefficient": "ours: veRL starts it again after a resume",
        "chunks that do not divide a batch": "test_a_value_that_verl_stops_at",
        "a filter of groups": "test_a_step_is_trained",
        "a policy that is never trained": "ours: veRL would do so",
        "a correction of the rollout's probabilities": "test_the_lists_are_those_of_verl",
    },
    "folder_problems": {
        "a path that PYTHONPATH would cut": "ours: an attempt would not find its code",
        "a path that the library datasets reads as another": "ours: the data set would not be found",
    },
    "resume_problems": {"another run's checkpoint": "test_what_is_resumed_is_what_the_event_says"},
    "batch_problems": {
        "a group of one": "test_a_group_of_one_has_no_mean_to_compare_with",
        "a group of one, for other estimators": "test_verl_serves_the_same_estimators",
        "samples over the GPUs": "test_what_verl_refuses_is_refused_here",
        "a mini-batch larger than the batch": "test_what_verl_refuses_is_refused_here",
        "mini-batches that do not divide the batch": "test_mini_batches_that_do_not_divide_are_padded",
        "a mini-batch over the GPUs": "test_a_mini_batch_must_divide_over_the_ranks",
        "micro-batches": "test_micro_batches_must_divide",
        "micro-batches, in a training": "test_what_a_plan_refuses_fails_as_predicted",
    },
    "kl_problems": {
        "counted twice": "test_a_kl_term_that_counts_twice_is_a_notice",
        "a coefficient whose switch is off": "test_a_coefficient_whose_switch_is_off_loads_no_reference",
    },
    "legacy_problems": {
        "keys that veRL refuses": "test_what_verl_refuses_is_refused_here",
        "keys that veRL does not read": "test_an_old_key_that_verl_does_not_read",
    },
    "rate_problems": {"a learning rate": "test_a_value_that_verl_stops_at"},
    "rollout_problems": {
        "an engine's GPUs": WORKER,
        "the model's heads": "test_heads_split_over_the_gpus_of_an_engine",
    },
    "sequence_problems": {
        "the GPUs": WORKER,
        "padding": "test_what_verl_refuses_is_refused_here",
        "the model's heads": "test_sequences_are_split_by_heads",
    },
    "sharding_problems": {
        "groups of GPUs": "test_every_rank_is_in_a_group_of_shards",
        "groups of one GPU": "test_gradients_are_averaged_over_all_ranks",
    },
    "token_problems": {
        "two ways to cut": WORKER,
        "a whole sequence": "test_a_micro_batch_cut_by_tokens_must_hold_a_sequence",
        "the critic's key": "test_the_critic_s_micro_batches_are_cut_by_the_key_that_the_presets_set",
    },
    "length_problems": {
        "the model's positions": "test_a_length_beyond_the_model_s_positions",
        "tokens without chunked prefill": "test_a_length_beyond_the_model_s_positions",
        "fewer tokens than sequences": "test_no_fewer_tokens_than_sequences",
        "a response that max_model_len cuts": "ours: vLLM would end responses before data.max_response_length",
    },
    "memory_problems": {"each phase": ESTIMATE},
    "flash_problems": {"flash-attn that is not there": "ours: transformers would refuse it when it loads the model"},
    "ray_problems": {"Ray's CPUs": "test_each_preset_starts_with_the_cpus_that_are_counted"},
    "cpu_problems": {
        "the fast path's models": "test_supports_what_it_repeats_and_nothing_else",
        "threads": "ours: hardware.threads is our own key",
    },
    "cpu_vllm_problems": {
        "the size of a head": "test_the_sizes_of_a_head_are_those_of_vllm",
        "the package": "ours: the version that was tested",
        "the fast path": "ours: only our own rollout server has the fast path",
    },
    "model_path_problems": {"another part's model": "ours: a run is known by one model's content"},
    "model_problems": {
        "no folder, config or weights, torn weights": WORKER,
        "no tokenizer": "test_a_model_without_a_tokenizer",
        "no chat template": "test_a_model_without_a_chat_template",
        "a token without an embedding": "test_a_token_without_an_embedding",
        "an end that is no token": "test_the_ends_are_generation_config_s_and_the_tokenizer_s",
        "no end": "test_without_an_end_every_row_has_full_length",
        "chat markers that are no tokens": "ours: veRL would train on them, cut up into letters",
        "a name on the hub": "ours: transformers would ask the hub, which tests don't",
    },
    "data_problems": {
        "no validation data": "test_data_that_are_not_named",
        "files, columns and rows": READ,
        "images": "test_a_worker_fetches_what_it_reads_of_what_is_stored",
        "prompts that are none": READ,
        "prompts too long": READ,
        "characters without a token": READ,
        "ground truths": READ,
        "a part of the rows below a batch": "ours: veRL divides by the batches of an epoch",
    },
    "reward_problems": {
        "the function": SCORED,
        "what it returns": SCORED,
        "a response that it can't score": "test_a_step_without_one_usable_sample_stops_the_run_with_the_cause",
        "how long it takes": "ours: veRL would wait",
        "the part that a filter of groups reads": "ours: veRL would stop in the first step",
    },
}

STOPPED = "test_a_value_that_verl_stops_at"
STOPPED_BY_WORKERS = "test_a_value_at_which_verls_config_stops"
VALUES: dict[str, tuple[str, ...]] = {
    STOPPED: (
        *("rollout.temperature", "rollout.n", "kl.type", "algorithm.adv_estimator", "data.train_batch_size"),
        *("actor_rollout_ref.actor.ppo_mini_batch_size", "hardware.gpus_per_node", "hardware.nodes"),
        *("actor_rollout_ref.rollout.name", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"),
    ),
    WORKER: tuple(
        f"actor_rollout_ref.{name}_parallel_size"
        for name in ("rollout.tensor_model", "rollout.data", "rollout.pipeline_model", "actor.ulysses_sequence")
    ),
    "test_a_share_of_the_memory": ("actor_rollout_ref.rollout.gpu_memory_utilization",),
    "test_no_fewer_tokens_than_sequences": (
        "actor_rollout_ref.rollout.max_num_batched_tokens",
        "actor_rollout_ref.rollout.max_num_seqs",
    ),
    SCORED: ("reward.custom_reward_function.reward_kwargs",),
    "the actor's rule, for the critic": (
        *("critic.ulysses_sequence_parallel_size", "critic.ppo_max_token_len_per_gpu"),
        "critic.ppo_infer_max_token_len_per_gpu",
    ),
    "ours: veRL would do nothing, or nothing useful, without a word": (
        *("kl.coef", "seed", "trainer.total_training_steps", "trainer.save_freq", "trainer.test_freq"),
        *("trainer.max_actor_ckpt_to_keep", "trainer.max_critic_ckpt_to_keep", "data.max_prompt_length"),
        *("data.max_response_length", "actor_rollout_ref.actor.checkpoint.save_contents"),
        *("critic.checkpoint.save_contents", "actor_rollout_ref.rollout.top_p", "actor_rollout_ref.rollout.top_k"),
        *("actor_rollout_ref.rollout.val_kwargs.temperature", "actor_rollout_ref.rollout.val_kwargs.top_p"),
        *("actor_rollout_ref.rollout.val_kwargs.top_k", "actor_rollout_ref.rollout.val_kwargs.n"),
        *("actor_rollout_ref.rollout.do_sample", "actor_rollout_ref.rollout.val_kwargs.do_sample"),
        *("actor_rollout_ref.actor.clip_ratio", "actor_rollout_ref.actor.clip_ratio_low"),
        *("actor_rollout_ref.actor.clip_ratio_high", "actor_rollout_ref.actor.entropy_coeff"),
        *("actor_rollout_ref.actor.ppo_epochs", "critic.ppo_epochs", "critic.cliprange_value"),
        *("actor_rollout_ref.actor.loss_scale_factor", "actor_rollout_ref.actor.policy_loss.dro_beta"),
        *("actor_rollout_ref.actor.tau_pos", "actor_rollout_ref.actor.tau_neg", "algorithm.gamma", "algorithm.lam"),
        *("data.val_max_samples", "data.train_max_samples", "data.validation_shuffle", "data.val_batch_size"),
        *("actor_rollout_ref.actor.policy_loss.clip_cov_ratio", "actor_rollout_ref.actor.policy_loss.kl_cov_ratio"),
        *("actor_rollout_ref.actor.policy_loss.ppo_kl_coef", "data.gen_batch_size", "trainer.val_only"),
        *("trainer.critic_warmup", "trainer.resume_mode"),
        *("actor_rollout_ref.actor.checkpoint.async_save", "critic.checkpoint.async_save"),
        "actor_rollout_ref.actor.clip_ratio_c",
    ),
    "test_the_lists_are_those_of_verl": (
        *("actor_rollout_ref.actor.policy_loss.loss_mode", "actor_rollout_ref.actor.loss_agg_mode"),
        "reward.reward_manager.name",
    ),
    STOPPED_BY_WORKERS: (
        "actor_rollout_ref.actor.optim.lr_scheduler_type",
        "critic.optim.lr_scheduler_type",
    ),
    "ours: keys of our own, and what our records and figures need": (
        *("hardware.memory_gib", "hardware.seconds_per_step", "task.train_size", "task.test_size", "task.data_seed"),
        *("task.name", "show", "runs_dir", "data_dir", "trainer.logger", "model.path", "model.template"),
        *("model.parameters", "model.shape", "trainer.v1.trainer_mode", "trainer.use_v1"),
        *("watch.not_finite", "watch.start_seconds", "watch.stalled_seconds", "watch.stalled_steps"),
    ),
}


def test_every_check_is_in_the_list() -> None:
    names = [next(name for name in check.__code__.co_names if name.endswith("_problems")) for check in CHECKS]
    assert sorted(BY_CHECK) == sorted(names)
    assert {does.split(",")[0] for *_, does in LEGACY} == {"refuses the old key", "ignores the old key"}


def test_every_rule_of_a_value_is_in_the_list() -> None:
    """Each rule is listed once.

    Two kinds are left out: switches, because veRL would read any value as true or false; and keys of veRL's that copy
    a key of ours, because their value is the same.
    """
    listed = [key for keys in VALUES.values() for key in keys]
    assert sorted(listed) == sorted(rule.key for rule in RULES if rule.kind != "true or false" and rule.repeats is None)


@pytest.mark.parametrize("test", sorted({*VALUES, *(test for rules in BY_CHECK.values() for test in rules.values())}))
def test_the_tests_that_are_named_are_there(test: str) -> None:
    sources = (file.read_text(encoding="utf-8") for file in (PROJECT_DIR / "tests").rglob("test_*.py"))
    ours = test.startswith(("ours: ", "the actor's rule"))
    assert ours or any(re.search(rf"^def {test}\(", source, re.MULTILINE) for source in sources)
