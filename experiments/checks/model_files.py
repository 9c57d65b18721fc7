"""Check the files of the base model: they must exist, be complete and belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.models import folder as model_folder
from experiments.models import hub as hub_model
from experiments.models.weights import _missing_shards, tensors


def model_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of a local model folder, or of the copy in the hub's cache if model.path is a name on the hub.

    Nothing is fetched.
    """
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
    """Return a problem for each kind of file that a model's folder lacks, and for each damaged file.

    `again`, `tokenizer`: what to do about missing files, and about a missing tokenizer.
    """
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


def model_path_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem for each veRL key that names another model than model.path, whose content the identity has."""
    path = config["model"]["path"]
    return [
        f"{role}.model.{key} must be model.path, {path}, but is {config[role]['model'][key]}; set model.path instead"
        for role in ("actor_rollout_ref", "critic")
        for key in ("path", "hf_config_path", "tokenizer_path")
        if config[role]["model"].get(key) not in (None, path)
    ]
