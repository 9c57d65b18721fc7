"""Which settings vary over a set of runs. Read from the configs, never from names."""

from __future__ import annotations

import fnmatch
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from analysis.design.levels import frozen, level_text
from analysis.records.knobs import ALGORITHM, ROLLED_OUT, SHORT_NAMES
from analysis.records.record import WAITING, RunRecord
from experiments.config import identity

# Keys that make no arm, besides those that a run's identity leaves out: seeds, lengths, paths and the like. Configs of
# other projects that use veRL have them too.
NO_SETTING = (
    "seed",
    "*.seed",
    "*random_seed",
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
# What is trained on what. Such a key never just comes along with another one that varies: it makes arms of its own.
TASK = ("task.*",)
CONTENT = (*TASK, "model.*", "data.max_prompt_length", "data.max_response_length", "data.*_max_samples")
# Two models may have the same name. The folder that a model lies in does not tell them apart; a digest of its content
# does, where the config has one.
MODEL_PATH = "model.path"


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
        """Return the key without an ending that says nothing: model.name -> model."""
        return self.key.removesuffix(".name")

    def level(self, record: RunRecord) -> Hashable:
        """Return the run's value, in a form that can be compared and hashed."""
        return setting(record, self.key)


# Knobs that are choices: each of them sets several keys.
CHOICES = tuple(SHORT_NAMES[short] for short in ("schedule", "algorithm", "kl", "model", "task"))
TITLES = {
    "temperature": "Rollout temperature",
    "schedule": "Temperature schedule",
    "algorithm": "Algorithm",
    "n": "Responses per prompt",
    "kl": "KL coefficient",
    "model": "Model",
    "task": "Task",
}
KNOBS = tuple(Factor(key, short, TITLES[short]) for short, key in SHORT_NAMES.items())


def setting(record: RunRecord, key: str) -> Hashable:
    """Return the run's value of a config key, None if it has none.

    Of the model's path only the last part is returned, and None where the config has a digest of the model.
    """
    value = record.config.get(key)
    if key == MODEL_PATH and value:
        return str(value).rstrip("/").rpartition("/")[2] if record.config.get("model.digest") is None else None
    return frozen(value)


def is_scientific(key: str) -> bool:
    """Return whether a config key can change what a run learns."""
    if key == MODEL_PATH:
        return True
    return identity.is_scientific(key) and not any(fnmatch.fnmatchcase(key, pattern) for pattern in NO_SETTING)


def is_content(key: str, patterns: Iterable[str] = CONTENT) -> bool:
    """Return whether a key says what is trained on what, and is no digest of code."""
    return key not in PROVENANCE and any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


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


def find_factors(records: Sequence[RunRecord], together: bool = False) -> list[Factor]:
    """Return the factors in which the runs differ, our knobs first.

    A key is no factor if its value follows from the factors found before it, or from the hardware: veRL's
    actor_rollout_ref.rollout.temperature follows from rollout.temperature. What is trained on what follows from nothing
    else. Only the knobs and what is trained on what are compared for runs that died before their first step, so that
    the other keys of a mistyped experiment make no factor.

    `together`: the runs were launched together, so that whatever comes along with a factor was meant to.
    """
    factors = [knob for knob in KNOBS if len({knob.level(record) for record in records}) > 1]
    factors = [knob for knob in factors if knob.short != "kl" or not is_the_algorithms(records, knob)]
    sound = [record for record in records if record.history.last_step() or record.state in WAITING]
    hardware = sorted({key for record in sound for key in record.config if key.startswith("hardware.")})
    content = [key for key in varying_keys(records) if is_content(key)]
    for key in content:
        known = [factor.key for factor in factors if is_content(factor.key)]
        if key not in known and not follows(records, key, known, ()):
            factors.append(factor_of(key))
    for key in varying_keys(sound):
        known = [factor.key for factor in factors]
        chosen = [name for name in known if together or name in CHOICES or is_content(name)]
        numbers = [name for name in known if name not in chosen]
        if key not in (*known, *PROVENANCE, *content) and not follows(sound, key, [*hardware, *chosen], numbers):
            factors.append(factor_of(key))
    return factors


def is_the_algorithms(records: Sequence[RunRecord], knob: Factor) -> bool:
    """Return whether the algorithms set a knob: its value follows from them, and by their tags no plan changed it."""
    experiments = {tuple(tag for tag in record.tags if tag.startswith("experiment=")) for record in records}
    changed = any(tag.startswith(f"{knob.short}=") for record in records for tag in record.tags)
    planned = all(record.tags for record in records) and len(experiments) == 1 and not changed
    return planned and follows(records, knob.key, [ALGORITHM], ())


def follows(records: Sequence[RunRecord], key: str, chosen: Sequence[str], numbers: Sequence[str]) -> bool:
    """Return whether a key's value follows from the `chosen` keys, or from them and one of the `numbers`.

    A choice may set other keys to whatever it likes. What comes along with a number is another value at each of its
    levels; if it is the same at two levels and another one at a third, the third level's runs differ in it by chance.
    """
    classes: dict[Hashable, list[RunRecord]] = {}
    for record in records:
        classes.setdefault(tuple(setting(record, name) for name in chosen), []).append(record)
    return all(
        len({setting(record, key) for record in runs}) == 1 or any(one_to_one(runs, key, name) for name in numbers)
        for runs in classes.values()
    )


def one_to_one(records: Sequence[RunRecord], key: str, other: str) -> bool:
    """Return whether each value of one key goes with one value of the other."""
    pairs = {(setting(record, key), setting(record, other)) for record in records}
    return len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs})


def factor_of(key: str) -> Factor:
    """Return a key as a factor."""
    return Factor(key, key.removeprefix(ROLLED_OUT), key)


def assignment(factors: Sequence[Factor], levels: Sequence[Hashable]) -> str:
    """Return e.g. "temperature=1.2, n=8"."""
    return ", ".join(f"{f.short}={level_text(f.key, level)}" for f, level in zip(factors, levels, strict=True))


def companions(records: Sequence[RunRecord], factors: Sequence[Factor]) -> list[str]:
    """Return the other keys that differ between the runs, without those whose values are a factor's own."""

    def copies(key: str) -> bool:
        return any(all(setting(record, key) == factor.level(record) for record in records) for factor in factors)

    return [key for key in varying_keys(records) if not copies(key)]
