"""Test that the tiny model's tokenizer loses nothing of what the model reads and writes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors import UserError
from experiments.tasks.countdown.problems import Problem
from experiments.tasks.countdown.prompts import render
from experiments.tiny_model import evaluation, tokenizer, traces

TOKENIZER = tokenizer.build()


def test_an_exchange_is_cut_into_its_words():
    text = (
        "numbers 3, 7, 12 target 63 <think> 3 + 7 = 10, 10 + 12 = 22 not it, let's try 12 - 3 = 9, 9 * 7 = 63 this"
        " works </think> <answer> ( 12 - 3 ) * 7 </answer><|im_end|>"
    )
    pieces = [TOKENIZER.decode([index]) for index in TOKENIZER.encode(text)]
    assert pieces == [
        *("numbers", " 3", ",", " 7", ",", " 12", " target", " 63", " <think>"),
        *(" 3", " +", " 7", " =", " 10", ",", " 10", " +", " 12", " =", " 22", " not it,", " let's try"),
        *(" 12", " -", " 3", " =", " 9", ",", " 9", " *", " 7", " =", " 63", " this works"),
        *(" </think>", " <answer>", " (", " 12", " -", " 3", " )", " *", " 7", " </answer>", "<|im_end|>"),
    ]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), place=st.integers(0, 11_410))
def test_every_trace_comes_back_unchanged(seed: int, place: int):
    rng = random.Random(seed)
    problem = traces.shuffled(rng, traces.training_problems()[place])
    text = evaluation.prompt_of(problem) + traces.trace(rng, problem)
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert "".join(tokenizer.TOKENS[index] for index in ids) == text
    tokenizer.check_text(TOKENIZER, text)


@given(ids=st.lists(st.integers(0, len(tokenizer.TOKENS) - 1), max_size=60))
def test_any_tokens_decode_to_their_joined_text(ids: list[int]):
    assert TOKENIZER.decode(ids) == "".join(tokenizer.TOKENS[index] for index in ids)


def test_tags_survive_where_special_tokens_are_skipped():
    ids = TOKENIZER.encode(" </think> <answer> 1 + 2 </answer><|im_end|><|endoftext|><|endoftext|>")
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == " </think> <answer> 1 + 2 </answer>"


def test_the_chat_template_adds_nothing():
    messages = render("compact", Problem((3, 7, 12), 45))
    for add in (True, False):
        text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=add)
        assert text == "numbers 3, 7, 12 target 45 <think>"


def test_all_prompts_have_one_length():
    lengths = {len(TOKENIZER.encode(evaluation.prompt_of(problem))) for problem in traces.problems()}
    assert lengths == {9}


@pytest.mark.parametrize(
    "text",
    [
        render("base", Problem((3, 7, 12), 45))[0]["content"],
        "numbers 3, 7, 123 target 45 <think>",
        "numbers 3, 7, 12 target -45 <think>",
        "numbers [3 7 12] target 45 <think>",
        "<think>",
    ],
)
def test_text_that_would_be_lost_is_refused(text: str):
    with pytest.raises(UserError, match="compact prompt template"):
        tokenizer.check_text(TOKENIZER, text)


def test_every_row_of_the_embedding_is_a_token_and_a_newline_is_one():
    assert len(TOKENIZER) == len(set(tokenizer.TOKENS)) == tokenizer.VOCAB_SIZE
    assert len(TOKENIZER.encode("\n")) == 1  # veRL's prompt builder refuses a Qwen2 tokenizer without it
