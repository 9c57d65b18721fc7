"""The article's scripts beside our presets, argument by argument: `python -m experiments.config.parity`.

Prints docs/parity.md. The values on our side are read from the composed presets, so the page can't claim a value that
the config does not have.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.config.article_scripts import ACTOR, CHANGES, ROLLOUT, SCRIPTS
from experiments.config.compose import compose_config, plain
from experiments.project import CONFIG_DIR
from experiments.values import flatten

# What the scripts left to defaults, where a default has changed since or veRL now works in another way.
UNSAID: tuple[tuple[str, str, str, str], ...] = (
    (
        "gradient checkpointing (PPO)",
        "off",
        "actor_rollout_ref.model.enable_gradient_checkpointing",
        "on in article_ppo as in article_grpo: it saves memory and changes no number",
    ),
    (
        "padding (PPO)",
        "kept",
        "actor_rollout_ref.model.use_remove_padding",
        "removed in article_ppo as in article_grpo: it saves time and changes no number",
    ),
    (
        "reference model's weights (PPO)",
        "on the GPU",
        "actor_rollout_ref.ref.fsdp_config.param_offload",
        "off the GPU between uses: veRL now keeps a reference model there always, whatever the key says",
    ),
    ("rollout engine (PPO)", "vllm", f"{ROLLOUT}.name", "the default then"),
    (f"{ACTOR}.entropy_coeff", "0.001", f"{ACTOR}.entropy_coeff", "the default is 0 now; the presets set the old one"),
    (f"{ROLLOUT}.temperature", "1.0", f"{ROLLOUT}.temperature", "the default still; rollout.temperature sets it"),
    (
        "KL in the reward (PPO)",
        "always",
        "algorithm.use_kl_in_reward",
        "off by default now: kl_ctrl.kl_coef alone is inert",
    ),
    ("KL in the reward (GRPO)", "never", "algorithm.use_kl_in_reward", "the KL term is in the loss"),
    (
        "chat template",
        "none",
        "actor_rollout_ref.model.custom_chat_template",
        "veRL applies one: ours passes texts through",
    ),
    (
        "reward's input",
        "prompt and response",
        "reward.custom_reward_function.name",
        "veRL hands over the response alone: TinyZero's extraction would give 0 always",
    ),
    (
        "reward",
        "TinyZero's",
        "reward.custom_reward_function.reward_kwargs.mode",
        "TinyZero's pays for hacks; reward_kwargs.mode=tinyzero is bug-compatible",
    ),
    ("validation", "greedy", f"{ROLLOUT}.val_kwargs.do_sample", "sampled at 1.0 in every arm, and greedy beside it"),
    (
        "critic's mini-batch",
        "not scaled by n",
        "critic.ppo_mini_batch_size",
        "veRL scales it by rollout.n; with n=1 the same",
    ),
    (
        "loss at large ratios",
        "single clip",
        f"{ACTOR}.clip_ratio_c",
        "dual clip for negative advantages: left at veRL's default",
    ),
    (
        "critic's micro-batch",
        "samples",
        "critic.ppo_infer_max_token_len_per_gpu",
        "tokens, whatever `critic.use_dynamic_bsz` says: it changes what a step costs, not what it computes",
    ),
    (
        "reward function",
        "in veRL's source",
        "reward.custom_reward_function.name",
        "ours is named by its file; `custom_reward_function.*` of versions between is ignored now, and refused",
    ),
    (
        "metric names",
        "val/test_score/countdown",
        "reward.custom_reward_function.name",
        "val-core/countdown/acc/mean@1 now: veRL takes a bare score, with its credit for format, for the accuracy; "
        "ours returns acc beside it",
    ),
    (
        "gradient clipping",
        f"{ACTOR}.grad_clip 1.0",
        f"{ACTOR}.optim.clip_grad",
        "the old key is ignored now, and refused",
    ),
    (
        "advantage in a group",
        "over its deviation",
        "algorithm.norm_adv_by_std_in_grpo",
        "GRPO as it was; Dr.GRPO is false here and loss_agg_mode=seq-mean-token-sum-norm; a group of one is refused",
    ),
    (
        "loss averaged over",
        "tokens of a micro-batch, then over micro-batches",
        f"{ACTOR}.loss_agg_mode",
        "cannot be had: veRL averages over a whole mini-batch now, by tokens or by responses. The nearest: by tokens "
        "for article_grpo (a micro-batch of a GPU had 2 x 5 responses) and tinyzero_ppo (4 responses), by responses "
        "for article_ppo (2 responses)",
    ),
    (
        "sign of the KL term in the loss (GRPO)",
        "subtracted",
        f"{ACTOR}.kl_loss_coef",
        "added now. TinyZero's veRL subtracted it (dp_actor.py), which pushes the policy away from the base model. Its "
        "coefficient was small; the presets have the term as it was meant",
    ),
    (
        "entropy and KL by temperature",
        "of logits over T",
        f"{ROLLOUT}.temperature",
        "so in veRL still: curves of arms with different T are not on one scale",
    ),
    (
        "determinism",
        "none",
        f"{ROLLOUT}.full_determinism",
        "off: seeds fix data, sampling and initialisation, not the order in which kernels add; true costs speed",
    ),
    (
        "steps",
        "stopped at about 550",
        "trainer.total_training_steps",
        "of the 38,400 that the article's 15 epochs would have; TinyZero's script has 19,200 and no stop: its preset "
        "takes the article's 550, to be set as long as wanted",
    ),
    ("data order", "not seeded", "data.seed", "the run's seed: the arms of a sweep see the same order"),
)


@dataclass(frozen=True)
class Row:
    """An argument of a script beside what our preset has for it."""

    old_key: str
    old_value: Any
    new_key: str | None
    new_value: Any
    reason: str

    @property
    def same_value(self) -> bool:
        """Return whether the preset has the value that the script had."""
        return self.new_key is not None and bool(self.new_value == self.old_value)


def rows(script: str, config: Mapping[str, Any]) -> list[Row]:
    """Return a row for each argument of a script, with the values of the resolved preset of that name."""
    found, leaves = [], dict(flatten(config))
    for old_key, old_value in SCRIPTS[script].items():
        new_key, reason = CHANGES.get(old_key, (old_key, ""))
        found.append(Row(old_key, old_value, new_key, leaves[new_key] if new_key else None, reason))
    return found


def preset(name: str) -> dict[str, Any]:
    """Return the resolved config of a shipped preset, without the developer's own conf/local."""
    without = ["~local"] if (CONFIG_DIR / "local" / "default.yaml").exists() else []
    config = compose_config([*without, f"experiment={name}"])
    return plain(config, resolve=True)


def cell(value: Any) -> str:
    """Return a value as a cell of a Markdown table."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return "`" + text.replace("|", "\\|") + "`"


def page() -> str:
    """Return docs/parity.md."""
    lines = [
        "# The article's scripts and our presets",
        "",
        "`python -m experiments.config.parity` makes this page, and a test compares it with what is composed. On the",
        "left the scripts, written for the veRL of early 2025; on the right the presets in `conf/experiment/`, in veRL",
        "0.9.1's names.",
        "An empty reason: same key, same value.",
    ]
    configs = {name: preset(name) for name in SCRIPTS}
    for name, config in configs.items():
        lines += [
            "",
            f"## `experiment={name}`",
            "",
            "| script | value | veRL 0.9.1 | value | reason |",
            "|---|---|---|---|---|",
        ]
        for row in rows(name, config):
            new = f"`{row.new_key}` | {cell(row.new_value)}" if row.new_key else "none |"
            lines.append(f"| `{row.old_key}` | {cell(row.old_value)} | {new} | {row.reason} |")
    lines += [
        "",
        "## What the scripts did not say",
        "",
        "| then | value | veRL 0.9.1 | article_grpo | article_ppo | tinyzero_ppo | reason |",
        "|---|---|---|---|---|---|---|",
    ]
    leaves = {name: dict(flatten(config)) for name, config in configs.items()}
    for what, then, key, reason in UNSAID:
        values = " | ".join(cell(leaves[name][key]) for name in SCRIPTS)
        lines.append(f"| {what} | {then} | `{key}` | {values} | {reason} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
