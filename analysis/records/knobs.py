"""The article's settings: how figures and tables call them, and which config keys they are."""

from __future__ import annotations

from collections.abc import Collection

SHORT_NAMES = {
    "temperature": "rollout.temperature",
    "schedule": "temperature.schedule",
    "algorithm": "algorithm.adv_estimator",
    "n": "rollout.n",
    "kl": "kl.coef",
    "model": "model.name",
    "task": "task.name",
}
ALGORITHM = SHORT_NAMES["algorithm"]
ALGORITHMS = {"grpo": "GRPO", "gae": "PPO"}
ROLLED_OUT = "actor_rollout_ref."  # tables leave it out where a key begins so


def find_key(name: str, known: Collection[str]) -> str:
    """Return the key that a user's name means: a key as it is, as tables show it, or by an ending that is one key's.

    The name itself if it means none of the `known` keys.
    """
    if name in known:
        return name
    for key in (SHORT_NAMES.get(name), ROLLED_OUT + name):
        if key in known:
            return str(key)
    endings = [key for key in known if key.endswith(f".{name}")]
    return endings[0] if len(endings) == 1 else name
