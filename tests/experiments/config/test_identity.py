"""config/identity.py: equal scientific values are the same run, other ones another run; the rest does not matter."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.identity import is_scientific, run_id, scientific
from experiments.config.unread import unread
from experiments.values import flatten

CONFIG: dict[str, Any] = {
    "seed": 1,
    "runs_dir": "/home/me/runs",
    "show": None,
    "rollout": {"temperature": 0.6, "n": 5},
    "kl": {"coef": 0.001, "type": "low_var_kl"},
    "algorithm": {"adv_estimator": "grpo", "gamma": 1.0, "use_kl_in_reward": False},
    "model": {"name": "tiny", "path": "/home/me/weights", "digest": "0f1e2d3c4b5a"},
    "task": {"name": "countdown", "digest": "a1b2c3d4e5f6", "code": None},
    "data": {"train_files": ["/home/me/train.parquet"], "train_batch_size": 32},
    "actor_rollout_ref": {"actor": {"optim": {"lr": 1e-6, "betas": [0.9, 0.999]}, "ppo_micro_batch_size_per_gpu": 16}},
    "trainer": {"total_training_steps": 50, "logger": ["file"], "nnodes": 1},
}


def with_value(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of the config with one dotted key set."""
    changed = copy.deepcopy(config)
    node = changed
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return changed


# Golden values: a later version of this project must find a folder that was made today.


def test_the_id_of_a_config_never_changes() -> None:
    assert run_id(CONFIG) == "1ac20973"
    assert run_id(with_value(CONFIG, "seed", 2)) == "7f191374"


def test_the_scientific_part_is_sorted_and_canonical() -> None:
    assert list(scientific(CONFIG).items()) == [
        ("actor_rollout_ref.actor.optim.betas", [0.9, 0.999]),
        ("actor_rollout_ref.actor.optim.lr", 1e-6),
        ("algorithm.adv_estimator", "grpo"),
        ("algorithm.use_kl_in_reward", False),
        ("data.train_batch_size", 32),
        ("kl.coef", 0.001),
        ("kl.type", "low_var_kl"),
        ("model.digest", "0f1e2d3c4b5a"),
        ("model.name", "tiny"),
        ("rollout.n", 5),
        ("rollout.temperature", 0.6),
        ("seed", 1),
        ("task.code", None),
        ("task.digest", "a1b2c3d4e5f6"),
        ("task.name", "countdown"),
    ]


# Properties


def shuffled(node: Any, rng: random.Random) -> Any:
    if not isinstance(node, dict):
        return node
    keys = list(node)
    rng.shuffle(keys)
    return {key: shuffled(node[key], rng) for key in keys}


@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(rng: random.Random) -> None:
    assert run_id(shuffled(CONFIG, rng)) == run_id(CONFIG)


@given(
    st.sampled_from(["seed", "rollout.n", "kl.coef", "data.train_batch_size", "a.new.key"]),
    st.integers(-(2**53), 2**53),
)
def test_a_whole_number_is_the_same_however_it_is_written(key: str, value: int) -> None:
    assert run_id(with_value(CONFIG, key, value)) == run_id(with_value(CONFIG, key, float(value)))


@pytest.mark.parametrize(
    "spellings", [("0.001", "1e-3", "1.0e-3", "0.00100"), ("1", "1.0", "1e0"), ("[1, 2]", "[1.0,2.]")]
)
def test_a_number_is_the_same_however_it_is_formatted(spellings: tuple[str, ...]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values = [OverridesParser.create().parse_override(f"x={text}").value() for text in spellings]
    assert len({run_id(with_value(CONFIG, "kl.coef", value)) for value in values}) == 1


def test_a_config_is_the_same_after_a_round_trip_through_its_file() -> None:
    for sort in (True, False):
        assert run_id(yaml.safe_load(yaml.safe_dump(CONFIG, sort_keys=sort))) == run_id(CONFIG)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)


@given(st.sampled_from(list(scientific(CONFIG))), scalars)
def test_another_value_is_another_run(key: str, value: Any) -> None:
    """True, 1 and "1" are three values; 1 and 1.0 are one."""
    old = dict(flatten(CONFIG))[key]
    same = value == old and isinstance(value, bool) == isinstance(old, bool)
    assert (run_id(with_value(CONFIG, key, value)) == run_id(CONFIG)) == same


def test_true_one_and_the_text_one_are_three_values() -> None:
    ids = {run_id(with_value(CONFIG, "algorithm.use_kl_in_reward", value)) for value in (True, 1, "1", "True", None)}
    assert len(ids) == 5


def test_a_key_that_is_added_is_another_run() -> None:
    """A key that a newer veRL adds is scientific until somebody decides otherwise."""
    assert run_id(with_value(CONFIG, "algorithm.brand_new", None)) != run_id(CONFIG)
    assert run_id(with_value(CONFIG, "task", {})) != run_id(CONFIG)


def test_numbers_that_no_float_holds_stay_apart() -> None:
    assert run_id(with_value(CONFIG, "seed", 2**53)) != run_id(with_value(CONFIG, "seed", 2**53 + 1))
    assert run_id(with_value(CONFIG, "kl.coef", -0.0)) == run_id(with_value(CONFIG, "kl.coef", 0))


# golden/identity_keys.txt says of every key whether it is scientific. A key that a newer veRL adds makes the test fail
# until somebody has looked at it. `python -m tests.experiments.config.test_identity` writes the file again.

GOLDEN = Path(__file__).parent / "golden" / "identity_keys.txt"


def sides(config: dict[str, Any]) -> str:
    """Return one line per key, sorted: whether changing only its value makes another run."""
    before = scientific(config)
    lines = []
    for key, _ in flatten(config):
        changed = scientific(with_value(config, key, "something else"))
        lines.append(f"{'same run   ' if changed == before else 'another run'}  {key}\n")
    return "".join(sorted(lines))


@pytest.fixture(scope="module")
def config(resolved: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The composed default config, with the content that planning fills in."""
    filled = resolved()
    filled["model"]["digest"], filled["task"]["digest"], filled["task"]["code"] = "0f1e2d", "a1b2c3", "d4e5f6"
    return filled


def test_each_key_falls_on_its_side_of_the_line(config: dict[str, Any]) -> None:
    assert sides(config) == GOLDEN.read_text(encoding="utf-8")


def test_what_is_no_side_of_the_line_by_name_is_none_by_id(config: dict[str, Any]) -> None:
    rng = random.Random(0)
    for key in rng.sample(sorted(dict(flatten(config))), 60):
        counts = is_scientific(key) and not unread(config).fullmatch(key)
        assert (run_id(with_value(config, key, "something else")) != run_id(config)) == counts


def test_a_key_that_the_run_does_not_read_is_no_part_of_it(resolved: Callable[..., dict[str, Any]]) -> None:
    """So a command that compares GRPO with two critics does not pay for its GRPO run twice."""
    for key, value in (("critic.optim.lr", "1e-5"), ("algorithm.lam", "0.9"), ("algorithm.kl_ctrl.kl_coef", "0.1")):
        grpo, ppo = resolved(f"{key}={value}"), resolved("algorithm=ppo", f"{key}={value}")
        assert run_id(grpo) == run_id(resolved()) and run_id(ppo) != run_id(resolved("algorithm=ppo")), key


def test_the_same_run_has_the_same_id_wherever_it_is_asked_for(config: dict[str, Any]) -> None:
    elsewhere = copy.deepcopy(config)
    moves = {
        "runs_dir": "/scratch/runs",
        "model.path": "/scratch/weights",
        "actor_rollout_ref.model.path": "/scratch/weights",
        "critic.model.path": "/scratch/weights",
        "data.train_files": "/scratch/train.parquet",
        "reward.custom_reward_function.path": "/scratch/code/reward.py",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path": "/scratch/code/agent_loops.yaml",
        "trainer.default_local_dir": "/scratch/runs/x/checkpoints",
        "trainer.n_gpus_per_node": 2,
        "hardware.gpus_per_node": 2,
        "trainer.total_training_steps": 500,
    }
    for key, value in moves.items():
        elsewhere = with_value(elsewhere, key, value)
    assert run_id(elsewhere) == run_id(config)
    assert not [value for value in scientific(elsewhere).values() if isinstance(value, str) and value.startswith("/")]


if __name__ == "__main__":
    from experiments.config.compose import compose_config, plain
    from tests.experiments.conftest import SHIPPED

    composed = plain(compose_config(SHIPPED), resolve=True)
    for node, name in (("model", "digest"), ("task", "digest"), ("task", "code")):
        composed[node][name] = "filled in"
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(sides(composed), encoding="utf-8")
