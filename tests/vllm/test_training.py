"""Real GRPO trainings whose responses vLLM samples: our trainer, reward and schedule on the engine that GPUs run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from experiments.rundir import RunDir, read_jsonl
from experiments.verl_plugin.decoding import generate
from tests.e2e.training import Command, left_behind, rows
from tests.experiments.verl_plugin.random_models import make_draw
from tests.vllm import recorder
from tests.vllm.model import load
from tests.vllm.training import segments, train

STEPS, PROMPTS, SAMPLES, VALIDATION, LENGTH = 3, 16, 5, 8, 32  # experiment=smoke, and one step more
RECORDER = f"{recorder.__name__}:{recorder.TemperatureRecorder.__name__}"
TEMPERATURES = [1.2, 0.9, 0.6]


@dataclass
class Trained:
    """A training that has ended, the temperatures of all requests that reached vLLM, and what it left in /dev/shm."""

    command: Command
    temperatures: list[float]
    segments: set[Path]

    @property
    def run(self) -> RunDir:
        return self.command.run


@pytest.fixture(scope="module", params=[1, 2], ids=["one-rank", "two-ranks"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Path) -> Trained:
    """Three steps from a falling temperature, validated before the first and after the last."""
    folder, before = tmp_path_factory.mktemp("vllm"), segments()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(recorder.FILE, str(folder / "temperatures"))
        command = train(
            folder / "training",
            "hardware=cpu_vllm",
            f"hardware.gpus_per_node={request.param}",
            f"model.path={model}",
            f"trainer.total_training_steps={STEPS}",
            f"trainer.test_freq={STEPS}",
            "trainer.save_freq=-1",
            "temperature=linear",
            "rollout.temperature=1.2",
            "tracking=none",
            f"+actor_rollout_ref.rollout.engine_kwargs.vllm.logits_processors=['{RECORDER}']",
        )
    assert command.code == 0, command.output
    temperatures = [round(float(line), 6) for line in (folder / "temperatures").read_text().split()]
    return Trained(command, temperatures, segments() - before)


def test_sampler_and_trainer_agree_on_every_step(trained: Trained) -> None:
    """vLLM started from dummy weights: they agree because every sync brought the trainer's."""
    history = rows(trained.run)
    for step in range(1, STEPS + 1):
        assert history[step]["rollout_corr/log_ppl_abs_diff"] < 1e-5
        assert history[step]["training/rollout_probs_diff_max"] < 2e-5
        assert history[step]["actor/grad_norm"] > 1e-3, "weights that stay would need no sync"
        assert history[step]["rollout/failed_samples"] == 0


def test_the_schedule_reaches_vllm_and_leaves_validation_alone(trained: Trained) -> None:
    history = rows(trained.run)
    assert [history[step]["rollout/temperature"] for step in range(1, STEPS + 1)] == pytest.approx(TEMPERATURES)
    sampled_and_greedy = {1.0: 2 * VALIDATION, 0.0: 2 * VALIDATION}
    assert Counter(trained.temperatures) == {**dict.fromkeys(TEMPERATURES, PROMPTS * SAMPLES), **sampled_and_greedy}
    # Log-probs are taken at the temperature drawn from: they agree, so the trainer's moved along.
    assert max(history[step]["rollout_corr/log_ppl_abs_diff"] for step in range(1, STEPS + 1)) < 1e-5


def test_greedy_validation_is_the_models_own(trained: Trained, model: Path) -> None:
    """Before the first step, token for token what transformers decodes."""
    tokenizer, reference = AutoTokenizer.from_pretrained(model), load(model)
    answers, _ = read_jsonl(trained.run.attempts()[-1].validation / "0.jsonl")
    assert len(answers) == 2 * VALIDATION
    prompts = [tokenizer.encode(answer["input"], add_special_tokens=False) for answer in answers]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    greedy = make_draw(len(prompts), LENGTH, temperature=0.0)
    with torch.inference_mode():
        expected, _ = generate(reference, prompts, greedy, [LENGTH] * len(prompts), {eos}, pad)
    texts = tokenizer.batch_decode(expected, skip_special_tokens=True)
    same = {answer["input"] for answer, text in zip(answers, texts, strict=True) if answer["output"] == text}
    assert same == {answer["input"] for answer in answers}, "each problem is validated sampled and greedily"


def test_nothing_is_left_behind(trained: Trained) -> None:
    assert left_behind(trained.run) == []
    assert trained.segments == set()
