"""The article's knobs, read from a plain veRL config: what our own configs call rollout.temperature, kl.coef, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.records.knobs import with_algorithm
from analysis.sources.trainers import Trainers, read_trainers
from experiments.values import as_float, is_whole

ACTOR, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."


def with_knobs(config: Mapping[str, Any], trainers: Trainers | None = None) -> dict[str, Any]:
    """Return a flat config with our knobs added where it lacks them, since veRL sends W&B only its own keys.

    Works for configs of veRL 0.1 to 0.9. A knob that the config does not tell stays missing.
    """
    trainers = trainers or read_trainers()
    knobs: dict[str, Any] = {
        "rollout.temperature": config.get(f"{ROLLOUT}temperature"),
        "rollout.n": config.get(f"{ROLLOUT}n"),
        "kl.coef": kl_coefficient(config),
        "seed": trainers.first(config, trainers.seeds),
        "model.name": last_part(config.get("actor_rollout_ref.model.path")),
        "hardware.name": config.get("trainer.device"),
    }
    return with_algorithm({**{knob: value for knob, value in knobs.items() if value is not None}, **config})


def planned_steps(config: Mapping[str, Any], trainers: Trainers | None = None) -> int | None:
    """Return the step that a flat config asks for; None where the number of epochs decides."""
    trainers = trainers or read_trainers()
    steps = trainers.first(config, trainers.total_steps)
    return steps if is_whole(steps, 1) else None


def kl_coefficient(config: Mapping[str, Any]) -> float | None:
    """Return the coefficient of the KL loss or of the KL penalty in the reward; 0 if both are off.

    None if the config does not say. Before veRL 0.2 the penalty had no switch: it was on unless the loss was on.
    """
    loss = config.get(f"{ACTOR}use_kl_loss")
    penalty = config.get("algorithm.use_kl_in_reward", None if loss is None else not loss)
    if loss is None and penalty is None:
        return None
    if not loss and not penalty:
        return 0.0
    return as_float(config.get(f"{ACTOR}kl_loss_coef" if loss else "algorithm.kl_ctrl.kl_coef"))


def last_part(path: Any) -> str | None:
    """Return the name of a model: the last part of its path or hub id; None if there is no path."""
    return path.rstrip("/").rpartition("/")[2] if isinstance(path, str) else None
