"""The rules for single values of a training: how it samples, its losses, which rows it takes, what it resumes.

Read in veRL 0.9.1: verl/trainer/ppo/core_algos.py (POLICY_LOSS_REGISTRY, agg_loss), verl/workers/config/actor.py,
verl/trainer/ppo/v1/{trainer_base,agent_loop_tq}.py, verl/utils/dataset/rl_dataset.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.checks.rule import Rule, above_zero, flag, not_negative, one_of, whole, whole_or_null
from experiments.values import Config, at, is_number, is_whole
from experiments.verl_keys import ACTOR, ROLLOUT, has_critic

# veRL's list has "bypass_mode" too. Its own trainer does not give that loss the settings that it asks for.
LOSS_MODES = (
    *("vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg", "clip_cov", "kl_cov", "geo_mean", "dro", "cispo"),
)
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
# veRL's reward managers. "gdpo" and "limited" serve what we refuse or have no key for; "remote" needs its own servers.
REWARD_MANAGERS = ("naive", "dapo")
SCHEDULES = ("constant", "cosine")
VALIDATION = f"{ROLLOUT}.val_kwargs"
LOSS_MODE = f"{ACTOR}.policy_loss.loss_mode"


def _loss(name: str) -> Callable[[Config], bool]:
    return lambda config: bool(at(config, LOSS_MODE) == name)


def _must(key: str, value: Any, why: str, do: str, **more: Any) -> Rule:
    """Return the rule that a key has one value only; `why` says what any other would do."""
    spelt = {None: "null", True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return Rule(key, f"{spelt} ({why})", lambda given: type(given) is type(value) and given == value, do, **more)


def _share(key: str, do: str, **more: Any) -> Rule:
    return Rule(key, "a number above 0 and at most 1", lambda value: is_number(value) and 0 < value <= 1, do, **more)


def _top_k(key: str) -> Rule:
    return Rule(
        key,
        "-1 (all tokens) or a whole number of at least 1",
        lambda value: value == -1 or is_whole(value, 1),
        "try -1",
    )


def _fraction(key: str) -> Rule:
    return Rule(key, "a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1, "try 1.0")


UNREAD = "veRL 0.9.1 does not read it and samples all the same"

SAMPLING = (
    _share(f"{ROLLOUT}.top_p", "try 1.0, which keeps every token"),
    _top_k(f"{ROLLOUT}.top_k"),
    _must(f"{ROLLOUT}.do_sample", True, UNREAD, "leave it out"),
    not_negative(f"{VALIDATION}.temperature", "try 1.0, or 0 for greedy answers"),
    _share(f"{VALIDATION}.top_p", "try 1.0, which keeps every token"),
    _top_k(f"{VALIDATION}.top_k"),
    whole(f"{VALIDATION}.n", 1, "try 1"),
    _must(
        f"{VALIDATION}.do_sample",
        True,
        UNREAD,
        f"leave it out; the validation has greedy answers beside the sampled ones, and {VALIDATION}.temperature=0 "
        "makes all of them greedy",
    ),
    flag(f"{ROLLOUT}.ignore_eos"),
)

LOSSES = (
    one_of(
        LOSS_MODE,
        LOSS_MODES,
        "try vanilla; bypass_mode, which veRL lists too, never gets the settings that it asks for",
    ),
    above_zero(f"{ACTOR}.policy_loss.dro_beta", "try 0.1, which loss_mode=dro asks for", when=_loss("dro")),
    above_zero(f"{ACTOR}.tau_pos", "try 1.0", when=_loss("sapo")),
    above_zero(f"{ACTOR}.tau_neg", "try 1.05", when=_loss("sapo")),
    _share(f"{ACTOR}.policy_loss.clip_cov_ratio", "try 0.0002", when=_loss("clip_cov")),
    _share(f"{ACTOR}.policy_loss.kl_cov_ratio", "try 0.002", when=_loss("kl_cov")),
    not_negative(f"{ACTOR}.policy_loss.ppo_kl_coef", "try 1.0", when=_loss("kl_cov")),
    one_of(f"{ACTOR}.loss_agg_mode", AGGREGATIONS, "try token-mean"),
    one_of("critic.loss_agg_mode", AGGREGATIONS, "try token-mean", when=has_critic, repeats=f"{ACTOR}.loss_agg_mode"),
    Rule(
        f"{ACTOR}.loss_scale_factor",
        "null or a number above 0",
        lambda value: value is None or (is_number(value) and value > 0),
        "try null",
    ),
    not_negative(f"{ACTOR}.clip_ratio", "try 0.2"),
    not_negative(f"{ACTOR}.clip_ratio_low", "try 0.2"),
    not_negative(f"{ACTOR}.clip_ratio_high", "try 0.2"),
    Rule(f"{ACTOR}.clip_ratio_c", "a number above 1", lambda value: is_number(value) and value > 1, "try 3.0"),
    Rule(f"{ACTOR}.entropy_coeff", "a number", is_number, "try 0"),
    whole(f"{ACTOR}.ppo_epochs", 1, "try 1"),
    whole("critic.ppo_epochs", 1, "try 1", when=has_critic),
    Rule("critic.cliprange_value", "a number above 0", lambda v: is_number(v) and v > 0, "try 0.5", when=has_critic),
    _fraction("algorithm.gamma"),
    _fraction("algorithm.lam"),
    flag("algorithm.norm_adv_by_std_in_grpo", "true"),
    one_of(f"{ACTOR}.optim.lr_scheduler_type", SCHEDULES, "try constant"),
    one_of("critic.optim.lr_scheduler_type", SCHEDULES, "try constant", when=has_critic),
    one_of("reward.reward_manager.name", REWARD_MANAGERS, "try naive"),
)

ROWS = (
    _must(
        "data.val_max_samples",
        -1,
        "all rows: veRL would choose them by data.seed, so each seed would validate on other problems",
        "set task.test_size to the number of problems, or write a smaller file for data.val_files",
    ),
    _must(
        "data.validation_shuffle",
        False,
        "veRL shuffles without a seed, so two attempts of a run would differ",
        "leave it out",
    ),
    Rule(
        "data.train_max_samples",
        "-1 (all rows) or a whole number of at least 1",
        lambda value: value == -1 or is_whole(value, 1),
        "try -1",
    ),
    whole_or_null("data.val_batch_size", "leave it out: the validation is one batch"),
    whole_or_null("data.gen_batch_size", "leave it out: it is data.train_batch_size"),
    flag("data.shuffle", "true"),
    whole("data.seed", 0, "leave it out: it is seed", repeats="seed"),
)

COURSE = (
    one_of("watch.not_finite", ("stop", "go_on"), "try stop"),
    above_zero("watch.start_seconds", "try 1800"),
    above_zero("watch.stalled_seconds", "try 300"),
    above_zero("watch.stalled_steps", "try 10"),
    _must("trainer.val_only", False, "a run that trains nothing would count as finished", "leave it out"),
    _must("trainer.use_v1", True, "an attempt runs no older trainer of veRL's", "leave it out"),
    _must(
        "trainer.v1.trainer_mode",
        "ablation",
        "veRL's synchronous trainer with what this project records",
        "leave it out",
    ),
    whole("trainer.critic_warmup", 0, "try 0"),
    one_of(
        "trainer.resume_mode",
        ("auto", "resume_path"),
        "leave it out: a run without checkpoints starts from step 0, and an interrupted one goes on from its newest "
        "checkpoint; for a new start choose another runs_dir",
    ),
    _must(f"{ACTOR}.checkpoint.async_save", False, "veRL would name no checkpoint to resume from", "leave it out"),
    _must(
        "critic.checkpoint.async_save",
        False,
        "veRL would name no checkpoint to resume from",
        "leave it out",
        when=has_critic,
    ),
)

TRAINING_RULES = (*SAMPLING, *LOSSES, *ROWS, *COURSE)
