"""The prompts, to the letter."""

from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.errors import UserError
from experiments.tasks.countdown.problems import Problem
from experiments.tasks.countdown.prompts import PASS_THROUGH_CHAT_TEMPLATE, TEMPLATES, render

PROBLEM = Problem((44, 19, 35), 98)
QUESTION = (
    "Using the numbers [44, 19, 35], create an equation that equals 98. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final "
    "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)
BASE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer.\n"
    "User: " + QUESTION + "\nAssistant: Let me solve this step by step.\n<think>"
)
INSTRUCT = (
    "<|im_start|>system\nYou are a helpful assistant. You first thinks about the reasoning process in the mind and "
    "then provides the user with the answer.<|im_end|>\n<|im_start|>user\n "
    + QUESTION
    + "<|im_end|>\n<|im_start|>assistant\nLet me solve this step by step.\n<think>"
)


@pytest.mark.parametrize(("template", "text"), [("base", BASE), ("instruct", INSTRUCT)])
def test_the_article_s_prompts(template: str, text: str) -> None:
    assert render(template, PROBLEM) == [{"role": "user", "content": text}]


def test_the_compact_prompt() -> None:
    assert render("compact", Problem((3, 7, 12), 45)) == [
        {"role": "user", "content": "numbers 3, 7, 12 target 45 <think>"}
    ]


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_numbers_out_of_numpy_keep_their_commas(template: str) -> None:
    arrays = Problem(cast("tuple[int, ...]", np.array([44, 19, 35])), cast("int", np.int64(98)))
    assert render(template, arrays) == render(template, PROBLEM)


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(UserError, match="template must be one of base, instruct, compact, but is 'chat'"):
        render("chat", PROBLEM)


def test_the_pass_through_template_prints_the_contents_and_nothing_else() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "numbers": 1, "target": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = cast("Any", PreTrainedTokenizerFast)(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.chat_template = PASS_THROUGH_CHAT_TEMPLATE
    for template in TEMPLATES:
        messages = render(template, PROBLEM)
        for add_generation_prompt in (True, False):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
            assert text == messages[0]["content"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": " a\n"}] * 2, tokenize=False) == " a\n a\n"
