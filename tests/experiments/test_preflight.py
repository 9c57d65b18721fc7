"""experiments/preflight.py: each thing a user may get wrong, told as what must be, what is, and what to do."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from experiments import model_folder, preflight
from experiments.batches import batch_problems
from experiments.compose import CONFIG_DIR, PROJECT_DIR, override, register_resolvers
from experiments.composer import Composer
from experiments.errors import UserError
from experiments.identity import flatten
from experiments.knobs import knob_problems
from experiments.memory import Shape
from tests.experiments.conftest import SHIPPED

Config = dict[str, Any]
Make = Callable[..., Config]


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Return a copy of a config with some dotted keys set."""
    changed = copy.deepcopy(config)
    for key, value in values.items():
        node = changed
        *parents, last = key.split(".")
        for part in parents:
            node = node[part]
        assert last in node, f"{key} must exist"
        node[last] = value
    return changed


def write_rows(file: Path, count: int, words: int = 6, **columns: list[Any]) -> Path:
    """Write veRL rows whose prompts have `words` tokens; `columns` replace or add some."""
    rows = {
        "data_source": ["countdown"] * count,
        "prompt": [[{"role": "user", "content": " ".join(["w"] * words)}]] * count,
        "reward_model": [{"style": "rule", "ground_truth": {"target": 3, "numbers": [1, 2]}}] * count,
    }
    table = pa.table({**rows, **columns})
    parquet.write_table(table, file)
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and data that a config can point at."""
    folder = tmp_path_factory.mktemp("preflight")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    tokenizer = Tokenizer(WordLevel({"w": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(model / "tokenizer.json"))
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, model / "model.safetensors", metadata={"format": "pt"})
    write_rows(folder / "train.parquet", 64)
    write_rows(folder / "test.parquet", 8)
    return folder


@pytest.fixture(scope="module")
def make(resolved: Callable[..., Config], files: Path) -> Make:
    """Make a config that is right, or right but for some values."""
    base = with_values(
        resolved(),
        {
            "model.path": str(files / "model"),
            "data.train_files": str(files / "train.parquet"),
            "data.val_files": str(files / "test.parquet"),
        },
    )
    return lambda **values: with_values(base, {key.replace("__", "."): value for key, value in values.items()})


def the_problem(config: Config) -> str:
    (problem,) = preflight.problems_of(config)
    return problem


def test_a_good_config_has_no_problems(make: Make) -> None:
    assert preflight.problems_of(make()) == []


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        yield Composer.of_running_hydra()


def values(group: str, name: str, root: str) -> dict[str, Any]:
    """Return what a file of a group sets beyond the root of its defaults: only values of the group's own node."""
    if name == root:
        return {}
    file = yaml.safe_load((CONFIG_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))
    (parent, itself) = file.pop("defaults")
    assert itself == "_self_" and set(file) == {group}, f"{name} must be {root} with other numbers"
    return {**values(group, parent, root), **dict(flatten(file))}


GPUS = [name for name in choices("hardware") if name not in ("cpu", "cpu_vllm", "cuda")]
MODELS = [name for name in choices("model") if name != "tiny"]
TOO_LARGE = {(model, f"{gpu}x1") for model in ["qwen2.5-7b"] for gpu in ("a100", "h100")}


@pytest.mark.parametrize("algorithm", choices("algorithm"))
def test_every_preset_of_gpus_fits_every_model(composer: Composer, algorithm: str) -> None:
    """Before their data are made. What can't fit is said to need more GPUs."""
    assert len(MODELS) == 5 and len(GPUS) == 15
    common = (*SHIPPED, "model=qwen2.5-3b", "hardware=a100x2", f"algorithm={algorithm}")
    known: dict[tuple[Any, ...], list[str]] = {}
    for model, hardware in itertools.product(MODELS, GPUS):
        chosen = {**values("model", model, "qwen2.5-3b"), **values("hardware", hardware, "a100x2")}
        sizes = {key: value for key, value in chosen.items() if key not in UNSIZED and value is not None}
        if (size := tuple(sorted(sizes.items()))) not in known:
            composed = composer.compose([*common, *(override(key, value) for key, value in sizes.items())])
            known[size] = preflight.problems_of(composed.resolved())
        if (model, hardware) in TOO_LARGE:
            assert known[size] and all("; take more GPUs, set hardware.gpus_per_node=2" in one for one in known[size])
        else:
            assert known[size] == [], (model, hardware)
    assert len(known) == len(MODELS) * 10, "an H100 has an A100's memory"


UNSIZED = ("hardware.name", "hardware.resources", "hardware.seconds_per_step")


@pytest.mark.parametrize("algorithm", choices("algorithm"))
def test_the_default_has_no_problems(resolved: Callable[..., Config], algorithm: str) -> None:
    assert preflight.problems_of(resolved(f"algorithm={algorithm}")) == []


@pytest.mark.parametrize("experiment", [name for name in choices("experiment") if name != "article_settings"])
def test_every_experiment_has_no_problems(composer: Composer, experiment: str) -> None:
    assert preflight.problems_of(composer.compose([*SHIPPED, f"experiment={experiment}"]).resolved()) == []


# Single values

NUMBERS = {
    "rollout.temperature": ("a number above 0", "try 1.0"),
    "rollout.n": ("a whole number of at least 1", "try 5"),
    "kl.coef": ("a number of at least 0", "try 0.001, or 0 for no KL term"),
    "seed": ("a whole number of at least 0", "try 1"),
    "trainer.total_training_steps": ("a whole number of at least 1", "try 50"),
    "data.train_batch_size": ("a whole number of at least 1", "try a power of two"),
    "data.max_prompt_length": ("a whole number of at least 1", "try a power of two"),
    "data.max_response_length": ("a whole number of at least 1", "try a power of two"),
    "actor_rollout_ref.actor.ppo_mini_batch_size": ("a whole number of at least 1", "try 16"),
    "hardware.gpus_per_node": ("a whole number of at least 1", "try 1"),
    "hardware.nodes": ("a whole number of at least 1", "try 1"),
    "task.train_size": ("a whole number of at least 1", "try 1000"),
    "task.test_size": ("a whole number of at least 1", "try 1000"),
    "task.data_seed": ("a whole number of at least 0", "try 0"),
}
NOT_NUMBERS = ["five", None, True, [1], -1, float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("key", NUMBERS)
def test_a_value_out_of_range_is_named_with_what_to_try(make: Make, key: str) -> None:
    kind, do = NUMBERS[key]
    bad = list(NOT_NUMBERS)
    if kind.startswith("a whole"):
        bad.append(2.5)
    if not kind.endswith("at least 0"):
        bad.append(0)
    for value in bad:
        problem = the_problem(with_values(make(), {key: value}))
        assert problem == f"{key} must be {kind}, but is {value!r}; {do}"


@pytest.mark.parametrize("key", NUMBERS)
def test_the_smallest_value_allowed_is_allowed(make: Make, key: str) -> None:
    kind, _ = NUMBERS[key]
    smallest = 0 if kind.endswith("at least 0") else 1e-3 if kind.endswith("above 0") else 1
    assert knob_problems(with_values(make(), {key: smallest})) == []
    if kind.startswith("a whole"):
        assert knob_problems(with_values(make(), {key: 3.0})) != [], "veRL's loops count with integers only"


@pytest.mark.parametrize("key", ["trainer.nnodes", "trainer.n_gpus_per_node"])
@pytest.mark.parametrize("value", [0, -1, "two"])
def test_veRL_s_own_number_of_ranks_is_checked_too(make: Make, key: str, value: Any) -> None:
    assert the_problem(with_values(make(), {key: value})).startswith(
        f"{key} must be a whole number of at least 1, but is"
    )


def test_show_has_four_values(make: Make) -> None:
    assert the_problem(make(show="cfg")) == "show must be config, verl, plan or json, but is 'cfg'; leave it out to run"
    for good in (None, "config", "verl", "plan", "json"):
        assert preflight.problems_of(make(show=good)) == []


@pytest.mark.parametrize("value", ["wandb", ["console"], None])
def test_metrics_go_to_the_file_that_figures_are_drawn_from(make: Make, value: Any) -> None:
    assert the_problem(make(trainer__logger=value)).startswith("trainer.logger must be a list with file in it, ")
    assert preflight.problems_of(make(trainer__logger=["console", "file"])) == []


@pytest.mark.parametrize("value", [None, "", 3])
@pytest.mark.parametrize("key", ["runs_dir", "data_dir"])
def test_folders_are_texts(make: Make, key: str, value: Any) -> None:
    problem = the_problem(with_values(make(), {key: value}))
    assert problem == f"{key} must be a folder, but is {value!r}; leave it out, or set {key}=/a/path"


@pytest.mark.parametrize("key", ["actor_rollout_ref.actor.optim.lr", "critic.optim.lr"])
def test_a_learning_rate_is_no_negative_number(make: Make, key: str) -> None:
    for value in (-1e-6, "fast", None, float("inf")):
        assert the_problem(with_values(make(), {key: value})) == (
            f"{key} must be a number of at least 0, but is {value!r}; try 1e-6"
        )
    assert preflight.problems_of(with_values(make(), {key: 0})) == []


def test_all_problems_are_told_at_once(make: Make, tmp_path: Path) -> None:
    config = make(rollout__temperature=0, rollout__n=0, seed=-1)
    keys = [problem.split(" must ")[0] for problem in preflight.problems_of(config)]
    assert keys == ["rollout.temperature", "rollout.n", "seed"]
    config = make(
        rollout__n=1,
        actor_rollout_ref__rollout__n=1,
        model__path="/no/such/model",
        data__val_files=str(tmp_path / "missing.parquet"),
    )
    keys = [problem.split(" must ")[0] for problem in preflight.problems_of(config)]
    assert keys == ["rollout.n", "model.path", "data.val_files"]


# Sizes


def sizes(make: Make, batch: int = 32, n: int = 5, mini: int = 16, gpus: int = 1, **values: Any) -> Config:
    return make(
        data__train_batch_size=batch,
        rollout__n=n,
        actor_rollout_ref__rollout__n=n,
        actor_rollout_ref__actor__ppo_mini_batch_size=mini,
        critic__ppo_mini_batch_size=mini,
        hardware__gpus_per_node=gpus,
        trainer__n_gpus_per_node=gpus,
        **values,
    )


MINI = "actor_rollout_ref.actor.ppo_mini_batch_size"
ACTOR = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
ROLLOUT = "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"
REF = "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"
CRITIC = "critic.ppo_micro_batch_size_per_gpu"
DYNAMIC = {
    "actor_rollout_ref__actor__use_dynamic_bsz": True,
    "actor_rollout_ref__rollout__log_prob_use_dynamic_bsz": True,
    "actor_rollout_ref__ref__log_prob_use_dynamic_bsz": True,
    "critic__use_dynamic_bsz": True,
}


PADDED = ": veRL would fill the last mini-batch with padding"


def test_a_group_of_one_is_refused_for_grpo_only(make: Make) -> None:
    assert the_problem(sizes(make, n=1)) == (
        "rollout.n must be at least 2 with GRPO, but is 1: a group of one has no mean to compare with "
        "(it would silently be REINFORCE); set rollout.n=5 or algorithm=ppo"
    )
    ppo = preflight.problems_of(sizes(make, n=1, algorithm__adv_estimator="gae"))
    assert not any("GRPO" in problem for problem in [*ppo, *preflight.problems_of(sizes(make, n=2))])


@pytest.mark.parametrize(
    "chosen, problem",
    [
        (
            {"batch": 30, "n": 5, "mini": 30, "gpus": 4},
            "data.train_batch_size x rollout.n must be a multiple of the 4 GPUs, but is 30 x 5; "
            "set data.train_batch_size=32",
        ),
        ({"batch": 8}, f"{MINI} must be at most data.train_batch_size=8, but is 16; set {MINI}=8"),
        ({"batch": 40}, f"data.train_batch_size must be a multiple of {MINI}=16, but is 40{PADDED}; set {MINI}=10"),
        (
            {"batch": 10**12, "mini": 3},
            f"data.train_batch_size must be a multiple of {MINI}=3, but is {10**12}{PADDED}; set {MINI}=2",
        ),
        (
            {"batch": 13, "mini": 5},
            f"data.train_batch_size must be a multiple of {MINI}=5, but is 13{PADDED}; set {MINI}=1",
        ),
        (
            {"batch": 6, "n": 5, "mini": 3, "gpus": 2},
            f"{MINI} x rollout.n must be a multiple of the 2 GPUs, but is 3 x 5; set {MINI}=2",
        ),
    ],
)
def test_batches_that_do_not_divide(make: Make, chosen: dict[str, int], problem: str) -> None:
    assert batch_problems(sizes(make, **chosen, **DYNAMIC)) == [problem]


@pytest.mark.parametrize(
    "values, problem",
    [
        ({ACTOR: 32}, f"{ACTOR} must divide the 80 samples of a GPU, but is 32; set {ACTOR}=20"),
        ({ACTOR: 100}, f"{ACTOR} must divide the 80 samples of a GPU, but is 100; set {ACTOR}=80"),
        ({ROLLOUT: 64}, f"{ROLLOUT} must divide the 160 samples of a GPU, but is 64; set {ROLLOUT}=40"),
        ({REF: 7}, f"{REF} must divide the 160 samples of a GPU, but is 7; set {REF}=5"),
        (
            {CRITIC: 9, "algorithm.adv_estimator": "gae"},
            f"{CRITIC} must divide the 80 samples of a GPU, but is 9; set {CRITIC}=8",
        ),
    ],
)
def test_micro_batches_that_do_not_divide(make: Make, values: dict[str, Any], problem: str) -> None:
    assert the_problem(with_values(make(), values)) == problem


@pytest.mark.parametrize("key", [ACTOR, ROLLOUT, REF, CRITIC])
@pytest.mark.parametrize("value", [0, -2, 2.5, "four", None])
def test_a_micro_batch_that_is_no_size(make: Make, key: str, value: Any) -> None:
    config = with_values(make(algorithm__adv_estimator="gae"), {key: value})
    assert the_problem(config).startswith(f"{key} must ")


@pytest.mark.parametrize(
    "values",
    [
        {
            **dict.fromkeys((ACTOR, ROLLOUT), 7),
            "actor_rollout_ref.actor.use_dynamic_bsz": True,
            "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": True,
        },
        {REF: 7, "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": True},
        {REF: 7, "actor_rollout_ref.actor.use_kl_loss": False},
        {CRITIC: 7},
    ],
)
def test_a_micro_batch_that_nobody_uses_may_be_anything(make: Make, values: dict[str, Any]) -> None:
    """Cut up by tokens; no reference model without a KL term; no critic in GRPO."""
    assert preflight.problems_of(with_values(make(), values)) == []


def suggestion(problem: str) -> dict[str, Any]:
    """Return the first override that a message suggests."""
    match = re.search(r"set ([\w.]+)=(\d+)", problem)
    assert match, problem
    return {match[1]: int(match[2])}


size = st.integers(1, 40)


@given(
    batch=size,
    n=st.integers(1, 9),
    mini=size,
    gpus=st.sampled_from([1, 2, 3, 4, 8]),
    micro=st.lists(size, min_size=4, max_size=4),
)
def test_following_the_suggestions_leads_to_a_good_config(
    make: Make, batch: int, n: int, mini: int, gpus: int, micro: list[int]
) -> None:
    """Each suggestion makes its own problem go away, and in a few steps all are gone."""
    config = sizes(make, batch, n, mini, gpus, algorithm__adv_estimator="grpo")
    config = with_values(config, dict(zip((ACTOR, ROLLOUT, REF, CRITIC), micro, strict=True)))
    for _ in range(12):
        found = batch_problems(config)
        if not found:
            break
        values = suggestion(found[0])
        config = with_values(
            config, {**values, **({"actor_rollout_ref.rollout.n": 5} if "rollout.n" in values else {})}
        )
        assert found[0] not in batch_problems(config)
    assert batch_problems(config) == []
    # What veRL's workers assert, minutes after the start:
    batch, n = config["data"]["train_batch_size"], config["rollout"]["n"]
    mini = config["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"]
    assert batch * n % gpus == 0 and mini * n % gpus == 0 and batch % mini == 0
    assert mini * n // gpus % config["actor_rollout_ref"]["actor"]["ppo_micro_batch_size_per_gpu"] == 0
    assert batch * n // gpus % config["actor_rollout_ref"]["ref"]["log_prob_micro_batch_size_per_gpu"] == 0


# The model


def test_a_model_folder_must_be_there(make: Make, tmp_path: Path) -> None:
    for path in (str(tmp_path / "nothing"), "./no/such/folder", "~/no-such-folder-of-mine"):
        assert the_problem(make(model__path=path)) == (
            f"model.path must be a folder or a name on the hub, but there is no {path}; check the path"
        )


def test_a_file_is_no_model_folder(make: Make, files: Path) -> None:
    assert "must be a folder or a name on the hub" in the_problem(make(model__path=str(files / "train.parquet")))


def test_a_name_on_the_hub_is_taken_as_it_is(make: Make) -> None:
    assert preflight.problems_of(make(model__path="Qwen/Qwen2.5-3B")) == []


@pytest.mark.parametrize(
    "lacks, problem",
    [
        ("config.json", "model.path must hold a config.json, but {} has none; save the model with save_pretrained"),
        (
            "tokenizer.json",
            "model.path must hold a tokenizer, but {} has no tokenizer.json; "
            "save it there with tokenizer.save_pretrained",
        ),
        (
            "model.safetensors",
            "model.path must hold weights, but {} has no *.safetensors; save the model with save_pretrained",
        ),
    ],
)
def test_a_model_folder_must_be_whole(make: Make, files: Path, tmp_path: Path, lacks: str, problem: str) -> None:
    for file in (files / "model").iterdir():
        if file.name != lacks:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert the_problem(make(model__path=str(tmp_path))) == problem.format(tmp_path)


def test_an_empty_folder_has_all_three_problems(make: Make, tmp_path: Path) -> None:
    found = preflight.problems_of(make(model__path=str(tmp_path)))
    assert [re.search(r"hold (a )?(\S+),", problem)[2] for problem in found] == ["config.json", "tokenizer", "weights"]  # type: ignore[index]


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1274560\n",
        b"",
        b"\x08\0\0\0\0\0\0\0not json",
        (10**6).to_bytes(8, "little") + b"{}",
        (63).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}        ' + b"\0" * 11,
    ],
    ids=["git-lfs pointer", "empty", "no json", "cut off header", "cut off data"],
)
def test_weights_that_can_t_be_read_are_a_problem_and_no_traceback(
    make: Make, files: Path, tmp_path: Path, content: bytes
) -> None:
    for file in (files / "model").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(content)
    problem = the_problem(make(model__path=str(tmp_path)))
    assert problem.startswith(f"model.path must hold whole weights, but {tmp_path / 'model.safetensors'} can't be read")


def test_a_cached_snapshot_without_weights(make: Make, files: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As `hf download --include "*.json"` leaves it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--me--mine"
    snapshot = cached / "snapshots" / ("0123456789" * 4)
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(files / "model", snapshot)
    assert preflight.problems_of(make(model__path="me/mine")) == []
    (snapshot / "model.safetensors").unlink()
    assert the_problem(make(model__path="me/mine")) == (
        f"model.path must hold weights, but {snapshot} has no *.safetensors; run `hf download me/mine`"
    )


def test_a_sequence_must_fit_the_model_s_positions(make: Make, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "model", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 100}')
    config = make(model__path=str(tmp_path / "model"), hardware__fast=False)
    assert the_problem(config) == (
        "data.max_prompt_length + data.max_response_length must be at most 100, the model's max_position_embeddings, "
        "but is 16 + 128; set data.max_response_length=84"
    )
    config["data"]["max_response_length"] = 84
    assert preflight.problems_of(config) == []
    config["actor_rollout_ref"]["rollout"]["max_model_len"] = 101
    assert the_problem(config) == (
        "actor_rollout_ref.rollout.max_model_len must be at most 100, the model's positions, but is 101; "
        "set actor_rollout_ref.rollout.max_model_len=null"
    )


def test_the_folder_s_sizes_count_and_the_plan_says_where_others_were_stated(make: Make) -> None:
    stated = Shape(2048, 11008, 36, 16, 2, 151936, True)
    weights = PROJECT_DIR / "experiments" / "tiny_model" / "weights"
    config = make(model__path=str(weights), model__shape=asdict(stated))
    shape = preflight.shape_of(config)
    assert shape is not None and shape.hidden_size == 96
    assert preflight.shape_of(make(model__path="me/mine", model__shape=asdict(stated))) == stated
    (note,) = model_folder.unchecked(str(weights), asdict(stated))
    assert note.endswith("set model.shape to them") and "config.json has other sizes than model.shape" in note
    assert model_folder.unchecked(str(weights), None) == model_folder.unchecked(str(weights), asdict(shape)) == []


def test_a_tokenizer_that_is_none_is_no_traceback(make: Make, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "model", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    problems = preflight.problems_of(make(model__path=str(tmp_path / "model")))
    assert problems and all(problem.startswith("model.path must hold a tokenizer, but ") for problem in problems)


def test_parameters_are_counted(files: Path, tmp_path: Path) -> None:
    assert preflight.model_parameters(files / "model") == 3 * 5 + 7
    assert preflight.model_parameters(tmp_path) == preflight.model_parameters(tmp_path / "missing") == 0
    assert preflight.model_parameters(Path("Qwen/Qwen2.5-3B")) == 0


# The data


@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_a_data_file_must_be_there(make: Make, tmp_path: Path, key: str) -> None:
    missing = tmp_path / "missing.parquet"
    expected = f"{key} must be a parquet file, but there is no {missing}; check the path, or leave it null"
    assert the_problem(with_values(make(), {key: str(missing)})) == expected
    assert the_problem(with_values(make(), {key: [str(missing)]})) == expected


@pytest.mark.parametrize("content", [b"", b"not a parquet file at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_data_file_must_be_parquet(make: Make, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(content)
    problem = the_problem(make(data__train_files=str(file)))
    assert re.fullmatch(
        rf"data.train_files must be a parquet file, but {file} can't be read \(.+\); build it again", problem
    )


def test_a_cut_off_file_is_told(make: Make, files: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes((files / "train.parquet").read_bytes()[:-20])
    assert "can't be read" in the_problem(make(data__train_files=str(file)))


def test_a_folder_is_no_data_file(make: Make, tmp_path: Path) -> None:
    assert f"must be a parquet file, but {tmp_path} can't be read" in the_problem(make(data__train_files=str(tmp_path)))


def test_columns_must_be_those_of_verl(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"prompt": [["x"]], "nums": [[1, 2, 3]]}), file)
    assert the_problem(make(data__train_files=str(file))) == (
        f"data.train_files must have veRL's columns, but {file} lacks data_source, reward_model; "
        "build it with experiments.tasks"
    )


def test_there_must_be_rows(make: Make, files: Path, tmp_path: Path) -> None:
    file = tmp_path / "test.parquet"
    parquet.write_table(parquet.read_table(files / "test.parquet").slice(0, 0), file)
    assert the_problem(make(data__val_files=str(file))) == (
        f"data.val_files must have rows, but {file} is empty; build it again"
    )


def test_there_must_be_a_batch_of_rows_to_train_on(make: Make, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.parquet", 20)
    config = make(data__train_files=str(file))
    problem = the_problem(config)
    assert problem == (
        f"data.train_files must hold at least data.train_batch_size=32 rows, but {file} has 20; "
        "set data.train_batch_size=20"
    )
    assert problem not in preflight.problems_of(with_values(config, suggestion(problem)))
    assert preflight.problems_of(make(data__val_files=str(file))) == [], "validation takes what there is"


def test_too_few_rows_for_the_gpus_do_not_lead_in_a_circle(make: Make, tmp_path: Path) -> None:
    """21 rows on 2 GPUs: 21 is not a multiple, 22 rows there are not; 20 is the answer."""
    file = write_rows(tmp_path / "train.parquet", 21)
    config = sizes(make, 32, 5, 2, 2, data__train_files=str(file), **DYNAMIC)
    for _ in range(6):
        found = preflight.problems_of(config)
        if not found:
            break
        config = with_values(config, suggestion(found[0]))
    assert preflight.problems_of(config) == []


def test_prompts_must_fit(make: Make, tmp_path: Path) -> None:
    """Those that are too long may stand anywhere in the file."""
    prompts = [[{"role": "user", "content": " ".join(["w"] * (17 if row > 600 else 3))}] for row in range(1000)]
    file = write_rows(tmp_path / "train.parquet", 1000, prompt=prompts)
    config = make(data__train_files=str(file))
    problem = the_problem(config)
    assert problem == (
        f"data.max_prompt_length must be at least 17 tokens for {file}, but is 16: of its 1,000 prompts 399 are "
        "longer; set data.max_prompt_length=17"
    )
    assert preflight.problems_of(with_values(config, suggestion(problem))) == []


def test_prompts_on_the_hub_s_tokenizer_are_left_to_verl(make: Make, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.parquet", 40, words=17)
    assert preflight.problems_of(make(data__train_files=str(file), model__path="Qwen/Qwen2.5-3B")) == []


@pytest.mark.parametrize(
    "prompts",
    [
        ["numbers 3, 7, 12"] * 40,
        [None] * 40,
        [[{"role": "user", "text": "w"}]] * 40,
        [[1, 2]] * 40,
        [[{"content": None}]] * 40,
    ],
    ids=["text", "nothing", "no content", "numbers", "empty content"],
)
def test_prompts_must_be_chats(make: Make, tmp_path: Path, prompts: list[Any]) -> None:
    file = write_rows(tmp_path / "train.parquet", 40, prompt=prompts)
    assert the_problem(make(data__train_files=str(file))) == (
        f"data.train_files must hold prompts as lists of messages with a content, but {file} does not; "
        "build it with experiments.tasks"
    )


@pytest.mark.parametrize("empty", [None, [], [{"role": "user", "content": ""}]], ids=str)
@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_one_prompt_that_says_nothing_is_told(make: Make, tmp_path: Path, key: str, empty: Any) -> None:
    """In a file of several row groups, which are several chunks of a column."""
    prompts: list[Any] = [[{"role": "system", "content": ""}, {"role": "user", "content": "w"}]] * 40
    prompts[33] = empty
    file = write_rows(tmp_path / "rows.parquet", 40, prompt=prompts)
    parquet.write_table(parquet.read_table(file), file, row_group_size=8)
    assert the_problem(with_values(make(), {key: str(file)})) == (
        f"{key} must have a prompt in every row, but row 33 of {file} has none; build it again without it"
    )


TRUTH = {"ground_truth": {"target": 3, "numbers": [1, 2]}}


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        (['{"ground_truth": 3}'] * 40, "{file} has string; build it with experiments.tasks"),
        ([{"style": "rule"}] * 40, "{file} has struct<style: string>; build it with experiments.tasks"),
        ([TRUTH] * 39 + [None], "row 39 of {file} has none; build it again without such rows"),
        ([TRUTH, {"style": "rule"}] * 20, "row 1 of {file} has none; build it again without such rows"),
    ],
    ids=["text", "no ground truth", "nothing once", "no ground truth at times"],
)
@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
def test_every_row_has_a_ground_truth(make: Make, tmp_path: Path, key: str, column: list[Any], wrong: str) -> None:
    file = write_rows(tmp_path / "rows.parquet", 40, reward_model=column)
    must = f"{key} must have mappings with a ground_truth as its reward_model, but "
    assert the_problem(with_values(make(), {key: str(file)})) == must + wrong.format(file=file)


@pytest.mark.parametrize(("key", "value"), [("train_files", []), ("val_files", []), ("val_files", None)])
def test_whoever_brings_training_data_brings_validation_data(make: Make, key: str, value: Any) -> None:
    assert the_problem(with_values(make(), {f"data.{key}": value})) == (
        f"data.{key} must be a parquet file, or several, but is {value}; set it, or leave both null for what "
        "task=... makes"
    )


# The disk


def test_a_full_disk_is_told_before_the_start(tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "not" / "yet"
    preflight.check_disk(runs, 1)
    with pytest.raises(UserError) as refused:
        preflight.check_disk(runs, 2**60)
    assert re.fullmatch(
        rf"{runs} must have 1,099,511,627,776 MiB free, but has [\d,]+; make room, or set runs_dir to another disk",
        str(refused.value),
    )
    assert not (tmp_path / "runs").exists()
