"""config/sweep_compose.py: the config that it makes from a copy equals the config that Hydra composes from scratch."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from experiments.config.compose import plain
from experiments.config.sweep_compose import Composer
from experiments.config.sweep_jobs import jobs
from experiments.config.verl import numbers_as_verl_has_them
from tests.experiments.conftest import SHIPPED


def hydra_s_own(composer: Composer, overrides: list[str]) -> dict[str, Any]:
    """Return the config that Hydra alone composes; interpolations keep their text."""
    config = plain(composer.loader.load_configuration("config", overrides, RunMode.RUN))
    del config["hydra"]
    return config


ARMS = {
    "nothing": [],
    "a knob": ["rollout.temperature=0.6"],
    "a knob that others refer to": ["rollout.n=8", "seed=3", "kl.coef=0"],
    "a value in the middle of a chain": ["actor_rollout_ref.actor.ppo_mini_batch_size=8"],
    "a list and a text": ["trainer.logger=[file,x]", "data.truncation='a b'"],
    "an interpolation": ["data.max_response_length=${data.max_prompt_length}", "data.max_prompt_length=12"],
    "an interpolation's own place": ["actor_rollout_ref.rollout.temperature=0.3"],
    "a mapping": ["actor_rollout_ref.actor.optim={lr: 1e-5, weight_decay: 0}"],
    "added, forced, deleted": ["+trainer.new=1", "++seed=4", "++data.other=[1]", "~trainer.val_before_train"],
    "set twice": ["seed=2", "seed=5"],
    "a group": ["algorithm=ppo", "kl.coef=0.01"],
    "groups around a value": ["algorithm=ppo", "rollout.n=1", "experiment=smoke"],
    "hydra's own": ["hydra.job.chdir=false", "seed=7"],
    "null": ["actor_rollout_ref.actor.use_kl_loss=null", "data.seed=null"],
    "what a subtree refers to": ["actor_rollout_ref.model.mtp.enable=true", "global_profiler.tool=torch"],
}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_what_hydra_composes(composer: Composer, name: str) -> None:
    overrides = [*SHIPPED, *ARMS[name]]
    composed = composer.compose(overrides)
    wanted = hydra_s_own(composer, overrides)
    assert plain(composed.config) == wanted
    assert composed.resolved() == plain(OmegaConf.create(wanted), resolve=True)


def sweeps_arms() -> list[list[str]]:
    """Return the overrides of every arm of the files of sweeps/, and of a command with commas, each arm once."""
    files = [["sweeps=all,algorithms", "seed=1"], ["sweeps=annealing", "seed=2"]]
    written = [*files, ["algorithm=grpo,ppo", "kl.coef=0,1e-2"]]
    arms = [job[:-1] if "sweeps" in words[0] else job for words in written for job in jobs(words)]
    return [list(arm) for arm in dict.fromkeys(map(tuple, arms))]


def test_every_arm_of_a_sweep_is_what_hydra_composes_for_a_job(composer: Composer) -> None:
    """Hydra's own launchers compose a job from the config of the command that sweeps; so does this test."""
    loader = composer.loader
    command = ["experiment=smoke", "hydra/launcher=plan", *SHIPPED]
    master = loader.load_configuration("config", command, RunMode.MULTIRUN)
    swept = Composer(loader, master)
    arms = sweeps_arms()
    assert (
        len(arms) == 8 + 8 + 3 + 4 + 3
    )  # the shared baseline is written in four ways, by the key that each file varies
    for arm in arms:
        composed = swept.compose(["experiment=smoke", *SHIPPED, *arm])
        wanted = loader.load_sweep_config(master, ["experiment=smoke", *SHIPPED, *arm])
        with open_dict(wanted):
            del wanted["hydra"]
        assert plain(composed.config) == plain(wanted), arm
        assert composed.resolved() == plain(wanted, resolve=True), arm


numbers = st.integers(1, 64) | st.floats(0.001, 9, allow_nan=False)
settable = st.dictionaries(
    st.sampled_from(
        [
            *("seed", "rollout.n", "rollout.temperature", "data.train_batch_size", "tracking.project"),
            *("actor_rollout_ref.actor.ppo_mini_batch_size", "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz"),
            *("actor_rollout_ref.actor.use_dynamic_bsz", "global_profiler.tool", "hardware.gpus_per_node"),
            *("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu", "actor_rollout_ref.actor.strategy"),
        ]
    ),
    numbers | st.sampled_from(["${trainer.test_freq}", "null", "[]", "true", "text"]),
    max_size=5,
)


@settings(max_examples=25)
@given(settable)
def test_any_values_resolve_as_omegaconf_resolves_them(composer: Composer, values: dict[str, Any]) -> None:
    composed = composer.compose([*SHIPPED, *(f"{key}={value}" for key, value in values.items())])
    assert composed.resolved() == plain(composed.config, resolve=True)


def test_every_leaf_can_be_changed_alone(composer: Composer) -> None:
    """What reads a changed leaf changes too. Tried with every 50th leaf and every third leaf that another one reads."""
    groups = composer.compose(SHIPPED).groups
    read = {name for reads in groups.references.values() for name in reads or ()} & set(groups.leaves)
    assert len(read) > 50 and len(groups.references) > 100
    for key in sorted({*sorted(read)[::3], *list(groups.leaves)[::50]}):
        composed = composer.compose([*SHIPPED, f"{key}=3"])
        assert composed.resolved() == plain(composed.config, resolve=True), key


def test_groups_are_composed_once(composer: Composer) -> None:
    one, other = composer.compose([*SHIPPED, "seed=1"]), composer.compose([*SHIPPED, "seed=2"])
    assert one.groups is other.groups
    assert one.config.seed == 1 and other.config.seed == 2, "and no arm sees another's values"


def test_what_is_filled_in_is_resolved_and_is_no_change(composer: Composer) -> None:
    composed = composer.compose([*SHIPPED, "seed=2"])
    composed.fill_in({"trainer.experiment_name": "a name", "model.digest": "d"})
    config = composed.resolved()
    assert config == plain(composed.config, resolve=True)
    assert config["actor_rollout_ref"]["rollout"]["trace"]["experiment_name"] == "a name"
    assert composed.changes == {"seed": 2}


def test_changes_are_what_differs_from_the_groups(composer: Composer) -> None:
    composed = composer.compose(
        [*SHIPPED, "algorithm=ppo", "hardware=cpu", "seed=1", "rollout.temperature=1", "kl={coef: 0.01}", "+a.b=1"]
    )
    assert composed.choices == {"algorithm": "ppo"}
    assert composed.changes == {"kl.coef": 0.01, "a.b": 1}


def test_what_hydra_refuses_is_refused(composer: Composer) -> None:
    for wrong in ("no.such.key=1", "+seed=1", "~no_such_key"):
        with pytest.raises(ConfigCompositionException):
            composer.compose([*SHIPPED, wrong])


def test_a_number_written_as_text_is_one_where_verl_has_a_number() -> None:
    config = {
        "actor_rollout_ref": {"actor": {"optim": {"lr": "1e-6"}, "strategy": "1"}},
        "critic": {"optim": {"lr": "fast"}},
        "trainer": {"total_training_steps": "20", "project_name": "007"},
    }
    assert numbers_as_verl_has_them(config) == {"actor_rollout_ref.actor.optim.lr": 1e-6}


def test_a_whole_number_is_an_integer_where_verl_counts_with_it() -> None:
    config = {
        "actor_rollout_ref": {
            "actor": {"ppo_epochs": 1.0, "ppo_mini_batch_size": "16", "clip_ratio": 1.0, "entropy_coeff": 0.5},
            "rollout": {"n": 5.0, "top_p": "1", "max_num_seqs": 2.5},
        }
    }
    found = numbers_as_verl_has_them(config)
    key = "actor_rollout_ref"
    assert found == {
        f"{key}.actor.ppo_epochs": 1,
        f"{key}.actor.ppo_mini_batch_size": 16,
        f"{key}.rollout.n": 5,
        f"{key}.rollout.top_p": 1,
    }
    assert all(isinstance(value, int) for value in found.values())
