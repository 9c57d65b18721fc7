"""checks/preflight.py: each mistake of a user gives a message that says what must be, what is, and what to do."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.sweep_compose import Composer
from experiments.config.verl import override
from experiments.errors import UserError
from experiments.models import folder as model_folder
from experiments.models.folder import shape_of
from experiments.models.shape import Shape
from experiments.models.weights import model_parameters
from experiments.planning.cost import check_disk
from experiments.project import CONFIG_DIR, PROJECT_DIR
from experiments.values import flatten
from tests.experiments.conftest import SHIPPED
from tests.experiments.right_config import (
    Config,
    Make,
    problems_of,
    the_problem,
)


def test_a_good_config_has_no_problems(make: Make) -> None:
    assert problems_of(make()) == []


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))


def values(group: str, name: str, root: str) -> dict[str, Any]:
    """Return the values, by key, that a file of a group sets on top of the group's `root` file.

    Asserts that the file sets only values of the group's own node; a model's may set its chat template, too.
    """
    if name == root:
        return {}
    file = yaml.safe_load((CONFIG_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))
    (parent, itself) = file.pop("defaults")
    assert [*file.pop("actor_rollout_ref", {"model": {}})["model"]] in ([], ["custom_chat_template"])
    assert itself == "_self_" and set(file) == {group}, f"{name} must be {root} with other numbers"
    return {**values(group, parent, root), **dict(flatten(file))}


GPUS = [name for name in choices("hardware") if name not in ("cpu", "cpu_vllm", "cuda")]
MODELS = [name for name in choices("model") if name != "tiny"]
TOO_LARGE = {(model, f"{gpu}x1") for model in ["qwen2.5-7b", "qwen3-8b"] for gpu in ("a100", "h100")}


@pytest.mark.parametrize(
    "algorithm", ["grpo", "ppo"]
)  # no other one needs as much memory as these: without, with critic
def test_every_preset_of_gpus_fits_every_model(composer: Composer, algorithm: str) -> None:
    """Tried without making data. A model that is too large for a preset gets the advice to take more GPUs."""
    assert len(MODELS) == 11 and len(GPUS) == 15
    common = (*SHIPPED, "model=qwen2.5-3b", "hardware=a100x2", f"algorithm={algorithm}")
    known: dict[tuple[Any, ...], list[str]] = {}
    for model, hardware in itertools.product(MODELS, GPUS):
        chosen = {**values("model", model, "qwen2.5-3b"), **values("hardware", hardware, "a100x2")}
        sizes = {key: value for key, value in chosen.items() if key not in UNSIZED and value is not None}
        if (size := tuple(sorted(sizes.items()))) not in known:
            composed = composer.compose([*common, *(f"++{override(key, value)}" for key, value in sizes.items())])
            known[size] = problems_of(composed.resolved())
        if (model, hardware) in TOO_LARGE:
            assert known[size] and all("take more GPUs (hardware.gpus_per_node)" in one for one in known[size])
        else:
            assert known[size] == [], (model, hardware)
    assert len(known) == len(MODELS) * 10, "an H100 has an A100's memory"


UNSIZED = ("hardware.name", "hardware.resources", "hardware.seconds_per_step")


@pytest.mark.parametrize("algorithm", choices("algorithm"))
def test_the_default_has_no_problems(resolved: Callable[..., Config], algorithm: str) -> None:
    assert problems_of(resolved(f"algorithm={algorithm}")) == []


@pytest.mark.parametrize("experiment", [name for name in choices("experiment") if name != "article_settings"])
def test_every_experiment_has_no_problems(composer: Composer, experiment: str) -> None:
    assert problems_of(composer.compose([*SHIPPED, f"experiment={experiment}"]).resolved()) == []


def test_all_problems_are_told_at_once(make: Make, tmp_path: Path) -> None:
    config = make(rollout__temperature=0, rollout__n=0, seed=-1)
    keys = [problem.split(" must ")[0] for problem in problems_of(config)]
    assert keys == ["rollout.temperature", "rollout.n", "seed"]
    config = make(
        rollout__n=1,
        actor_rollout_ref__rollout__n=1,
        model__path="/no/such/model",
        data__val_files=str(tmp_path / "missing.parquet"),
    )
    keys = [problem.split(" must ")[0] for problem in problems_of(config)]
    assert keys == ["rollout.n", "model.path", "data.val_files"]


# The model


def test_a_model_folder_must_be_there(make: Make, tmp_path: Path) -> None:
    for path in (str(tmp_path / "nothing"), "./no/such/folder", "~/no-such-folder-of-mine"):
        assert the_problem(make(model__path=path)) == (
            f"model.path must be a folder or a name on the hub, but there is no {path}; check the path"
        )


def test_a_file_is_no_model_folder(make: Make, files: Path) -> None:
    assert "must be a folder or a name on the hub" in the_problem(make(model__path=str(files / "train.parquet")))


def test_a_name_on_the_hub_is_taken_as_it_is(make: Make) -> None:
    assert problems_of(make(model__path="Qwen/Qwen2.5-3B")) == []


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
    found = problems_of(make(model__path=str(tmp_path)))
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
    """The cache is as `hf download --include "*.json"` leaves it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--me--mine"
    snapshot = cached / "snapshots" / ("0123456789" * 4)
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(files / "model", snapshot)
    assert problems_of(make(model__path="me/mine")) == []
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
    assert problems_of(config) == []
    config["actor_rollout_ref"]["rollout"]["max_model_len"] = 101
    assert the_problem(config) == (
        "actor_rollout_ref.rollout.max_model_len must be at most 100, the model's positions, but is 101; "
        "set actor_rollout_ref.rollout.max_model_len=null"
    )


def test_the_folder_s_sizes_count_and_not_those_that_are_stated(make: Make) -> None:
    stated = Shape(2048, 11008, 36, 16, 2, 151936, True)
    weights = PROJECT_DIR / "experiments" / "tiny_model" / "weights"
    config = make(model__path=str(weights), model__shape=asdict(stated))
    shape = shape_of(config)
    assert shape is not None and shape.hidden_size == 96
    assert shape_of(make(model__path="me/mine", model__shape=asdict(stated))) == stated
    assert model_folder.unchecked(str(weights)) == []


def test_a_tokenizer_that_is_none_is_no_traceback(make: Make, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "model", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    problems = problems_of(make(model__path=str(tmp_path / "model")))
    assert problems and all(problem.startswith("model.path must hold a tokenizer, but ") for problem in problems)


def test_parameters_are_counted(files: Path, tmp_path: Path) -> None:
    assert model_parameters(files / "model") == 3 * 5 + 7
    assert model_parameters(tmp_path) == model_parameters(tmp_path / "missing") == 0
    assert model_parameters(Path("Qwen/Qwen2.5-3B")) == 0


# The disk


def test_a_full_disk_is_told_before_the_start(tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "not" / "yet"
    check_disk(runs, 1)
    with pytest.raises(UserError) as refused:
        check_disk(runs, 2**60)
    assert re.fullmatch(
        rf"{runs} must have 1048576.0 TiB free, but has \d+\.\d [GT]iB; make room, or set runs_dir to another disk",
        str(refused.value),
    )
    assert not (tmp_path / "runs").exists()
