"""Test the rollout's code on a device that is not the CPU (pretend_cuda.py): same samples, no tensor elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from experiments.verl_plugin.attention import packed_sdpa
from experiments.verl_plugin.rollout import generate_any
from experiments.verl_plugin.rollout.draw import draw_tokens
from experiments.verl_plugin.rollout.generate_qwen2 import Qwen2Sampler
from tests.experiments.verl_plugin.pretend_cuda import CUDA, Far, PretendCUDA, to_device
from tests.experiments.verl_plugin.random_models import make_draw, make_model

PROMPTS = [[5, 9, 2, 30, 1, 17, 8], [11], [3, 3, 3], [39, 0, 12, 4, 25]]
EOS = {2, 7, 13}


def test_the_device_that_is_none_refuses_what_a_gpu_refuses() -> None:
    with PretendCUDA():
        far, near = torch.arange(6.0, device="cuda").view(2, 3), torch.arange(3.0)
        assert far.device == CUDA and isinstance(far, Far)
        with pytest.raises(RuntimeError, match="mixes tensors on the device"):
            far + near
        with pytest.raises(RuntimeError, match="mixes"):
            torch.isin(far, near)
        far[0] = near.to("cuda")
        far[1, 0] = 7
        assert (far * 2.0).cpu().tolist() == [[0.0, 2.0, 4.0], [14.0, 8.0, 10.0]]
        assert far.sum().item() == 19.0 and bool((far > 6).any())
        assert torch.cat([far, far[1:]]).device == CUDA
        assert torch.zeros(2).device.type == "cpu"


def on_device(model: Any) -> Any:
    return to_device(copy.deepcopy(model))


@pytest.mark.parametrize("n", [1, 6])
def test_our_sampler_draws_the_same_there(n: int) -> None:
    model, draw = make_model(), make_draw(len(PROMPTS) * n, 20, 3, [1.0, 0.0, 0.7, 1.5] * n, [-1, -1, 9, -1] * n)
    expected = Qwen2Sampler(model).generate(PROMPTS, n, draw, 20, EOS)
    assert len(set(expected[2].tolist())) > 1, "rows must end at different steps"
    with PretendCUDA():
        results = Qwen2Sampler(on_device(model)).generate(PROMPTS, n, draw, 20, EOS)
        assert all(result.device == CUDA for result in results)
        results = tuple(result.cpu() for result in results)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted)


def test_transformers_decoding_draws_the_same_there() -> None:
    model, draw = make_model(), make_draw(4, 12, 2, [1.0, 0.7, 0.0, 2.0], [-1, -1, -1, 9], [1.0, 0.9, 1.0, 1.0])
    expected = generate_any.generate(model, PROMPTS, draw, [12, 3, 12, 12], EOS, pad=0)
    with PretendCUDA():
        ids, log_probs = generate_any.generate(on_device(model), PROMPTS, draw, [12, 3, 12, 12], EOS, pad=0)
    assert ids == expected[0]
    for row, wanted in zip(log_probs, expected[1], strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_a_draw_left_on_the_cpu_is_refused() -> None:
    draw = make_draw(2, 1)
    with PretendCUDA(), pytest.raises(RuntimeError, match="mixes"):
        draw_tokens(torch.ones(2, 5, device="cuda"), draw, 0)


def test_packed_attention_is_the_same_there() -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, heads, 7, 8) for heads in (4, 2, 2))
    position = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
    expected, _ = packed_sdpa(None, query, key, value, None, position_ids=position)
    with PretendCUDA():
        far = (tensor.to("cuda") for tensor in (query, key, value))
        mixed, _ = packed_sdpa(None, *far, None, position_ids=position.to("cuda"))
        assert mixed.device == CUDA
        torch.testing.assert_close(mixed.cpu(), expected)
