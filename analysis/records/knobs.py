"""The article's settings: how figures and tables call them, and which config keys they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from experiments.algorithm_names import algorithm_of

SHORT_NAMES = {
    "temperature": "rollout.temperature",
    "schedule": "temperature.schedule",
    "algorithm": "algorithm",  # no key of veRL's: records get it from `algorithm_of`
    "n": "rollout.n",
    "kl": "kl.coef",
    "model": "model.name",
    "task": "task.name",
}
ALGORITHM = SHORT_NAMES["algorithm"]
# How figures write the algorithms of conf/algorithm/, by the name of the file.
ALGORITHMS = {
    "grpo": "GRPO",
    "ppo": "PPO",
    "dr_grpo": "Dr. GRPO",
    "dapo": "DAPO",
    "rloo": "RLOO",
    "reinforce_plus_plus": "REINFORCE++",
    "reinforce_plus_plus_baseline": "REINFORCE++ baseline",
    "opo": "OPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "gpg": "GPG",
    "grpo_passk": "GRPO pass@k",
    "sapo": "SAPO",
    "clip_cov": "Clip-Cov",
    "kl_cov": "KL-Cov",
}
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


def with_algorithm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat config with the algorithm's name added, if it tells it."""
    name = algorithm_of(config)
    return {**config, **({ALGORITHM: name} if name is not None else {})}
