"""Test experiments/models/folder.py on small model folders, each with one fault; without weights and torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.models import folder as model_folder
from experiments.project import PROJECT_DIR

Write = Callable[..., Path]
TOKENS = {"a": 0, "b": 1, "<|endoftext|>": 2}
GOOD: dict[str, dict[str, Any]] = {
    "config": {"model_type": "qwen2", "vocab_size": 8, "eos_token_id": 2},
    "generation_config": {"eos_token_id": [2, 3]},
    "tokenizer_config": {"eos_token": "<|endoftext|>", "chat_template": "{{ messages }}"},
    "tokenizer": {"model": {"vocab": TOKENS}, "added_tokens": [{"content": "<|im_end|>", "id": 3}]},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def folder(**changes: dict[str, Any] | None) -> Path:
        """Write a good folder with some files replaced; a file given as None is left out."""
        for name, content in {**GOOD, **changes}.items():
            if content is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return folder


def problems(folder: Path, template: str = "base", passed_through: bool = False) -> list[str]:
    return model_folder.problems(folder, template, passed_through)


def test_a_good_folder_has_no_problems(write: Write) -> None:
    assert problems(write()) == problems(write(), "instruct") == []


def test_the_shipped_model_has_none() -> None:
    weights = PROJECT_DIR / "experiments" / "tiny_model" / "weights"
    assert problems(weights, "compact") == model_folder.notes(weights) == []
    shape = model_folder.shape(weights)
    assert shape is not None and (shape.hidden_size, shape.num_key_value_heads, shape.vocab_size) == (96, 2, 128)


def test_an_end_that_is_no_token(write: Write) -> None:
    (problem,) = problems(write(generation_config={"eos_token_id": 151645}))
    assert problem.startswith("generation_config's eos_token_id must be a token of the tokenizer, but ")
    assert problem.endswith("names [151645]: no response could end with it; set it to 2, its tokenizer's <|endoftext|>")


def test_no_end_at_all(write: Write) -> None:
    (problem,) = problems(
        write(
            generation_config=None,
            config={"model_type": "qwen2", "vocab_size": 8},
            tokenizer_config={"chat_template": "x"},
        )
    )
    assert "every response would run to its limit" in problem


def test_a_tokenizer_s_end_that_is_no_token(write: Write) -> None:
    (problem,) = problems(write(tokenizer_config={"eos_token": "</s>", "chat_template": "x"}))
    assert problem.startswith("the tokenizer's eos_token must be one of its tokens, but ") and "'</s>'" in problem


def test_a_token_without_an_embedding(write: Write) -> None:
    (problem,) = problems(write(config={"model_type": "qwen2", "vocab_size": 3, "eos_token_id": 2}))
    assert problem.startswith("config.json's vocab_size must be above the tokenizer's largest id 3, but is 3 in ")


def test_no_chat_template(write: Write) -> None:
    folder = write(tokenizer_config={"eos_token": "<|endoftext|>"})
    (problem,) = problems(folder)
    assert problem.startswith("model.path must have a chat template") and "custom_chat_template" in problem
    assert problems(folder, passed_through=True) == []
    (folder / "chat_template.jinja").write_text("")
    assert problems(folder) == []


def test_the_instruct_prompt_for_a_model_without_its_markers(write: Write) -> None:
    (problem,) = problems(write(tokenizer={"model": {"vocab": {**TOKENS, "c": 3}}}), "instruct")
    assert problem.endswith("set model.template=base")


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"model": {"vocab": {"a": "x"}}}', '{"added_tokens": [{}]}'])
def test_a_file_that_is_torn_or_of_another_kind(write: Write, content: str) -> None:
    folder = write()
    (folder / "tokenizer.json").write_text(content)
    (problem,) = problems(folder)
    assert problem.startswith("model.path must hold readable files, but ")


def test_what_is_odd_and_handled_is_a_note(write: Write) -> None:
    """The known trap: Qwen's base models name one end in the tokenizer and another in generation_config."""
    notes = model_folder.notes(write(generation_config={"eos_token_id": 3}))
    assert notes == [
        "the tokenizer ends a text with 2 (<|endoftext|>), generation_config with [3]: the rollout stops at any "
        "of them",
        "4 rows of the embedding belong to no token: neither veRL's vLLM nor our rollout samples them",
    ]
