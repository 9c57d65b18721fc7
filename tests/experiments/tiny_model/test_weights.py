"""Test the shipped folder: it loads without a network, is what its card says, and leaves RL room to learn."""

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2ForCausalLM

from experiments.tiny_model import WEIGHTS, card, evaluation, pretrain, tokenizer, traces

METRICS = json.loads((WEIGHTS / card.METRICS).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(WEIGHTS, local_files_only=True).eval()


def recorded(temperature: float, limit: int) -> dict[str, float]:
    (row,) = [r for r in METRICS["held_out"] if (r["temperature"], r["limit"]) == (temperature, limit)]
    return row


def test_the_folder_loads_as_an_ordinary_qwen2(model: Qwen2ForCausalLM):
    assert type(model) is Qwen2ForCausalLM
    assert model.dtype == torch.float32
    assert model.num_parameters() == METRICS["parameters"] == 317_664
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    loaded = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    assert [loaded.decode([index]) for index in range(len(loaded))] == list(tokenizer.TOKENS)
    assert loaded.chat_template == tokenizer.build().chat_template
    generation = GenerationConfig.from_pretrained(WEIGHTS, local_files_only=True)
    assert generation.eos_token_id == loaded.eos_token_id == model.config.eos_token_id
    assert generation.pad_token_id == loaded.pad_token_id == model.config.pad_token_id
    assert (generation.do_sample, generation.temperature, generation.top_k, generation.top_p) == (True, 1.0, 0, 1.0)


def test_the_card_is_written_from_the_metrics_and_these_from_the_code():
    assert (WEIGHTS / card.CARD).read_text(encoding="utf-8") == card.card(METRICS)
    assert METRICS["recipe"] == asdict(pretrain.RECIPE)
    assert METRICS["mixture"] == asdict(traces.MIXTURE)


def test_every_file_is_the_one_that_was_measured():
    files = {path.name for path in WEIGHTS.iterdir()} - {card.METRICS, card.CARD}
    assert {name: card.sha256(WEIGHTS / name) for name in files} == METRICS["sha256"]
    assert (WEIGHTS / "model.safetensors").stat().st_size < 1_400_000


@pytest.mark.parametrize("limit", evaluation.LIMITS)
def test_the_recorded_base_leaves_room_to_learn(limit: int):
    sampled, greedy = recorded(1.0, limit), recorded(0.0, limit)
    assert sampled["problems"] >= 384
    assert 0.08 <= sampled["accuracy"] <= 0.20
    assert 0.50 <= sampled["format"] <= 0.65
    assert sampled["equations_right"] >= 0.95
    assert greedy["accuracy"] > sampled["accuracy"]


def test_a_new_sample_agrees_with_the_record(model: Qwen2ForCausalLM):
    problems = traces.held_out_problems()[:256]
    scores = evaluation.evaluate(model, problems, 1.0, 96, seed=1)
    for name in ("accuracy", "format"):
        expected = recorded(1.0, 96)[name]
        error = (expected * (1 - expected) / len(problems)) ** 0.5
        assert abs(getattr(scores, name) - expected) < 4 * error
    assert scores.equations_right >= 0.94
