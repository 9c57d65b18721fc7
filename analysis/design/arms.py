"""Which settings vary over a set of runs, and the arms they make. Read from the configs, never from names."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.records.record import WAITING, RunRecord
from experiments.config import identity
from experiments.values import as_float

# Keys that make no arm, besides those that a run's identity leaves out: seeds, lengths, paths and the like. Configs of
# other projects that use veRL have them too.
NO_SETTING = (
    "seed",
    "*total_training_steps",
    "*_dir",
    "*path",
    "*_files",
    "*_port",
    "*.port",
    "*workers",
    "*.agent_loop_*",
    "*ray_kwargs.*",
    "*micro_batch_size*",
    "*max_token_len_per_gpu",
    "*max_num_*",
    "trainer.*_freq",
    "trainer.val_before_train",
    "trainer.resume*",
)
# Digests of code. The figure's notes say where they differ, but nobody varies them as a setting.
PROVENANCE = ("task.code", "plugin.code")


@dataclass(frozen=True)
class Factor:
    """A setting that an ablation varies."""

    key: str
    short: str
    title: str

    @property
    def file_name(self) -> str:
        """How the names of its figure's files begin: rollout.n -> rollout_n."""
        return "temperature" if self.key == "rollout.temperature" else self.short_key().replace(".", "_")

    def short_key(self) -> str:
        """Return the key without an ending that says nothing: algorithm.adv_estimator -> algorithm."""
        for ending in (".name", ".adv_estimator"):
            if self.key.endswith(ending):
                return self.key.removesuffix(ending)
        return self.key

    def level(self, record: RunRecord) -> Hashable:
        """Return the run's value, in a form that can be compared and hashed."""
        return setting(record, self.key)


KNOBS = (
    Factor("rollout.temperature", "temperature", "Rollout temperature"),
    Factor("temperature.schedule", "schedule", "Temperature schedule"),
    Factor("algorithm.adv_estimator", "algorithm", "Algorithm"),
    Factor("rollout.n", "n", "Responses per prompt"),
    Factor("kl.coef", "kl", "KL coefficient"),
    Factor("model.name", "model", "Model"),
    Factor("task.name", "task", "Task"),
)
# Two models may have the same name. The folder that a model lies in does not tell them apart; a digest of its content
# does, where the config has one.
MODEL_PATH = "model.path"
ALGORITHMS = {"grpo": "GRPO", "gae": "PPO"}
SHORT = 0.5  # of the furthest run's steps: a shorter run is left out of the mean, which would end where it ends


@dataclass(frozen=True)
class Arm:
    """One point of the design: the runs that differ in nothing but the seed."""

    label: str
    runs: tuple[RunRecord, ...]
    levels: tuple[Hashable, ...] = ()
    """The values of the factors that the ablation varies."""
    title: str = ""
    """Its name in a legend; "" where no sweep file gives one."""
    is_baseline: bool = False
    """Whether it is the baseline, which all ablations share."""

    @property
    def averaged(self) -> tuple[RunRecord, ...]:
        """The runs whose mean is drawn: those that got at least half as far as the furthest run.

        The mean ends where its shortest run ends.
        """
        furthest = max((run.history.last_step() for run in self.runs), default=0)
        return tuple(run for run in self.runs if run.history.last_step() >= SHORT * furthest)

    @property
    def complete(self) -> tuple[RunRecord, ...]:
        """The runs that reached their last step: the table and the claims count these alone."""
        return tuple(run for run in self.runs if run.complete)

    def run_label(self, run: RunRecord) -> str:
        """Return how to name one of the runs in a sentence, e.g. "temperature=1.2 seed 0"."""
        return run.name if self.label == run.name or run.seed is None else f"{self.label} seed {run.seed}"


def frozen(value: Any) -> Hashable:
    """Return a hashable stand-in for a config value; 1 and 1.0 are one value, 1 and True are two."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, int | float | str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def setting(record: RunRecord, key: str) -> Hashable:
    """Return the run's value of a config key, None if it has none.

    Of the model's path only the last part is returned, and None where the config has a digest of the model.
    """
    value = record.config.get(key)
    if key == MODEL_PATH and value:
        return str(value).rstrip("/").rpartition("/")[2] if record.config.get("model.digest") is None else None
    return frozen(value)


def level_text(factor: Factor, value: Hashable) -> str:
    """Return a level as figures write it: a temperature of 1 as 1.0, gae as PPO."""
    if isinstance(value, float) or (factor.key == "rollout.temperature" and isinstance(value, int)):
        return repr(float(f"{value:.10g}"))  # 0.1 + 0.2 is 0.3 to a reader
    if factor.key == "algorithm.adv_estimator":
        return ALGORITHMS.get(str(value), str(value))
    return "none" if value is None else str(value)


def level_order(factor: Factor, value: Hashable) -> tuple[int, float, str]:
    """Return the key that sorts a factor's levels: numbers by size, then texts by the alphabet."""
    number = as_float(value)
    return (1, 0.0, level_text(factor, value)) if number is None else (0, number, "")


def is_scientific(key: str) -> bool:
    """Return whether a config key can change what a run learns."""
    if key == MODEL_PATH:
        return True
    return identity.is_scientific(key) and not any(fnmatch.fnmatchcase(key, pattern) for pattern in NO_SETTING)


def varying_keys(records: Sequence[RunRecord]) -> list[str]:
    """Return the scientific keys whose values differ between the runs, those with the fewest dots first.

    A key whose value is the seed in every run is left out.
    """
    keys = {key for record in records for key in record.config}
    return sorted(
        (
            key
            for key in keys
            if is_scientific(key)
            and len({setting(record, key) for record in records}) > 1
            and not all(setting(record, key) == frozen(record.seed) for record in records)
        ),
        key=lambda key: (key.count("."), key),
    )


def find_factors(records: Sequence[RunRecord]) -> list[Factor]:
    """Return the factors in which the runs differ, our knobs first.

    A key is no factor if its value follows from the factors found before it, or from the hardware: veRL's
    actor_rollout_ref.rollout.temperature follows from rollout.temperature. Only the knobs are compared for runs that
    died before their first step, so that the other keys of a mistyped experiment make no factor.
    """
    factors = [knob for knob in KNOBS if len({knob.level(record) for record in records}) > 1]
    sound = [record for record in records if record.history.last_step() or record.state in WAITING]
    hardware = sorted({key for record in sound for key in record.config if key.startswith("hardware.")})
    for key in varying_keys(sound):
        if key in PROVENANCE:
            continue
        known = [*hardware, *(factor.key for factor in factors)]
        decided: dict[Hashable, Hashable] = {}
        for record in sound:
            given = tuple(setting(record, name) for name in known)
            if decided.setdefault(given, setting(record, key)) != setting(record, key):
                factors.append(Factor(key, key.removeprefix("actor_rollout_ref."), key))
                break
    return factors


def companions(records: Sequence[RunRecord], factors: Sequence[Factor]) -> list[str]:
    """Return the other keys that differ between the runs, without those whose values are a factor's own."""

    def copies(key: str) -> bool:
        return any(all(setting(record, key) == factor.level(record) for record in records) for factor in factors)

    return [key for key in varying_keys(records) if not copies(key)]


def seeds_text(arm: Arm) -> str:
    """Return e.g. "1 seed" or "3 seeds"; "2 of 3 seeds" if the mean leaves out one of them."""
    few = f"{len(arm.averaged)} of " if len(arm.averaged) < len(arm.runs) else ""
    return f"{few}{len(arm.runs)} seed{'s' if len(arm.runs) > 1 else ''}"
