"""experiments/identity.py: the same science is the same run, other science another, and the rest does not matter."""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.compose import flatten
from experiments.identity import folder_digest, run_id, run_name, scientific

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


# Golden values: a folder made today is found again by a later version of this project.


def test_the_id_of_a_config_never_changes() -> None:
    assert run_id(CONFIG) == "f82d4d2b"
    assert run_id(with_value(CONFIG, "seed", 2)) == "22c9a73b"


def test_the_scientific_part_is_sorted_and_canonical() -> None:
    assert list(scientific(CONFIG).items()) == [
        ("actor_rollout_ref.actor.optim.betas", [0.9, 0.999]),
        ("actor_rollout_ref.actor.optim.lr", 1e-6),
        ("algorithm.adv_estimator", "grpo"),
        ("algorithm.gamma", 1.0),
        ("algorithm.use_kl_in_reward", False),
        ("data.train_batch_size", 32.0),
        ("kl.coef", 0.001),
        ("kl.type", "low_var_kl"),
        ("model.digest", "0f1e2d3c4b5a"),
        ("model.name", "tiny"),
        ("rollout.n", 5.0),
        ("rollout.temperature", 0.6),
        ("seed", 1.0),
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
    """What a newer veRL adds is scientific until somebody has decided otherwise."""
    assert run_id(with_value(CONFIG, "algorithm.brand_new", None)) != run_id(CONFIG)
    assert run_id(with_value(CONFIG, "task", {})) != run_id(CONFIG)


# On which side of the line a key falls

SCIENTIFIC = [
    "seed",
    "rollout.temperature",
    "rollout.n",
    "temperature.schedule",
    "kl.coef",
    "kl.type",
    "model.name",
    "model.template",
    "model.digest",
    "task.space",
    "task.digest",
    "task.code",
    "task.data_seed",
    "algorithm.adv_estimator",
    "algorithm.gamma",
    "algorithm.lam",
    "algorithm.norm_adv_by_std_in_grpo",
    "algorithm.kl_ctrl.kl_coef",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.optim.clip_grad",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.ppo_epochs",
    "actor_rollout_ref.actor.clip_ratio",
    "actor_rollout_ref.actor.entropy_coeff",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.kl_loss_type",
    "actor_rollout_ref.actor.loss_agg_mode",
    "actor_rollout_ref.rollout.top_p",
    "actor_rollout_ref.rollout.name",
    "actor_rollout_ref.rollout.dtype",
    "actor_rollout_ref.model.custom_chat_template",
    "actor_rollout_ref.model.lora_rank",
    "critic.optim.lr",
    "critic.ppo_mini_batch_size",
    "critic.cliprange_value",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.shuffle",
    "data.seed",
    "reward.custom_reward_function.name",
    "reward.custom_reward_function.reward_kwargs.mode",
    "trainer.critic_warmup",
    "trainer.balance_batch",
]

INCIDENTAL = [
    "runs_dir",
    "data_dir",
    "show",
    "tracking.project",
    "tracking.wandb",
    "hardware.name",
    "hardware.nodes",
    "hardware.gpus_per_node",
    "hardware.fast",
    "model.path",
    "data.train_files",
    "data.val_files",
    "data.dataloader_num_workers",
    "ray_kwargs.ray_init.num_cpus",
    "ray_kwargs.ray_init.num_gpus",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units",
    "trainer.device",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.logger",
    "trainer.project_name",
    "trainer.experiment_name",
    "trainer.default_local_dir",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
    "trainer.save_freq",
    "trainer.max_actor_ckpt_to_keep",
    "trainer.total_training_steps",
    "trainer.total_epochs",
    "trainer.resume_mode",
    "trainer.resume_from_path",
    "trainer.log_val_generations",
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.model.enable_gradient_checkpointing",
    "actor_rollout_ref.model.use_remove_padding",
    "actor_rollout_ref.model.override_config.attn_implementation",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    "actor_rollout_ref.actor.use_dynamic_bsz",
    "actor_rollout_ref.actor.fsdp_config.param_offload",
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.gpu_memory_utilization",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "actor_rollout_ref.rollout.free_cache_engine",
    "actor_rollout_ref.rollout.agent.num_workers",
    "critic.model.path",
    "critic.ppo_micro_batch_size_per_gpu",
    "critic.fsdp.param_offload",
    "reward.num_workers",
    "reward.custom_reward_function.path",
    "reward.custom_reward_function.reward_kwargs.log_every",
    "global_profiler.steps",
]


@pytest.fixture(scope="module")
def config(resolved: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The composed default config, with the content that planning fills in."""
    filled = resolved()
    filled["model"]["digest"], filled["task"]["digest"], filled["task"]["code"] = "0f1e2d", "a1b2c3", "d4e5f6"
    return filled


@pytest.mark.parametrize("key", SCIENTIFIC)
def test_what_can_change_the_result_makes_another_run(config: dict[str, Any], key: str) -> None:
    assert key in dict(flatten(config)), "the key must exist, or the list is out of date"
    assert run_id(with_value(config, key, "something else")) != run_id(config)


@pytest.mark.parametrize("key", INCIDENTAL)
def test_what_can_t_change_the_result_does_not_make_another_run(config: dict[str, Any], key: str) -> None:
    assert key in dict(flatten(config)), "the key must exist, or the list is out of date"
    assert run_id(with_value(config, key, "something else")) == run_id(config)


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


# The name


@pytest.mark.parametrize(
    "changes, name",
    [
        ({}, "grpo,temperature=0.6,n=5,kl=0.001,seed=1"),
        ({"rollout.temperature": 1, "kl.coef": 0}, "grpo,temperature=1,n=5,kl=0,seed=1"),
        ({"rollout.temperature": 1.0, "rollout.n": 8.0}, "grpo,temperature=1,n=8,kl=0.001,seed=1"),
        ({"algorithm.adv_estimator": "gae"}, "ppo,temperature=0.6,n=5,kl=0.001,seed=1"),
        ({"algorithm.adv_estimator": "rloo"}, "rloo,temperature=0.6,n=5,kl=0.001,seed=1"),
        ({"kl.coef": 1e-5}, "grpo,temperature=0.6,n=5,kl=1e-05,seed=1"),
        ({"seed": 12345678}, "grpo,temperature=0.6,n=5,kl=0.001,seed=12345678"),
        ({"rollout.temperature": "a/b c"}, "grpo,temperature=a_b_c,n=5,kl=0.001,seed=1"),
    ],
)
def test_a_run_is_named_by_its_knobs(changes: dict[str, Any], name: str) -> None:
    config = CONFIG
    for key, value in changes.items():
        config = with_value(config, key, value)
    assert run_name(config) == name


@given(st.sampled_from(["rollout.temperature", "kl.coef", "seed"]), st.text())
def test_a_name_is_always_one_safe_folder(key: str, value: str) -> None:
    name = run_name(with_value(CONFIG, key, value))
    assert os.path.basename(name) == name and "\0" not in name
    assert name.count(",") == 4, "a knob's value can't bring in another knob"


# Digests


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "weights" / "sub").mkdir(parents=True)
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "weights" / "sub" / "model.bin").write_bytes(bytes(range(256)))
    folder_digest.cache_clear()  # it remembers a folder for the life of a command
    yield tmp_path / "weights"
    folder_digest.cache_clear()


def digest(folder: Path, pattern: str = "*") -> str:
    folder_digest.cache_clear()
    return folder_digest(folder, pattern)


def test_the_digest_of_a_folder_never_changes(folder: Path) -> None:
    assert digest(folder) == "ceb0efdf42a7"


def test_a_digest_sees_neither_times_nor_places_nor_caches_nor_a_card(folder: Path, tmp_path: Path) -> None:
    before = digest(folder)
    os.utime(folder / "config.json", (1, 1))
    os.chmod(folder / "config.json", 0o600)
    (folder / "sub" / "__pycache__").mkdir()
    (folder / "sub" / "__pycache__" / "reward.cpython-311.pyc").write_bytes(b"compiled")
    (folder / "empty").mkdir()
    for unread in ("README.md", "metrics.json"):
        (folder / unread).write_text("the model's card")
    assert digest(folder) == before
    assert digest(Path(shutil.copytree(folder, tmp_path / "elsewhere"))) == before


def change_a_byte(folder: Path) -> None:
    (folder / "sub" / "model.bin").write_bytes(bytes(range(255)) + b"\0")


def rename(folder: Path) -> None:
    (folder / "config.json").rename(folder / "config.yaml")


def move(folder: Path) -> None:
    (folder / "sub" / "model.bin").rename(folder / "model.bin")


def add_an_empty_file(folder: Path) -> None:
    (folder / "z").touch()


def remove(folder: Path) -> None:
    (folder / "config.json").unlink()


def swap(folder: Path) -> None:
    (folder / "config.json").write_bytes(bytes(range(256)))
    (folder / "sub" / "model.bin").write_text("{}")


@pytest.mark.parametrize("change", [change_a_byte, rename, move, add_an_empty_file, remove, swap])
def test_a_digest_sees_contents_and_names(folder: Path, change: Callable[[Path], None]) -> None:
    before = digest(folder)
    change(folder)
    assert digest(folder) != before


def test_a_pattern_limits_what_counts(folder: Path) -> None:
    (folder / "reward.py").write_text("x = 1\n")
    before = digest(folder, "*.py")
    change_a_byte(folder)
    assert digest(folder, "*.py") == before
    (folder / "reward.py").write_text("x = 2\n")
    assert digest(folder, "*.py") != before
