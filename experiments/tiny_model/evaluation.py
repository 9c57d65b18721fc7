"""Measure how good the tiny model is: the task's reward scores sampled and greedy answers to held-out problems."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, Qwen2ForCausalLM

from experiments.tasks.countdown.problems import Problem
from experiments.tasks.countdown.prompts import render
from experiments.tasks.countdown.reward import compute_score
from experiments.tiny_model import tokenizer, traces

LIMITS = (96, 128)
TEMPERATURES = (1.0, 0.6, 1.2, 0.0)

_EQUATION = re.compile(r"\b(\d{1,2}) ([-+*/]) (\d{1,2}) = (\d{1,2})\b")


@dataclass(frozen=True)
class Scores:
    """Means over `problems` responses, one to each distinct problem."""

    temperature: float
    """0 stands for greedy."""
    limit: int
    """Most tokens of a response."""
    problems: int
    accuracy: float
    """Share of responses that the reward calls strictly right."""
    format: float
    """Share of responses with a closed answer that looks like an equation."""
    length: float
    """Tokens of a response, its end token included."""
    trials: float
    """Expressions tried in a response."""
    equations_right: float
    """Share of true equations among all that were written."""


def prompt_of(problem: Problem) -> str:
    """Return the problem's prompt in the compact template: `numbers 3, 7, 12 target 45 <think>`."""
    return render("compact", problem)[0]["content"]


def respond(
    model: Qwen2ForCausalLM, problems: Sequence[Problem], temperature: float, limit: int, seed: int = 0
) -> list[list[int]]:
    """Return one response to each problem as token ids, the end of text included if it came.

    temperature 0 is greedy; otherwise `seed` decides the samples and torch's own random state is left as it was.
    """
    encode = tokenizer.build()
    inputs = encode([prompt_of(problem) for problem in problems], return_tensors="pt")
    eos, pad = tokenizer.TOKENS.index(tokenizer.EOS), tokenizer.TOKENS.index(tokenizer.PAD)
    # Every option is named, since one left out would come from the model's folder. Greedy wants the neutral values.
    config = GenerationConfig(
        max_new_tokens=limit,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=temperature > 0,
        temperature=temperature or 1.0,
        top_k=0 if temperature else 50,
        top_p=1.0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        output = model.generate(**inputs, generation_config=config)  # type: ignore[misc]
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def evaluate(
    model: Qwen2ForCausalLM, problems: Sequence[Problem], temperature: float, limit: int, seed: int = 0
) -> Scores:
    """Return the scores of one response to each problem, as `respond` generates it."""
    rows = respond(model, problems, temperature, limit, seed)
    texts = tokenizer.build().batch_decode(rows, skip_special_tokens=True)
    scores = [
        compute_score("countdown", text, {"target": problem.target, "numbers": list(problem.numbers)})
        for text, problem in zip(texts, problems, strict=True)
    ]
    equations = [match.groups() for text in texts for match in _EQUATION.finditer(text)]
    right = sum(traces.apply(int(a), sign, int(b)) == int(c) for a, sign, b, c in equations)
    count = len(problems)
    return Scores(
        temperature=temperature,
        limit=limit,
        problems=count,
        accuracy=round(sum(score["acc"] for score in scores) / count, 3),
        format=round(sum(score["format"] for score in scores) / count, 3),
        length=round(sum(map(len, rows)) / count, 1),
        trials=round(sum(text.count(" not it,") + text.count(" this works") for text in texts) / count, 2),
        equations_right=round(right / max(len(equations), 1), 3),
    )


def measure(model: Qwen2ForCausalLM) -> list[Scores]:
    """Return the scores on all held-out problems, for each of `LIMITS` at each of `TEMPERATURES`."""
    problems = traces.held_out_problems()
    return [evaluate(model, problems, temperature, limit) for limit in LIMITS for temperature in TEMPERATURES]
