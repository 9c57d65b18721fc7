"""Read what a model's folder says about the model, without torch: tokenizer, end of a response, vocabulary, shape.

The trap (TinyZero's issues 30, 66 and 97) is a base model whose tokenizer, config and generation_config name different
ends of a response. A rollout that waits for the wrong one runs every response to its limit. The pad id is no such trap:
veRL's agent loop takes the tokenizer's, our server takes generation_config's, and both mask the padding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.digests import file_stamp
from experiments.models import hub as hub_model
from experiments.models.shape import Shape
from experiments.values import is_whole


@dataclass(frozen=True)
class ModelFolder:
    """The small files of a model's folder; an absent one is an empty mapping."""

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> ModelFolder:
        """Return what the files hold; ValueError naming the first that is no JSON mapping."""
        names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
        return cls(folder, *(_mapping(folder / name, file_stamp(folder / name)) for name in names))

    @property
    def tokens(self) -> dict[str, int]:
        """Return the ids of all tokens, added ones included; empty if tokenizer.json does not list them."""
        vocabulary = self.tokenizer.get("model", {}).get("vocab", {})
        found = {str(token): int(i) for token, i in vocabulary.items()} if isinstance(vocabulary, dict) else {}
        added = self.tokenizer.get("added_tokens") or []
        return found | {str(token["content"]): int(token["id"]) for token in added}

    @property
    def eos(self) -> list[int]:
        """Return the ids that end a response: generation_config's, else config's."""
        for source in (self.generation, self.config):
            named = source.get("eos_token_id")
            if named is not None:
                return [int(token) for token in (named if isinstance(named, list) else [named])]
        return []

    @property
    def tokenizer_eos(self) -> str | None:
        """Return the token that tokenizer_config.json calls the end of a sequence."""
        token = self.tokenizer_config.get("eos_token")
        return token.get("content") if isinstance(token, dict) else token


def shape(folder: Path) -> Shape | None:
    """Return the sizes that a folder's config.json states; None if it states none, or can't be read."""
    return Shape.of(_config(folder))


def positions(path: str) -> int | None:
    """Return max_position_embeddings of model.path's config.json; None where that is not known."""
    folder = hub_model.find(path)
    most = _config(folder).get("max_position_embeddings") if folder else None
    return most if is_whole(most, 1) else None


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        return _mapping(folder / "config.json", file_stamp(folder / "config.json"))
    except ValueError:  # `problems` reports it
        return {}


@lru_cache(maxsize=64)  # a tokenizer.json holds megabytes, and the arms of a sweep share it
def _mapping(file: Path, stamp: tuple[int, int] | None) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no mapping")
    return content


def problems(folder: Path, template: str | None, passed_through: bool) -> list[str]:
    """Return what is wrong with the tokenizer, the end of a response, the chat template or the vocabulary.

    `template`: model.template, whose text holds the chat markers of "instruct". `passed_through`: whether
    custom_chat_template replaces the tokenizer's own chat template.
    """
    try:
        model = ModelFolder.read(folder)
        tokens = model.tokens
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"model.path must hold readable files, but {error}; save or fetch the model again"]
    return [*_end_problems(model, tokens), *_text_problems(model, tokens, template, passed_through)]


def _end_problems(model: ModelFolder, tokens: Mapping[str, int]) -> list[str]:
    found = []
    named = model.tokenizer_eos
    if tokens and named is not None and named not in tokens:
        found.append(
            f"the tokenizer's eos_token must be one of its tokens, but {model.path}/tokenizer_config.json names "
            f"{named!r}; correct it there"
        )
    if tokens and not model.eos and named is None and model.config.get("vocab_size"):
        found.append(
            f"model.path must name the end of a response, but neither generation_config.json nor the tokenizer of "
            f'{model.path} does: every response would run to its limit; add {{"eos_token_id": ...}} to its '
            "generation_config.json"
        )
    unknown = [token for token in model.eos if tokens and token not in tokens.values()]
    if unknown:
        right = "the id of the token that ends a text"
        if named is not None and named in tokens:
            right = f"{tokens[named]}, its tokenizer's {named}"
        found.append(
            f"generation_config's eos_token_id must be a token of the tokenizer, but {model.path} names {unknown}: no "
            f"response could end with it; set it to {right}"
        )
    return found


def _text_problems(
    model: ModelFolder, tokens: Mapping[str, int], template: str | None, passed_through: bool
) -> list[str]:
    found = []
    size = model.config.get("vocab_size")
    if tokens and isinstance(size, int) and max(tokens.values()) >= size:
        found.append(
            f"config.json's vocab_size must be above the tokenizer's largest id {max(tokens.values())}, but is {size} "
            f"in {model.path}: that token has no embedding; take the tokenizer that belongs to the weights"
        )
    has_template = bool(model.tokenizer_config.get("chat_template")) or any(
        (model.path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")
    )
    if tokens and model.config.get("model_type") and not has_template and not passed_through:
        found.append(
            f"model.path must have a chat template, which veRL sends every prompt through, but {model.path} has none; "
            "set actor_rollout_ref.model.custom_chat_template as conf/model/qwen2.5-3b.yaml does"
        )
    if tokens and template == "instruct" and "<|im_end|>" not in tokens:
        found.append(
            "model.template=instruct writes <|im_start|> and <|im_end|>, which must be tokens, but "
            f"{model.path} has no such tokens; set model.template=base"
        )
    return found


def notes(folder: Path) -> list[str]:
    """Return what is odd about a folder but is handled: ends that differ, embeddings without a token."""
    model = ModelFolder.read(folder)
    tokens, named, found = model.tokens, model.tokenizer_eos, []
    if named is not None and named in tokens and model.eos and tokens[named] not in model.eos:
        found.append(
            f"the tokenizer ends a text with {tokens[named]} ({named}), generation_config with {model.eos}: "
            "the rollout stops at any of them"
        )
    if not model.generation:
        found.append(f"no generation_config.json: a response ends at config.json's {model.eos} or the tokenizer's end")
    size = model.config.get("vocab_size")
    if tokens and isinstance(size, int) and max(tokens.values()) + 1 < size:
        found.append(
            f"{size - max(tokens.values()) - 1} rows of the embedding belong to no token: neither veRL's vLLM nor our "
            "rollout samples them"
        )
    return found


def unchecked(path: str) -> list[str]:
    """Return what could not be checked because the model's files are missing.

    Planning asks no server: a name on the hub that is not in the cache may not exist, or may be gated.
    """
    folder = hub_model.find(path)
    if folder is None:
        return [
            f"not in the hub's cache ({hub_model.cache()}), so a launch will fetch it. Whether it exists and may be "
            "fetched, its end of a response, its vocabulary, and the prompts' lengths in tokens were not checked. The "
            "runs' ids will change when it is there, since an id covers the model's revision; "
            f"run `hf download {path}` first"
        ]
    return [] if (folder / "tokenizer.json").is_file() else ["no tokenizer.json: the prompts' lengths are unchecked"]


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the model's shape: its folder's, which veRL loads, else the config's; None where neither states one."""
    folder = hub_model.find(str(config["model"]["path"]))
    found = shape(folder) if folder else None
    return found or Shape.of(config["model"]["shape"])
