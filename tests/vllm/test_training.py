"""Real GRPO trainings in which vLLM samples: our trainer, reward and schedule with the engine that GPU runs use.

Two of them, on one rank and on two, are under way at once on this node: each gets its own trainer's weights, though Ray
names both jobs alike. A third run of veRL's own, with the name that veRL gives every run's socket, is left alone.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir, find_runs
from experiments.verl_plugin.rollout.generate_any import generate
from tests.e2e.training import Command, cut_short, left_behind, rows
from tests.experiments.verl_plugin.random_models import make_draw
from tests.vllm import recorder
from tests.vllm.model import load
from tests.vllm.training import segments, train

STEPS, PROMPTS, SAMPLES, VALIDATION, LENGTH = 3, 16, 5, 8, 32  # experiment=smoke, and one step more
RECORDER = f"{recorder.__name__}:{recorder.TemperatureRecorder.__name__}"
TEMPERATURES = [1.2, 0.9, 0.6]


# The higher rate moves the weights of the run on two ranks apart: with the other's weights it would not agree.
RATES = {1: "4e-4", 2: "1e-3"}


@dataclass
class Trained:
    """A finished training, and the temperatures of all requests that reached vLLM."""

    command: Command
    temperatures: list[float]

    @property
    def run(self) -> RunDir:
        return self.command.run


@dataclass
class Both:
    """The finished trainings by their number of ranks, and what was left in /dev/shm and of the sockets in /tmp."""

    trained: dict[int, Trained]
    segments: set[Path]
    sockets: list[Path]


def recorded(folder: Path, model: Path, ranks: int) -> Trained:
    """Train to step 3 with a falling temperature, from where a run in this folder is, and validate before and after."""
    file = folder.parent / f"{folder.name}-temperatures"
    command = train(
        folder,
        "hardware=cpu_vllm",
        f"hardware.gpus_per_node={ranks}",
        f"model.path={model}",
        f"actor_rollout_ref.actor.optim.lr={RATES[ranks]}",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.test_freq={STEPS}",
        "trainer.save_freq=2",
        "temperature=linear",
        "rollout.temperature=1.2",
        "tracking=none",
        f"+actor_rollout_ref.rollout.engine_kwargs.vllm.logits_processors=['{RECORDER}']",
        **{recorder.FILE: str(file)},
    )
    assert command.code == 0, command.output
    return Trained(command, [round(float(line), 6) for line in file.read_text().split()])


@pytest.fixture(scope="module")
def of_another() -> Iterator[Path]:
    """The socket of another user's run in /tmp, at which nobody answers."""
    path = Path("/tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, 4242, 4242)
        yield path
    path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, model: Path, of_another: Path) -> Both:
    folder, before = tmp_path_factory.mktemp("vllm"), segments()
    with ThreadPoolExecutor() as at_once:
        done = list(at_once.map(lambda ranks: recorded(folder / f"ranks-{ranks}", model, ranks), RATES))
    sockets = list(Path("/tmp").glob("rl-colocate-zmq-*"))
    return Both(dict(zip(RATES, done, strict=True)), segments() - before, sockets)


@pytest.fixture(params=RATES, ids=["one-rank", "two-ranks"])
def trained(request: pytest.FixtureRequest, both: Both) -> Trained:
    return both.trained[request.param]


def test_sampler_and_trainer_agree_on_every_step(trained: Trained) -> None:
    """vLLM starts with dummy weights, so they can agree only because every sync brings the trainer's weights."""
    history = rows(trained.run)
    for step in range(1, STEPS + 1):
        assert history[step]["rollout_corr/log_ppl_abs_diff"] < 1e-5
        assert history[step]["training/rollout_probs_diff_max"] < 2e-5
        assert history[step]["actor/grad_norm"] > 1e-3, "weights that stay would need no sync"
        assert history[step]["rollout/failed_samples"] == 0


def test_the_schedule_reaches_vllm_and_leaves_validation_alone(trained: Trained) -> None:
    history = rows(trained.run)
    assert [history[step]["rollout/temperature"] for step in range(1, STEPS + 1)] == pytest.approx(TEMPERATURES)
    sampled_and_greedy = {1.0: 2 * 4 * VALIDATION, 0.0: 2 * VALIDATION}  # each problem four times, and once greedily
    assert Counter(trained.temperatures) == {**dict.fromkeys(TEMPERATURES, PROMPTS * SAMPLES), **sampled_and_greedy}
    # The trainer's log-probs agree with the sampler's, so the trainer used the temperature of each step, too.
    assert max(history[step]["rollout_corr/log_ppl_abs_diff"] for step in range(1, STEPS + 1)) < 1e-5


def test_a_resumed_run_goes_on_at_the_temperature_of_its_step(both: Both, model: Path) -> None:
    """The run was interrupted in step 3, and has a checkpoint of step 2."""
    trained, before = both.trained[1], segments()
    place = trained.command.runs_dir.parents[1] / "resumed"
    shutil.copytree(trained.command.runs_dir, place / "runs")
    (run,) = find_runs(place / "runs")
    cut_short(run, STEPS - 1)
    resumed = recorded(place, model, 1)
    assert [event["step"] for event in run.events() if event["event"] == "resumed"] == [STEPS - 1]
    second = [row for row in read_jsonl(run.attempts()[1].metrics)[0] if "rollout/temperature" in row["data"]]
    assert [row["step"] for row in second] == [STEPS]
    (row,) = (row["data"] for row in second)
    assert row["rollout/temperature"] == rows(trained.run)[STEPS]["rollout/temperature"]
    sampled_and_greedy = {1.0: 2 * 4 * VALIDATION, 0.0: 2 * VALIDATION}  # each problem four times, and once greedily
    assert Counter(resumed.temperatures) == {TEMPERATURES[-1]: PROMPTS * SAMPLES, **sampled_and_greedy}
    assert row["rollout_corr/log_ppl_abs_diff"] < 1e-5
    assert left_behind(run) == [] and segments() == before


def test_greedy_validation_is_the_models_own(trained: Trained, model: Path) -> None:
    """Before the first step vLLM's greedy answers are, token by token, those that transformers' forward gives."""
    tokenizer, reference = AutoTokenizer.from_pretrained(model), load(model)
    answers, _ = read_jsonl(trained.run.attempts()[-1].validation / "0.jsonl")
    assert len(answers) == (4 + 1) * VALIDATION
    answers = [answer for answer in answers if answer["data_source"] == "countdown_greedy"]
    assert len(answers) == VALIDATION
    prompts = [tokenizer.encode(answer["input"], add_special_tokens=False) for answer in answers]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    greedy = make_draw(len(prompts), LENGTH, temperature=0.0)
    with torch.inference_mode():
        expected, _ = generate(reference, prompts, greedy, [LENGTH] * len(prompts), {eos}, pad)
    texts = tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert [answer["output"] for answer in answers] == texts


def test_they_were_under_way_at_once_and_nothing_is_left_behind(both: Both, of_another: Path) -> None:
    runs = [trained.run for trained in both.trained.values()]
    spans = [[event["time"] for event in run.events() if event["event"] != "planned"] for run in runs]
    assert max(span[0] for span in spans) < min(span[-1] for span in spans)
    assert [left_behind(run) for run in runs] == [[], []]
    assert both.segments == set() and both.sockets == [of_another]
