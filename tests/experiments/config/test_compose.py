"""config/compose.py, config/verl.py and the shipped conf/: every file composes, and veRL's command says the same."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config.compose import compose_config, verl_config_dir
from experiments.config.hydra_internals import hydra_in
from experiments.config.overrides import check_overrides
from experiments.config.verl import OUR_NODES, OURS_ALONE, _grammar, verl_arguments, verl_node
from experiments.errors import UserError
from experiments.project import CONFIG_DIR, PROJECT_DIR
from experiments.values import flatten
from experiments.verl_keys import has_critic
from hydra_plugins.ablations import VerlConfigSource

Compose = Callable[..., DictConfig]
Resolve = Callable[..., dict[str, Any]]


def choices(group: str) -> list[str]:
    """Return the names of a group's shipped files."""
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))


# Without conf/local/, which is the user's own, and the files of the folder itself, which every test composes.
FILES = sorted(
    file.relative_to(CONFIG_DIR).with_suffix("").as_posix()
    for file in CONFIG_DIR.rglob("*.yaml")
    if file.parent not in (CONFIG_DIR, CONFIG_DIR / "local")
)
COMBINED = ("algorithm", "model", "hardware")
ALONE = [name for name in FILES if name.split("/")[0] not in COMBINED]
COMBINATIONS = [  # not all, which are thousands: the presets of GPUs, and most algorithms, differ only in numbers
    *itertools.product(["grpo", "ppo"], choices("model"), ["cpu", "a100x2"]),
    *((algorithm, "tiny", "cpu") for algorithm in choices("algorithm") if algorithm not in ("grpo", "ppo")),
    *(("grpo", "qwen2.5-3b", hardware) for hardware in choices("hardware") if hardware not in ("cpu", "a100x2")),
]

# Keys that conf/ adds to veRL's tree on purpose: veRL reads them, but its own files don't have them.
ADDED = re.compile(
    r"actor_rollout_ref\.(actor|ref)\.fsdp_config\.mixed_precision\..*"
    r"|critic\.fsdp\.mixed_precision\..*"
    r"|(actor_rollout_ref|critic)\.model\.override_config\.attn_implementation"
    r"|critic\.model\.custom_chat_template"
    r"|critic\.ppo_infer_max_token_len_per_gpu"
    r"|actor_rollout_ref\.rollout\.custom\.temperature\..*"
    r"|actor_rollout_ref\.rollout\.engine_kwargs\.vllm\..*"
    r"|reward\.(custom_reward_function\.)?reward_kwargs\..*"
    r"|ray_kwargs\.ray_init\.(num_gpus|include_dashboard)"
)


def verl_compose(*overrides: str) -> dict[str, Any]:
    """Return the config of veRL's own command, without our part; without overrides, interpolations keep their text."""
    with initialize_config_dir(verl_config_dir(), version_base="1.3"):
        config = OmegaConf.to_container(compose("ppo_trainer", overrides=list(overrides)), resolve=bool(overrides))
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def verl_tree() -> dict[str, Any]:
    return verl_compose()


def nodes(tree: dict[str, Any], prefix: str = "") -> set[str]:
    """Return every dotted key of a tree, inner ones included."""
    found = set()
    for key, value in tree.items():
        found.add(f"{prefix}{key}")
        if isinstance(value, dict):
            found |= nodes(value, f"{prefix}{key}.")
    return found


# What is shipped


def test_the_groups_are_the_documented_ones() -> None:
    groups = {name.rsplit("/", 1)[0] for name in FILES}
    assert {
        "algorithm",
        "temperature",
        "rollout",
        "kl",
        "model",
        "task",
        "hardware",
        "tracking",
        "experiment",
    } <= groups
    assert {"grpo", "ppo"} <= set(choices("algorithm"))


@pytest.mark.parametrize("algorithm, model, hardware", COMBINATIONS)
def test_every_combination_composes_and_resolves(resolved: Resolve, algorithm: str, model: str, hardware: str) -> None:
    config = resolved(f"algorithm={algorithm}", f"model={model}", f"hardware={hardware}")
    assert "???" not in [value for key, value in flatten(config) if key.split(".")[0] in OUR_NODES]
    assert config["model"]["name"] == model and config["hardware"]["name"] == hardware
    assert config["actor_rollout_ref"]["model"]["path"] == config["critic"]["model"]["path"] == config["model"]["path"]
    assert config["trainer"]["n_gpus_per_node"] == config["hardware"]["gpus_per_node"]
    assert has_critic(config) == (algorithm == "ppo")
    if hardware.startswith(("a", "h")):  # vLLM on GPUs: what speed needs, beside the placement
        assert config["trainer"]["save_freq"] == 50
        assert config["data"]["val_batch_size"] is None, "veRL answers all validation rows in one wave"
        processes = (config["actor_rollout_ref"]["rollout"]["agent"]["num_workers"], config["reward"]["num_workers"])
        assert processes == (4, 2)


@pytest.mark.parametrize(("model", "begins"), [("llama3.2-3b", ["<first>"]), ("qwen3-4b", [])])
def test_a_llama_s_prompt_begins_with_its_first_token(resolved: Resolve, model: str, begins: list[str]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<first>": 0, "a": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<first>")
    template = resolved(f"model={model}")["actor_rollout_ref"]["model"]["custom_chat_template"]
    ids = tokenizer.apply_chat_template([{"content": " a a"}], chat_template=template, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(ids) == [*begins, "a", "a"]


@pytest.mark.parametrize("file", ALONE)
def test_every_file_composes_and_resolves(resolved: Resolve, file: str) -> None:
    group, name = file.rsplit("/", 1)
    config = resolved(f"{group}={name}")
    own = yaml.safe_load((CONFIG_DIR / f"{file}.yaml").read_text())
    own.pop("defaults", None)
    if not group.startswith("hydra"):
        is_global = (CONFIG_DIR / f"{file}.yaml").read_text().startswith("# @package _global_")
        assert nodes(own if is_global else {group: own}) <= nodes(config)


@pytest.mark.parametrize("file", ["config", *FILES])
def test_every_file_writes_into_keys_that_verl_has(verl_tree: dict[str, Any], file: str) -> None:
    """A YAML file may add keys, so Hydra composes a misspelt one: this test catches it."""
    text = (CONFIG_DIR / f"{file}.yaml").read_text()
    own = yaml.safe_load(text)
    if file != "config" and not text.startswith("# @package _global_"):
        assert file.split("/")[0] in (*OUR_NODES, "hydra")
        return
    known = nodes(verl_tree)
    unknown = [
        key
        for key, _ in flatten(own)
        if key.split(".")[0] not in (*OUR_NODES, "hydra", "defaults") and key not in known and not ADDED.fullmatch(key)
    ]
    assert unknown == []


def test_seed_and_knobs_reach_every_key_they_stand_for(resolved: Resolve) -> None:
    config = resolved("seed=7", "rollout.temperature=0.6", "rollout.n=8")
    rollout = config["actor_rollout_ref"]["rollout"]
    assert (rollout["temperature"], rollout["n"]) == (0.6, 8)
    assert rollout["val_kwargs"]["temperature"] == 1.0, "validation is sampled alike in all arms"
    seeds = [
        value for key, value in flatten(verl_node(config)) if re.search(r"(^|[._])seed$", key) and value is not None
    ]
    assert seeds.count(7) >= 6 and config["data"]["seed"] == rollout["seed"] == 7


KL = [
    # algorithm, coefficient -> use_kl_loss, kl_loss_coef, kl_loss_type, use_kl_in_reward, kl_ctrl.kl_coef, kl_penalty
    ("grpo", 0.01, (True, 0.01, "low_var_kl", False, None, None)),
    ("grpo", 0, (False, 0, "low_var_kl", False, None, None)),
    ("ppo", 0.01, (False, None, None, True, 0.01, "kl")),
    ("ppo", 0, (False, None, None, False, 0, "kl")),
]


@pytest.mark.parametrize("algorithm, coefficient, expected", KL)
def test_the_algorithm_and_the_coefficient_decide_where_the_kl_term_goes(
    resolved: Resolve, algorithm: str, coefficient: float, expected: tuple[Any, ...]
) -> None:
    config = resolved(f"algorithm={algorithm}", f"kl.coef={coefficient}")
    actor, section = config["actor_rollout_ref"]["actor"], config["algorithm"]
    got = (
        actor["use_kl_loss"],
        actor["kl_loss_coef"],
        actor["kl_loss_type"],
        section["use_kl_in_reward"],
        section["kl_ctrl"]["kl_coef"],
        section["kl_penalty"],
    )
    assert [value for value, wanted in zip(got, expected, strict=True) if wanted is not None] == [
        wanted for wanted in expected if wanted is not None
    ]
    assert not (actor["use_kl_loss"] and section["use_kl_in_reward"]), "never twice"


def test_the_place_of_veRL_s_config_is_found_without_importing_verl() -> None:
    code = (
        "import json, sys\n"
        "from experiments.config.compose import verl_config_dir\n"
        "folder = verl_config_dir()\n"
        "heavy = {'verl', 'torch', 'ray', 'transformers', 'wandb'} & set(sys.modules)\n"
        "print(json.dumps([folder, sorted(heavy)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    folder, heavy = json.loads(done.stdout)
    assert heavy == []
    assert (Path(folder) / "ppo_trainer.yaml").is_file()


def test_veRL_s_files_are_read_once_and_are_what_they_were_each_time(verl_tree: dict[str, Any]) -> None:
    folder = verl_config_dir()
    once, anew = VerlConfigSource("main", f"verl://{folder}"), FileConfigSource("main", f"file://{folder}")
    for path in Path(folder).rglob("*.yaml"):
        name = str(path.relative_to(folder))
        expected = anew.load_config(name)
        for _ in range(2):
            result = once.load_config(name)
            assert OmegaConf.to_container(result.config) == OmegaConf.to_container(expected.config)
            assert (result.header, result.provider) == (expected.header, expected.provider)
            with open_dict(result.config):  # as Hydra does with the defaults list
                for key in list(result.config.keys()):
                    del result.config[key]
    with hydra_in(f"verl://{folder}"):
        assert OmegaConf.to_container(compose("ppo_trainer")) == verl_tree


def test_without_verl_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"verl must be installed, but is not; do: make install"):
        verl_config_dir()


# Overriding


def changed(value: Any, rng: random.Random) -> Any:
    """Return another value of the same type as `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + rng.randint(1, 9)
    if isinstance(value, list):
        return ["a", "b c", 3]
    return "another value"


def test_every_kind_of_verl_key_can_be_overridden(verl_tree: dict[str, Any]) -> None:
    """One command line with ten keys of each type, from all over veRL's tree."""
    rng = random.Random(0)
    by_type: dict[type, list[tuple[str, Any]]] = {}
    for key, value in flatten(verl_tree):
        unsettled = isinstance(value, str) and ("${" in value or value == "???")
        if key.split(".")[0] not in (*OUR_NODES, "hydra") and not unsettled and not isinstance(value, dict):
            by_type.setdefault(type(value), []).append((key, value))
    assert {bool, int, float, str, list, type(None)} <= set(by_type)
    wanted = {
        key: changed(value, rng)
        for leaves in by_type.values()
        for key, value in rng.sample(leaves, min(10, len(leaves)))
    }
    assert len(wanted) >= 30
    overrides = [f"{key}={_grammar(value)}" for key, value in wanted.items()]
    check_overrides(overrides)
    composed = dict(flatten(OmegaConf.to_container(compose_config(overrides), resolve=False)))
    assert {key: composed[key] for key in wanted} == wanted


# The way back to veRL's own command


def plainly(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config of veRL's without what its own command has otherwise: its folder, and epochs without end."""
    own = {key.removeprefix("trainer.") for key in OURS_ALONE} | {"total_epochs"}
    return {**config, "trainer": {key: value for key, value in config["trainer"].items() if key not in own}}


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=grpo",),
        ("algorithm=ppo", "kl.coef=0.01"),
        ("model=qwen2.5-3b", "hardware=a100x2"),
        ("experiment=article_ppo",),
    ],
    ids=["cpu, grpo", "cpu, ppo", "GPUs", "article"],
)
def test_verl_s_own_command_composes_the_same_config(
    composed: Compose, resolved: Resolve, verl_tree: dict[str, Any], overrides: tuple[str, ...]
) -> None:
    arguments = verl_arguments(composed(*overrides))
    assert plainly(verl_compose(*arguments)) == plainly(verl_node(resolved(*overrides)))
    assert verl_compose(*arguments)["trainer"]["total_epochs"] > resolved(*overrides)["trainer"]["total_training_steps"]
    keys = [argument.split("=")[0] for argument in arguments]
    assert len(keys) == len(set(keys)), "each key once"
    added = [key.removeprefix("+") for key in keys if key.startswith("+")]
    assert all(ADDED.fullmatch(key) for key in added)
    assert not [key for key in keys if key.split(".")[0] in OUR_NODES]


def test_what_is_set_on_the_command_line_is_in_verl_s_command() -> None:
    """The values contain every character that Hydra's grammar treats specially."""
    name = 'a, b=c: {d} [e] $f #g "h" (i) é \\ j'
    config = compose_config(
        [
            f"trainer.project_name='{name}'",
            "actor_rollout_ref.model.custom_chat_template='line 1\nline \"2\"\\n'",
            "trainer.logger=['file','x y','null','1.5','']",
            "trainer.experiment_name='1e-3'",
            "+trainer.new={a: 1, b: [x, 'y z']}",
        ]
    )
    ours = OmegaConf.to_container(config, resolve=True)
    assert isinstance(ours, dict) and ours["trainer"]["project_name"] == name
    assert plainly(verl_compose(*verl_arguments(config))) == plainly(verl_node(ours))


texts = st.text(st.characters(exclude_categories=("Cs",))) | st.from_regex(r"[-+./\w@\\\"' ]{0,8}", fullmatch=True)
values = st.recursive(
    st.one_of(texts, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(values)
def test_any_value_survives_hydra_s_grammar(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(f"key={_grammar(value)}").value()
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "text", ["null", "True", "NaN", "inf", "1", "1.5", ".5", "1e3", "", " ", "a b", "a\\", '"', "'", "\n", "é"]
)
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    assert OverridesParser.create().parse_override(f"key={_grammar(text)}").value() == text
