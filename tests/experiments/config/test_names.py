"""config/names.py: a name says what differs from the baseline, in a fixed order, and is a safe folder name."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.identity import canonical, is_scientific
from experiments.config.names import PATHS, arm_name, arm_parts, parts_of_arms, run_name

# Some keys of the config, among them several that end alike.
KNOWN = (
    *("rollout.temperature", "rollout.n", "kl.coef", "seed", "data.shuffle", "critic.shuffle", "model.path"),
    *("actor_rollout_ref.rollout.n", "actor_rollout_ref.rollout.val_kwargs.n", "actor_rollout_ref.actor.optim.lr"),
    *("critic.optim.lr", "actor_rollout_ref.actor.clip_ratio_high", "actor_rollout_ref.model.path", "temperature.end"),
)
CASES: list[tuple[dict[str, str], dict[str, Any], str]] = [
    ({}, {}, "baseline"),
    ({}, {"seed": 3}, "baseline"),
    ({}, {"rollout.temperature": 0.6}, "temperature=0.6"),
    ({}, {"rollout.temperature": 1.0, "rollout.n": 8, "kl.coef": 0}, "temperature=1,n=8,kl=0"),
    ({"algorithm": "ppo"}, {"kl.coef": 1e-5}, "algorithm=ppo,kl=1e-05"),
    ({"algorithm": "ppo", "model": "qwen2.5-3b"}, {}, "model=qwen2.5-3b,algorithm=ppo"),
    ({"temperature": "linear"}, {"temperature.end": 0.6}, "schedule=linear,end=0.6"),
    ({}, {"actor_rollout_ref.actor.clip_ratio_high": 0.28}, "clip_ratio_high=0.28"),
    (
        {},
        {"critic.optim.lr": 1e-3, "actor_rollout_ref.actor.optim.lr": 1e-4, "data.shuffle": False},
        "actor.optim.lr=0.0001,critic.optim.lr=0.001,data.shuffle=False",
    ),
    # two keys never go by one name, whichever of them an arm sets
    ({}, {"actor_rollout_ref.rollout.val_kwargs.n": 4}, "val_kwargs.n=4"),
    ({}, {"actor_rollout_ref.rollout.n": 4}, "actor_rollout_ref.rollout.n=4"),
    ({}, {"critic.optim.lr": 1e-3}, "critic.optim.lr=0.001"),
    # what is known by its content goes by its path
    ({}, {"model.path": "Qwen/Qwen2.5-3B"}, "model.path=Qwen_Qwen2.5-3B"),
    ({}, {"model.path": "/models/mine/step-100"}, "model.path=_models_mine_step-100"),
    # where a run executes, what it writes and how many steps it has are not in its name
    ({"hardware": "a100x2", "tracking": "none", "local": "null", "hydra/launcher": "plan"}, {}, "baseline"),
    ({}, {"runs_dir": "/x", "trainer.total_training_steps": 3, "trainer.save_freq": 1}, "baseline"),
]


@pytest.mark.parametrize("choices, changes, name", CASES)
def test_an_arm_is_named_by_what_differs(choices: dict[str, str], changes: dict[str, Any], name: str) -> None:
    assert arm_name(arm_parts(choices, changes, KNOWN)) == name


def test_the_order_of_the_overrides_does_not_matter() -> None:
    changes = {"kl.coef": 0, "data.shuffle": True, "rollout.n": 3, "rollout.temperature": 0.6}
    names = {arm_name(arm_parts({}, dict(order), KNOWN)) for order in itertools.permutations(changes.items())}
    assert names == {"temperature=0.6,n=3,kl=0,data.shuffle=True"}


@given(st.sampled_from(KNOWN), st.sampled_from(KNOWN))
def test_two_keys_never_have_one_name(one: str, other: str) -> None:
    parts = [arm_parts({}, {key: 4}, KNOWN) for key in (one, other)]
    assert one == other or parts[0] != parts[1] or parts == [[], []]


def test_the_seed_stands_last() -> None:
    assert run_name("temperature=0.6", 1) == "temperature=0.6,seed=1"
    assert run_name("baseline", 12345678) == "baseline,seed=12345678"


@given(st.dictionaries(st.from_regex(r"[a-z.]{1,30}", fullmatch=True), st.text() | st.floats()), st.text())
def test_a_name_is_always_one_folder(changes: dict[str, Any], seed: str) -> None:
    name = run_name(arm_name(arm_parts({}, changes, KNOWN)), seed)
    assert os.path.basename(name) == name and name.isascii() and name.isprintable()
    assert len(name) + len("-01234567") < 255


@given(st.text(), st.text())
def test_a_value_can_t_bring_in_another_part(value: str, seed: str) -> None:
    assert run_name(arm_name(arm_parts({}, {"data.shuffle": value}, KNOWN)), seed).count(",") == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=150)
SIMILAR = ["1", 1, True, "True", None, "None", 1e-4, 1.0000000000001e-4, "a b", "a_b", "/a/b", "/a_b", "a/b", "deleted"]
KEYS = (*KNOWN, "x.end", "y.end", "data.train_files")
CHANGES = st.dictionaries(st.sampled_from(KEYS), SCALARS | st.sampled_from(SIMILAR), max_size=3)
GROUPS = ("model", "hardware", "local", "kl", "mine")
CHOICES = st.dictionaries(st.sampled_from(GROUPS), st.sampled_from(("a", "b", "a b")))


@given(st.lists(st.tuples(CHOICES, CHANGES), min_size=2, max_size=4))
def test_every_arm_of_a_command_has_a_name_of_its_own(arms: list[tuple[dict[str, str], dict[str, Any]]]) -> None:
    """Equal names mean equal settings, the seed apart: whatever is long, is folded, or is a text like a number."""
    names = [arm_name(parts) for parts in parts_of_arms([(choices, changes, KNOWN) for choices, changes in arms])]
    for (one, name), (other, same) in itertools.combinations(zip(arms, names, strict=True), 2):
        assert (name == same) == (settings(*one) == settings(*other))


def settings(choices: dict[str, str], changes: dict[str, Any]) -> str:
    counting = {
        key: canonical(value)
        for key, value in changes.items()
        if key != "seed" and (is_scientific(key) or key in PATHS)
    }
    return json.dumps([choices, counting], sort_keys=True)


ALONE = [
    ({"data.shuffle": "1"}, {"data.shuffle": 1}),
    ({"data.shuffle": "a b"}, {"data.shuffle": "a_b"}),
    ({"data.shuffle": "x" * 120 + "1"}, {"data.shuffle": "x" * 120 + "2"}),
    ({"model.path": "/a/x/m"}, {"model.path": "/b/x/m"}),
    ({"model.path": "/a/b_c"}, {"model.path": "/a/b/c"}),
    ({"kl.coef": 1e-3}, {"kl.coef": 1.00000000000001e-3}),
    ({"x.end": 1}, {"y.end": 1}),
]


@pytest.mark.parametrize(("one", "other"), ALONE)
def test_two_commands_give_different_arms_different_names(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The name is W&B's group, so it must not depend on what else a command asks for."""
    assert arm_name(arm_parts({}, one, KNOWN)) != arm_name(arm_parts({}, other, KNOWN))
