"""The benchmark's own arithmetic: what it makes of what it saw, and that its competitors train. Nothing is timed."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from benchmarks import bare_grpo, setting, step
from benchmarks.watch import Arrival, Outcome, watch
from experiments.config.overrides import check_overrides

TRAINED = {
    "step_seconds": 1.5,
    "step_cpu_seconds": 1.62,
    "step_seconds_all": [[1.25, 1.5], [1.75]],
    "first_step_seconds": 10.82,
    "later_arm_seconds": 8.06,
    "peak_bytes": 3 * 2**30,
    "peak_processes": 12,
    "left_behind": {},
}


def arrivals(times: dict[str, list[float]]) -> list[Arrival]:
    return [
        Arrival(
            when,
            f"/runs/{run}/attempts/1/metrics.jsonl",
            {"step": number, "data": {"reward": when, "length": 64.0}},
            when * 3,
        )
        for run, whens in times.items()
        for number, when in enumerate(whens, 1)
    ]


def test_steps_are_the_times_between_rows_and_arms_start_at_the_event_before() -> None:
    outcome = Outcome(started=100.0, ended=131.0, code=0, left={"processes": [], "ports": ["8265"]})
    outcome.arrivals = arrivals({"a": [111.0, 112.0, 114.0], "b": [125.0, 128.0, 129.0]})
    events = {"a": [{"event": "started", "time": 102.0}, {"event": "finished", "time": 116.0}], "b": []}

    result = step.training_result(outcome, events)

    assert result["step_seconds_all"] == [[1.0, 2.0], [3.0, 1.0]]
    assert result["step_seconds"] == 1.5  # the first steps, 11 s and 9 s, are starts
    assert result["step_cpu_seconds"] == 4.5
    assert result["first_step_seconds"] == 11.0
    assert result["later_arm_seconds"] == 9.0
    assert result["reward"] == [111.0, 114.0]
    assert result["left_behind"] == {"ports": ["8265"]}


def test_a_training_without_rows_has_failed() -> None:
    assert "failed" in step.training_result(Outcome(started=0.0, code=0), {})


def test_the_report_shows_numbers_failures_and_what_was_left() -> None:
    results = {
        "ours": TRAINED,
        "bare": {k: v for k, v in TRAINED.items() if k != "later_arm_seconds"} | {"left_behind": {"ports": ["1", "2"]}},
        "trl": {"failed": "ended with 1: No module named 'trl'"},
        "sampler": step.sampler_result(
            [
                {"ours full": 0.2, "transformers full": 0.5, "ours tiny": 0.1, "transformers tiny": 0.4},
                {"ours full": 0.3, "transformers full": 0.5, "ours tiny": 0.1, "transformers tiny": 0.3},
                {"ours full": 0.25, "transformers full": 0.5, "ours tiny": 0.2, "transformers tiny": 0.4},
            ]
        ),
    }
    console = Console(file=io.StringIO(), width=200)
    step.report(results, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()

    def cells(name: str) -> list[str]:
        line = next(line for line in lines if step.COMPETITORS[name] in line)
        return [cell.strip() for cell in line.strip("│").split("│")][1:]

    assert cells("ours") == ["1.50", "1.25 - 1.75", "1.62", "10.8 s", "8.1 s", "3.00 GiB in 12", "nothing"]
    assert cells("bare") == ["1.50", "1.25 - 1.75", "1.62", "10.8 s", "-", "3.00 GiB in 12", "ports: 1 2"]
    assert cells("trl") == ["failed", "-", "-", "-", "-", "-", "ended with 1: No module named 'trl'"]
    assert lines[-2].endswith("of full length: 0.250 s, transformers' generate 0.500 s: 2.00 x")
    assert lines[-1].endswith("end by themselves: 0.100 s, transformers' generate 0.400 s: 3.00 x")


def test_our_commands_set_keys_that_exist(tmp_path: Path) -> None:
    for name in ("ours", "plain"):
        arguments = step.command(name, tmp_path, steps=3, threads=2)
        check_overrides([argument for argument in arguments[3:] if not argument.startswith("-")])


def test_only_trl_sees_trl(tmp_path: Path) -> None:
    for name in step.COMPETITORS:
        path = step.environment(name, tmp_path, Path("/elsewhere/trl"), threads=2)["PYTHONPATH"].split(os.pathsep)
        assert ("/elsewhere/trl" in path) == (name == "trl")


SCRIPT = """
import subprocess, sys, time
folder = sys.argv[1]
sum(range(5_000_000))
for number in range(3):
    with open(f"{folder}/rows.jsonl", "a") as file:
        file.write('{"step": %d}\\n{"torn' % number if number == 2 else '{"step": %d}\\n' % number)
    time.sleep(0.05)
open(f"{folder}/left.tmp", "w").close()
code = "import subprocess, sys; subprocess.Popen(['sleep', '321'], start_new_session=True)"
subprocess.run([sys.executable, "-S", "-c", code])  # its parent ends at once: an orphan
print("the last word")
sys.exit(3)
"""


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_watching_sees_rows_and_finds_and_ends_orphans(tmp_path: Path) -> None:
    (tmp_path / "was-there.tmp").touch()
    neighbour = subprocess.Popen(["sleep", "300"])  # not of the command: to be left alone
    before = children()
    outcome = watch(
        [sys.executable, "-S", "-c", SCRIPT, str(tmp_path)],
        dict(os.environ),
        rows=(tmp_path, "*.jsonl"),
        places={"files": (tmp_path, "*.tmp")},
        log=tmp_path / "log",
        limit=60,
    )

    assert outcome.code == 3
    assert [arrival.row["step"] for arrival in outcome.arrivals] == [0, 1, 2]
    assert outcome.arrivals[0].cpu_seconds > 0
    assert outcome.started < outcome.arrivals[0].time < outcome.arrivals[2].time <= outcome.ended
    assert outcome.left == {"processes": ["sleep 321"], "ports": [], "files": ["left.tmp"]}
    assert children() == before
    assert neighbour.poll() is None
    neighbour.kill()
    neighbour.wait()
    assert step.last_line(tmp_path / "log") == "the last word"


def test_a_command_past_its_limit_is_ended(tmp_path: Path) -> None:
    before = children()
    outcome = watch(
        ["sleep", "300"], dict(os.environ), rows=(tmp_path, "*"), places={}, log=tmp_path / "log", limit=0.1
    )
    assert outcome.code is None
    assert outcome.arrivals == []
    assert children() == before


def tiny_model(scale: float = 1.0) -> Qwen2ForCausalLM:
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=16,
            initializer_range=0.5,
            tie_word_embeddings=False,
            use_sliding_window=False,
        )
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return model


def test_advantages_and_loss_by_hand() -> None:
    advantages = bare_grpo.group_advantages(torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 0]), 4)
    root = math.sqrt(3) / 2  # 0.5 over the deviation sqrt(4 * 0.25 / 3)
    assert advantages.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5, root, root, -root, -root], abs=1e-5)

    log_probs = torch.tensor([[0.5, 0.25, 0.1]]).log().requires_grad_()
    reference = torch.tensor([[0.25, 0.25, 0.9]]).log()
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    loss = bare_grpo.grpo_loss(log_probs, reference, torch.tensor([2.0]), mask, kl=0.1)
    loss.backward()

    # k3 of the first token: 0.25 / 0.5 - ln(0.25 / 0.5) - 1; of the second 0; the third is masked.
    assert loss.item() == pytest.approx((-2 + 0.1 * (0.5 + math.log(2) - 1) - 2) / 2)
    assert log_probs.grad is not None
    assert log_probs.grad[0].tolist() == pytest.approx([(-2 + 0.1 * (1 - 0.5)) / 2, -1.0, 0.0])


def test_the_bare_loop_samples_as_generate_does_and_stops_at_the_end_token() -> None:
    model = tiny_model(scale=1e4)  # so sure of itself that sampling is greedy
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    greedy = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=12, do_sample=False)[:, 3:]
    assert len(set(greedy[0].tolist())) > 1
    assert bare_grpo.sample(model, prompts, 12, eos=-1).tolist() == greedy.tolist()

    end = greedy[0, 5].item()
    first = greedy[0].tolist().index(end)
    row = bare_grpo.sample(model, prompts, 12, eos=int(end))[0].tolist()
    assert row == greedy[0, : first + 1].tolist() + [end] * (11 - first)


def test_two_steps_of_the_bare_loop_raise_what_is_rewarded() -> None:
    model, wanted = tiny_model(), 7
    prompts = torch.tensor([[1, 2, 3]] * 64)

    def log_prob() -> float:
        with torch.no_grad():
            return bare_grpo.token_log_probs(model, prompts[:1], torch.full((1, 5), wanted)).mean().item()

    def reward(responses: torch.Tensor) -> list[float]:
        return (responses == wanted).float().mean(1).tolist()

    before = log_prob()
    rows = list(bare_grpo.train(model, [prompts] * 2, reward, n=4, length=5, eos=0, lr=0.02, kl=0.001))
    assert len(rows) == 2
    assert all(math.isfinite(row["loss"]) and 1 <= row["length"] <= 5 for row in rows)
    assert log_prob() > before


def test_the_model_of_the_setting_is_of_its_size_and_never_ends(tmp_path: Path) -> None:
    setting.build(tmp_path, steps=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = Qwen2ForCausalLM.from_pretrained(tmp_path / "model")
    assert 0.55e6 < model.num_parameters() < 0.65e6

    torch.manual_seed(0)
    with torch.no_grad():
        probabilities = model(torch.randint(2, len(tokenizer), (16, 70))).logits.softmax(-1)
    never = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert sorted(never) == [0, 1]  # which are not among the tokens it read either
    assert probabilities[..., never].max() < 1e-6
    assert probabilities.amax(-1).mean() < 0.1  # the other tokens are drawn at random


def test_the_reward_is_the_share_of_digits() -> None:
    assert setting.compute_score("countdown", " 12 + a", {"target": 1}, mode="strict") == {"score": 2 / 7}
    assert setting.digit_share("") == 0.0
