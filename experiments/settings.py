"""Single values that compose, and with which a run would end badly or leave nothing to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def record_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of where runs and data go, and of what is written down."""
    found = [
        f"{key} must be a folder, but is {config[key]!r}; leave it out, or set {key}=/a/path"
        for key in ("runs_dir", "data_dir")
        if not config[key] or not isinstance(config[key], str)
    ]
    logger = config["trainer"]["logger"]
    if not isinstance(logger, list) or "file" not in logger:
        found.append(
            f"trainer.logger must be a list with file in it, which the figures are drawn from, but is {logger!r}; "
            "set trainer.logger=[file,wandb], or leave it to tracking=..."
        )
    return found


def rate_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the learning rates, once what is a number by its text is one."""
    rates = {
        "actor_rollout_ref.actor.optim.lr": config["actor_rollout_ref"]["actor"]["optim"]["lr"],
        "critic.optim.lr": config["critic"]["optim"]["lr"],
    }
    return [
        f"{key} must be a number of at least 0, but is {rate!r}; try 1e-6"
        for key, rate in rates.items()
        if not isinstance(rate, (int, float)) or not 0 <= rate < float("inf")
    ]
