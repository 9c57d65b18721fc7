"""Test experiments/verl_plugin/rollout/generate_qwen2.py against transformers' decoding loop and full forward."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.tiny_model import WEIGHTS
from experiments.verl_plugin.attention import NAME
from experiments.verl_plugin.rollout import generate_any
from experiments.verl_plugin.rollout.draw import Draw
from experiments.verl_plugin.rollout.generate_qwen2 import Qwen2Sampler
from tests.experiments.verl_plugin.random_models import SHAPES, VOCABULARY, make_draw, make_model, packed_logits

PROMPTS = [[5, 9, 2, 30, 1, 17, 8], [11], [3, 3, 3], [39, 0, 12, 4, 25]]
EOS = {2, 7, 13, 21}
MAX_NEW = 14
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())

Sampled = tuple[list[list[int]], list[list[float]]]


def by_transformers(model: Any, prompts: list[list[int]], n: int, draw: Draw, max_new: int, eos: set[int]) -> Sampled:
    """Return the responses and log-probs of transformers' decoding loop, n per prompt."""
    repeated = [prompt for prompt in prompts for _ in range(n)]
    return generate_any.generate(model, repeated, draw, [max_new] * len(repeated), eos, pad=0)


def as_lists(ids: torch.Tensor, log_probs: torch.Tensor, lengths: torch.Tensor) -> Sampled:
    sizes = lengths.tolist()
    return (
        [row[:size] for row, size in zip(ids.tolist(), sizes, strict=True)],
        [row[:size] for row, size in zip(log_probs.tolist(), sizes, strict=True)],
    )


def assert_same(ours: Sampled, theirs: Sampled) -> None:
    assert ours[0] == theirs[0]
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert one == pytest.approx(other, abs=5e-5)


@each_shape
@pytest.mark.parametrize("n", [1, 3])
def test_samples_equal_those_of_transformers(shape: dict[str, Any], n: int) -> None:
    model, draw = make_model(**shape), make_draw(len(PROMPTS) * n, MAX_NEW, 3)
    ids, log_probs, lengths = Qwen2Sampler(model).generate(PROMPTS, n, draw, MAX_NEW, EOS)
    assert_same(as_lists(ids, log_probs, lengths), by_transformers(model, PROMPTS, n, draw, MAX_NEW, EOS))
    assert (ids.shape, log_probs.shape) == ((len(PROMPTS) * n, MAX_NEW), (len(PROMPTS) * n, MAX_NEW))
    assert (ids.dtype, log_probs.dtype, lengths.dtype) == (torch.int64, torch.float32, torch.int64)


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_end_at_different_steps_leave_the_others_alone(seed: int) -> None:
    """Twenty-four rows that end one by one: the cache is compacted several times on the way."""
    model, draw = make_model(seed), make_draw(24, 40, seed, [1.5, 0.0, 2.0, 0.8] * 6, [-1, -1, 20, 10] * 6)
    ids, log_probs, lengths = Qwen2Sampler(model).generate(PROMPTS, 6, draw, 40, {7, 13})
    assert len(set(lengths.tolist())) > 5, "the case must be a mixed one"
    assert_same(as_lists(ids, log_probs, lengths), by_transformers(model, PROMPTS, 6, draw, 40, {7, 13}))


@each_shape
def test_log_probs_equal_the_full_forward_in_double_precision(shape: dict[str, Any]) -> None:
    # Small weights: transformers computes its norms in float32 even here, and large weights magnify that beyond 1e-6.
    model = make_model(dtype=torch.float64, scale=0.12, **shape)
    draw = make_draw(len(PROMPTS) * 2, MAX_NEW, 5)
    ids, log_probs, lengths = Qwen2Sampler(model).generate(PROMPTS, 2, draw, MAX_NEW, EOS)
    for row, (response, values) in enumerate(zip(*as_lists(ids, log_probs, lengths), strict=True)):
        prompt = PROMPTS[row // 2]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("count", "n", "temperature", "eos"), [(40, 4, 1.0, {1}), (40, 9, 0.6, {1}), (3, 2, 1.0, set()), (1, 3, 0.6, set())]
)
def test_the_shipped_model_gives_a_token_the_probability_that_the_trainer_gives_it(
    count: int, n: int, temperature: float, eos: set[int]
) -> None:
    """They are equal up to rounding. The logits reach 28, where one unit in the last place of a float32 is 2e-6."""
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32, attn_implementation=NAME).eval()
    prompts = [[5 + row, *range(9, 9 + length)] for row in range(10) for length in (3, 8, 8, 21)][:count]
    draw = make_draw(len(prompts) * n, 96, 3, temperature)
    sampled = as_lists(*Qwen2Sampler(model).generate(prompts, n, draw, 96, eos))
    rows = [prompts[row // n] + response for row, response in enumerate(sampled[0])]
    with torch.no_grad():
        logits = packed_logits(model, [torch.tensor(row) for row in rows])
    packed = torch.tensor(list(chain.from_iterable(rows)))
    trained = (logits / temperature).log_softmax(-1)[:-1].gather(1, packed[1:, None]).squeeze(1)  # of the next token
    ends, theirs = torch.tensor([len(row) for row in rows]).cumsum(0).tolist(), []
    for end, response in zip(ends, sampled[0], strict=True):
        theirs.append(trained[end - len(response) - 1 : end - 1])
    ours = torch.tensor(list(chain.from_iterable(sampled[1])))
    assert len(ours) > 12 * len(rows)
    difference = (ours.exp() - torch.cat(theirs).exp()).abs()
    assert difference.mean() < 1e-6 and difference.max() < 1e-5


def test_what_lies_beyond_the_end_is_zero() -> None:
    ids, log_probs, lengths = Qwen2Sampler(make_model()).generate(PROMPTS, 5, make_draw(20, 30, 1), 30, EOS)
    beyond = torch.arange(30) >= lengths.unsqueeze(1)
    assert beyond.any() and not ids[beyond].any() and not log_probs[beyond].any()
    for row, length in enumerate(lengths.tolist()):
        response = ids[row, :length].tolist()
        assert not EOS & set(response[:-1]), "nothing follows an end of sequence"
        assert length == 30 or response[-1] in EOS
    assert (log_probs[~beyond] < 0).all()


def test_all_rows_end_at_once() -> None:
    model, draw, everything = make_model(), make_draw(8, MAX_NEW), set(range(VOCABULARY))
    ids, log_probs, lengths = Qwen2Sampler(model).generate(PROMPTS, 2, draw, MAX_NEW, everything)
    assert lengths.tolist() == [1] * 8
    assert_same(as_lists(ids, log_probs, lengths), by_transformers(model, PROMPTS, 2, draw, MAX_NEW, everything))
    assert not ids[:, 1:].any()


@pytest.mark.parametrize("eos", [{VOCABULARY + 1}, set()], ids=["never drawn", "none"])
def test_without_an_end_every_row_has_full_length(eos: set[int]) -> None:
    model, draw = make_model(), make_draw(4, MAX_NEW)
    result = Qwen2Sampler(model).generate(PROMPTS, 1, draw, MAX_NEW, eos)
    assert result[2].tolist() == [MAX_NEW] * 4
    assert_same(as_lists(*result), by_transformers(model, PROMPTS, 1, draw, MAX_NEW, eos))


def test_one_row_and_one_token() -> None:
    model = make_model()
    for prompt, max_new in (([4], 1), ([4], 9), ([4, 8, 15, 16, 23], 9)):
        draw = make_draw(1, max_new, max_new)
        result = Qwen2Sampler(model).generate([prompt], 1, draw, max_new, EOS)
        assert_same(as_lists(*result), by_transformers(model, [prompt], 1, draw, max_new, EOS))


def test_a_sample_does_not_depend_on_the_other_prompts() -> None:
    sampler, draw = Qwen2Sampler(make_model()), make_draw(len(PROMPTS), MAX_NEW, 2)
    together = as_lists(*sampler.generate(PROMPTS, 1, draw, MAX_NEW, EOS))
    for row, prompt in enumerate(PROMPTS):
        alone = as_lists(*sampler.generate([prompt], 1, draw.rows(torch.tensor([row])), MAX_NEW, EOS))
        assert_same(alone, ([together[0][row]], [together[1][row]]))


def test_refresh_takes_over_changed_weights() -> None:
    """Weights change in place, as by an optimiser, or as new tensors, as a loaded state dict may bring them."""
    model, other, draw = make_model(0), make_model(1), make_draw(4, MAX_NEW)
    sampler = Qwen2Sampler(model)
    before = as_lists(*sampler.generate(PROMPTS, 1, draw, MAX_NEW, EOS))
    for assign in (False, True):
        model.load_state_dict(other.state_dict(), assign=assign)
        sampler.refresh()
        after = as_lists(*sampler.generate(PROMPTS, 1, draw, MAX_NEW, EOS))
        assert after[0] != before[0]
        assert_same(after, by_transformers(other, PROMPTS, 1, draw, MAX_NEW, EOS))
        other = make_model(2)


def test_generating_leaves_the_model_trainable() -> None:
    model = make_model()
    Qwen2Sampler(model).generate(PROMPTS, 1, make_draw(4, 4), 4, EOS)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "config, supported",
    [
        ({}, True),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, True),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}}, False),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, False),
        ({"hidden_act": "gelu"}, False),
    ],
)
def test_supports_what_it_repeats_and_nothing_else(config: dict[str, Any], supported: bool) -> None:
    assert Qwen2Sampler.supports(make_model(**config)) == supported


def test_another_architecture_is_not_supported() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    assert not Qwen2Sampler.supports(LlamaForCausalLM(config))
