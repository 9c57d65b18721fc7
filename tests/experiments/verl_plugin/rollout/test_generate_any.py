"""Test experiments/verl_plugin/rollout/generate_any.py against a loop without a cache, one row at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.verl_plugin.rollout.draw import Draw, draw_tokens
from experiments.verl_plugin.rollout.generate_any import generate
from tests.experiments.verl_plugin.random_models import VOCABULARY, make_draw, make_model, randomise

PROMPTS = [[5, 9, 2, 30, 1, 17, 8], [11], [3, 3, 3], [39, 0, 12, 4, 25]]
EOS = {2, 7, 13}


def without_cache(
    model: Any, prompt: list[int], draw: Draw, limit: int, eos: set[int]
) -> tuple[list[int], list[float]]:
    """Return one response and its log-probs; the whole sequence is computed anew for every token."""
    response: list[int] = []
    log_probs: list[float] = []
    while len(response) < limit and not (response and response[-1] in eos):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[:, -1]
        token, log_prob = draw_tokens(logits, draw, len(response))
        response.append(token.item())
        log_probs.append(log_prob.item())
    return response, log_probs


def assert_as_without_cache(model: Any, draw: Draw, limits: list[int], eos: set[int]) -> list[int]:
    """Compare the batch with each of its rows; return the responses' lengths."""
    responses, log_probs = generate(model, PROMPTS, draw, limits, eos, pad=0)
    for row, prompt in enumerate(PROMPTS):
        expected, values = without_cache(model, prompt, draw.rows(torch.tensor([row])), limits[row], eos)
        assert responses[row] == expected
        assert log_probs[row] == pytest.approx(values, abs=1e-5)
    return [len(response) for response in responses]


@pytest.mark.parametrize("seed", range(3))
def test_rows_equal_those_generated_alone_without_a_cache(seed: int) -> None:
    draw = make_draw(4, 12, seed, [1.0, 0.7, 0.0, 2.0], [-1, -1, -1, 9], [1.0, 0.9, 1.0, 1.0])
    assert_as_without_cache(make_model(seed), draw, [12, 12, 12, 12], EOS)


def test_each_row_has_its_own_limit() -> None:
    lengths = assert_as_without_cache(make_model(), make_draw(4, 9), [1, 9, 4, 4], set())
    assert lengths == [1, 9, 4, 4]


def test_a_response_ends_with_the_first_end_of_sequence() -> None:
    responses, _ = generate(make_model(), PROMPTS * 10, make_draw(40, 30), [30] * 40, EOS, pad=0)
    ended = [response for response in responses if len(response) < 30]
    assert len(ended) > 10
    for response in responses:
        assert not EOS & set(response[:-1])
    assert all(response[-1] in EOS for response in ended)


def test_all_rows_may_end_at_once() -> None:
    assert assert_as_without_cache(make_model(), make_draw(4, 5), [5] * 4, set(range(VOCABULARY))) == [1] * 4


def test_what_pads_makes_no_difference() -> None:
    model, draw = make_model(), make_draw(4, 8)
    zero, other = (generate(model, PROMPTS, draw, [8] * 4, EOS, pad=pad) for pad in (0, 33))
    assert zero[0] == other[0]
    for one, two in zip(zero[1], other[1], strict=True):
        assert one == pytest.approx(two, abs=1e-6)


def test_any_architecture() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    assert_as_without_cache(randomise(LlamaForCausalLM(config), 4).eval(), make_draw(4, 10), [10] * 4, EOS)
