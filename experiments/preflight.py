"""Every check of a config that needs no training: all problems at once, each with what to do.

A check that reads a value which is faulty by itself is left out; all the others are made.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments import hub_model, model_folder
from experiments.batches import batch_problems
from experiments.cpu_run import cpu_problems
from experiments.cpu_vllm import cpu_vllm_problems
from experiments.data_files import data_problems
from experiments.digests import file_stamp
from experiments.errors import UserError
from experiments.fitting import memory_problems
from experiments.knobs import faults
from experiments.memory import Shape
from experiments.objective import kl_problems, legacy_problems, rate_problems
from experiments.parallelism import length_problems, rollout_problems, sequence_problems, token_problems
from experiments.tasks.reward_check import reward_problems

REWARD = "reward.custom_reward_function.path"


class Faulty(Exception):
    """A check asked for a value that is known to be faulty, and so has nothing to say."""


class Sound(Mapping[str, Any]):
    """A resolved config, or a node of one, in which reading a faulty value raises Faulty."""

    def __init__(self, node: Mapping[str, Any], faulty: Mapping[str, str], prefix: str = "") -> None:
        self._node, self._faulty, self._prefix = node, faulty, prefix

    def __getitem__(self, name: str) -> Any:
        key, value = f"{self._prefix}{name}", self._node[name]
        if key in self._faulty:
            raise Faulty(key)
        inside = isinstance(value, Mapping) and any(fault.startswith(f"{key}.") for fault in self._faulty)
        return Sound(value, self._faulty, f"{key}.") if inside else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._node)

    def __len__(self) -> int:
        return len(self._node)


CHECKS = (
    batch_problems,
    kl_problems,
    legacy_problems,
    rate_problems,
    lambda config: rollout_problems(config, shape_of(config)),
    lambda config: sequence_problems(config, shape_of(config)),
    token_problems,
    lambda config: length_problems(config, model_folder.positions(str(config["model"]["path"]))),
    lambda config: memory_problems(config, shape_of(config)),
    cpu_problems,
    lambda config: cpu_vllm_problems(config, shape_of(config)),
    lambda config: model_problems(config),
    data_problems,
    reward_problems,
)


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a resolved config; an empty list if it can be started."""
    faulty = faults_of(config)
    sound, found = Sound(config, faulty) if faulty else config, list(faulty.values())
    for check in CHECKS:
        try:
            found += check(sound)
        except Faulty:
            continue
    return list(dict.fromkeys(found))


def faults_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the problems of single values, by their keys: numbers, choices, files of Python."""
    found = faults(config)
    return found | {key: problem for key, problem in code_problems(config).items() if key not in found}


def model_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of a local model folder, or of what the hub's cache holds of a name; nothing is fetched."""
    path = str(config["model"]["path"])
    folder = hub_model.find(path)
    if folder is None:
        if path.startswith(("/", ".", "~")) or Path(path).expanduser().exists():
            return [f"model.path must be a folder or a name on the hub, but there is no {path}; check the path"]
        return hub_model.problems(path)
    again, tokenizer = "save the model with save_pretrained", "save it there with tokenizer.save_pretrained"
    if name := hub_model.name_and_revision(folder):
        again = tokenizer = f"run `hf download {name.split('@')[0]}`"
    model = config["actor_rollout_ref"]["model"]
    own = (config["model"]["template"], model["custom_chat_template"] is not None)
    return [*_missing_files(folder, again, tokenizer), *model_folder.problems(folder, *own)]


def _missing_files(folder: Path, again: str, tokenizer: str) -> list[str]:
    """Return a problem for each kind of file that a model's folder lacks, or that is torn; `again`: what to do."""
    found = []
    if not (folder / "config.json").is_file():
        found.append(f"model.path must hold a config.json, but {folder} has none; {again}")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        found.append(f"model.path must hold a tokenizer, but {folder} has no tokenizer.json; {tokenizer}")
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        found.append(f"model.path must hold weights, but {folder} has no *.safetensors; {again}")
    for name in _missing_shards(folder):
        found.append(f"model.path must hold whole weights, but {folder} lacks {name}; {again}")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors(file)
        except (OSError, ValueError) as error:
            problem = f"model.path must hold whole weights, but {file} can't be read ({error})"
            found.append(f"{problem}; save or fetch it again")
    return found


def _missing_shards(folder: Path) -> list[str]:
    """Return the weight files that a model's index names and that are not there: fetching it was interrupted."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = sorted({str(name) for name in index["weight_map"].values()})
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["a readable model.safetensors.index.json"]
    return [name for name in shards if not (folder / name).is_file()]


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the model's shape: its folder's, which veRL loads, else the config's; None where neither states one."""
    folder = hub_model.find(str(config["model"]["path"]))
    found = model_folder.shape(folder) if folder else None
    return found or Shape.of(config["model"]["shape"])


def python_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """Return, by key, the files of the task and of its reward, absolute; a relative one is so to where one types."""
    named = {"task.path": config["task"].get("path"), REWARD: config["reward"]["custom_reward_function"]["path"]}
    return {key: Path(str(path)).expanduser().absolute() for key, path in named.items() if path is not None}


def code_problems(config: Mapping[str, Any]) -> dict[str, str]:
    """Return, by key, a problem for each of `python_files` that can't be read as Python."""
    files, found = python_files(config), {}
    if "task.path" not in files and config["data"]["train_files"] is None:
        found["task.path"] = (
            "task.path must be a Python file with a function build, but is None; write it (docs/own_task.md)"
        )
    for key, file in files.items():
        if wrong := _not_python(file, file_stamp(file)):
            found[key] = f"{key} must be a Python file, but {file}: {wrong}; check the path"
    return found


@cache  # the arms of a sweep have their code in common
def _not_python(file: Path, stamp: tuple[int, int] | None) -> str | None:
    try:
        compile(file.read_bytes(), file, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


def check_disk(folder: Path, needed: int) -> None:
    """Raise UserError if fewer than `needed` bytes are free where `folder` is or will be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder} must have {needed / 2**20:,.0f} MiB free, but has {free / 2**20:,.0f}; "
            "make room, or set runs_dir to another disk"
        )


def tensors(file: Path) -> dict[str, Any]:
    """Return what a safetensors file's header says of each tensor; ValueError if the file is torn or none at all."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError("it is no safetensors file")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    if size != 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0):
        raise ValueError("it is cut off")
    return header


def model_parameters(folder: Path) -> int:
    """Return how many numbers a local model's safetensors files hold, 0 if there are none (or it is on the hub)."""
    return sum(math.prod(tensor["shape"]) for file in folder.glob("*.safetensors") for tensor in tensors(file).values())
