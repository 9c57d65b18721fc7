"""Answer a command into which a training script of early 2025 was pasted: which preset it is, and what each key became.

The scripts of TinyZero and of the article name keys of the veRL of that time. Some of these keys are gone today, some
have another name, and some would silently do nothing. So such a command is answered as a whole: one command to type,
and a line for each key.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from experiments.config.article_scripts import ACTOR, CHANGES, REF, ROLLOUT, SCRIPTS
from experiments.config.choices import groups, options
from experiments.config.parity import Row, preset, rows
from experiments.config.verl import NUMBER, OUR_NODES, override
from experiments.project import CONFIG_DIR
from experiments.values import at, is_whole
from experiments.verl_keys import CRITIC_TOKENS

# Keys that only the scripts of that time have, and how many of them make a command such a script.
OLD = (
    f"{ACTOR}.ppo_micro_batch_size",
    f"{ROLLOUT}.log_prob_micro_batch_size",
    f"{REF}.log_prob_micro_batch_size",
    "critic.ppo_micro_batch_size",
    f"{ACTOR}.fsdp_config.grad_offload",
    "critic.model.fsdp_config.grad_offload",
    f"{ACTOR}.grad_clip",
    "trainer.remove_previous_ckpt_in_save",
    "algorithm.kl_ctrl.kl_coef",
)
ENOUGH = 3
# The key of ours that sets what an old key set, where the preset's value is not the wanted one.
OURS = {
    f"{ROLLOUT}.n": "rollout.n",
    f"{ROLLOUT}.temperature": "rollout.temperature",
    f"{ACTOR}.kl_loss_coef": "kl.coef",
    f"{ACTOR}.kl_loss_type": "kl.type",
    "algorithm.kl_ctrl.kl_coef": "kl.coef",
    "trainer.n_gpus_per_node": "hardware.gpus_per_node",
    "trainer.nnodes": "hardware.nodes",
}
# What the plan or the preset decides, whatever the script had there.
LEFT_OUT = {
    "data.train_files": "the plan builds the same prompts; task.source=hub takes the article's own rows",
    "data.val_files": "likewise; 1,024 problems, sampled and greedy, none of them in training",
    "trainer.experiment_name": "a run is named by what differs from the baseline",
    "trainer.project_name": "tracking.project names W&B's project",
    "trainer.logger": "tracking=offline keeps W&B's files, tracking=wandb sends them",
    "trainer.total_epochs": "a run ends by steps: trainer.total_training_steps, 550 in the preset",
}


@dataclass(frozen=True)
class Fate:
    """What became of one argument of a pasted script."""

    told: str
    typed: str | None = None
    """The override to type for it; None if the preset has it, or if it is left out."""


def answer(overrides: Sequence[str]) -> str | None:
    """Return what to type in place of a command that is a script of early 2025; None if it is none."""
    pairs = [line.partition("=") for line in overrides]
    given = {key.lstrip("+"): read(value) for key, _, value in pairs}
    if sum(key in OLD for key in given) < ENOUGH:
        return None
    script = Script.nearest(given)
    fates = {line: script.fate(line) for line in overrides}
    typed = [fate.typed for fate in fates.values() if fate.typed is not None]
    command = shlex.join(["python", "-m", "experiments.run", f"experiment={script.name}", *dict.fromkeys(typed)])
    wide = min(62, max(map(len, fates)))
    return "\n".join(
        [
            "the keys of a command must be those of veRL 0.9.1, but these are a script's for the veRL of early 2025: "
            f"this is experiment={script.name}{' with other values' if typed else ''}; type: {command}",
            "What became of each key (docs/parity.md says what the script left to veRL's defaults):",
            *(f"  {line:{wide}}  {fate.told}" for line, fate in fates.items()),
        ]
    )


@dataclass(frozen=True)
class Script:
    """The preset that a pasted script comes closest to."""

    name: str
    config: Mapping[str, Any]
    rows: Mapping[str, Row]
    """What became of each argument of the preset's own script, by its key without a +."""
    ranks: int
    """How many GPUs the pasted script names: its micro-batches are counted over all of them."""
    n: int
    """How many responses a prompt of the pasted script has: its micro-batches are counted in prompts."""

    @classmethod
    def nearest(cls, given: Mapping[str, Any]) -> Script:
        """Return the preset with the same algorithm that agrees with the most values. PPO was the default then."""
        ppo = given.get("algorithm.adv_estimator", "gae") == "gae"
        scripts = {name: script for name, script in SCRIPTS.items() if name.endswith("_ppo") == ppo}
        name = max(scripts, key=lambda one: sum(given.get(key.lstrip("+")) == v for key, v in scripts[one].items()))
        config = preset(name)
        numbers = [given.get(key) for key in ("trainer.n_gpus_per_node", "trainer.nnodes")]
        gpus, nodes = (number if is_whole(number, 1) else None for number in numbers)
        ranks = (gpus or config["trainer"]["n_gpus_per_node"]) * (nodes or config["trainer"]["nnodes"])
        n = given.get(f"{ROLLOUT}.n", 1)
        by_key = {row.old_key.lstrip("+"): row for row in rows(name, config)}
        return cls(name, config, by_key, ranks, n if is_whole(n, 1) else 1)

    def fate(self, line: str) -> Fate:
        """Return what became of one argument: a line of the command."""
        key, equals, text = line.partition("=")
        key, ppo = key.lstrip("+"), self.config["algorithm"]["adv_estimator"] == "gae"
        if not equals:
            return Fate("left out: it is no override")
        if not text or text.startswith("$"):
            return Fate("left out: its variable is not set")
        if key in groups() or key.split(".")[0] in OUR_NODES or key.startswith("hydra"):
            return Fate("kept", line)
        if key.startswith("critic.") and not ppo:
            return Fate("left out: GRPO trains no critic")
        if key.endswith("model.path"):
            return self._model(key, text)
        if key == "algorithm.kl_ctrl.kl_coef" and not ppo:
            return Fate("left out: with GRPO it did nothing then either; kl.coef is the KL term's weight")
        if key == "algorithm.adv_estimator":
            return Fate("in the preset")
        if key == f"{ACTOR}.use_kl_loss":
            return Fate("typed as kl.coef=0", "kl.coef=0") if read(text) is False and not ppo else Fate("in the preset")
        if key == "trainer.remove_previous_ckpt_in_save":
            return Fate("left out: trainer.max_actor_ckpt_to_keep says how many checkpoints stay")
        if key in LEFT_OUT:
            return Fate(f"left out: {LEFT_OUT[key]}")
        return self._value(key, text)

    def _value(self, key: str, text: str) -> Fate:
        """Return what became of an argument that has a key and a value today."""
        new, reason = CHANGES.get(key, (key, ""))
        new = new and new.replace("critic.model.fsdp_config.", "critic.fsdp.").replace(".grad_clip", ".optim.clip_grad")
        if new is None or new.endswith("grad_offload"):
            return Fate(f"left out: {reason or 'veRL frees gradients after the update'}".replace("gone: ", ""))
        value, wanted = read(text), text
        if is_whole(value, 1) and key.endswith("micro_batch_size"):
            value = max(1, value // self.ranks)
            if key.startswith("critic."):
                new, value = CRITIC_TOKENS, value * self._longest
            else:
                value *= self.n
            wanted = f"{value}"
        if value == at(self.config, new):
            of_one = ", of one GPU" if key.endswith("micro_batch_size") else ""
            return Fate("in the preset" if new == key else f"in the preset, as {new}={wanted}{of_one}")
        typed = f"{OURS.get(key, new)}={wanted}"
        return Fate(f"typed as {typed}", typed)

    @property
    def _longest(self) -> int:
        """The tokens of the longest prompt with the longest response."""
        return int(self.config["data"]["max_prompt_length"]) + int(self.config["data"]["max_response_length"])

    def _model(self, key: str, path: str) -> Fate:
        """Return what became of a model's path: the choice of conf/model with the same name, or model.path."""
        name, ours = path.rstrip("/").rsplit("/", 1)[-1].lower(), str(self.config["model"]["path"])
        if key != "actor_rollout_ref.model.path":
            return Fate("left out: it follows the policy's model")
        if name == ours.rsplit("/", 1)[-1].lower():
            return Fate(f"in the preset, as {ours}; model.path=/its/folder takes one on this machine")
        for choice in options("model"):
            stated = yaml.safe_load((CONFIG_DIR / "model" / f"{choice}.yaml").read_text(encoding="utf-8"))
            if str(stated.get("model", {}).get("path", "")).rsplit("/", 1)[-1].lower() == name:
                return Fate(f"typed as model={choice}", f"model={choice}")
        typed = override("model.path", path)
        return Fate(f"typed as {typed}", typed)


def read(text: str) -> Any:
    """Return the value that an argument of a script spells: a number, true, false, null or a text."""
    known = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in known:
        return known[text.lower()]
    if NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    return text
