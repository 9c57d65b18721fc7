"""What scoring one response costs: this project's reward and the regex-and-eval way of TinyZero, in one run.

    python -m benchmarks.reward

Responses are typical ones: long texts of a 3B model and short ones of the miniature, right and wrong. The TinyZero way
is written here afresh: it gets the prompt and the response, splits lines, finds the answer with a regular expression,
checks the numbers and calls `eval`. All are timed alternately; medians in microseconds.
"""

import random
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.tasks.countdown.problems import Problem
from experiments.tasks.countdown.prompts import render
from experiments.tasks.countdown.reward import compute_score

ROUNDS = 41
CALLS = 200
NEVER = 1 << 31  # the hash that chooses samples to print is computed, but hardly ever chooses one

_THINKING = (
    " I need to make an equation with the given numbers that equals the target. Let me try some combinations.\n"
    "44 + 19 = 63, 63 + 35 = 98. Ok, how about 44 + 35 = 79, then 79 + 19 = 98? This works.\n"
    "Let's try another combination to be sure: 44 * 2 is not allowed since each number can only be used once.\n"
)
_LONG = Problem((44, 19, 35), 98)
_SHORT = Problem((3, 7, 12), 63)
_SEARCH = "3 + 7 = 10 , 10 * 12 = 120 not try 12 - 3 = 9 , 9 * 7 = 63 yes </think> "
CASES = (
    ("3B, 300 characters, right", "base", _LONG, _THINKING + "</think>\n<answer> 44 + 19 + 35 </answer>"),
    ("3B, 300 characters, wrong value", "base", _LONG, _THINKING + "</think>\n<answer> (44 - 19) * 35 </answer>"),
    ("3B, 3000 characters, right", "base", _LONG, _THINKING * 10 + "</think>\n<answer> 44 + 19 + 35 </answer>"),
    ("3B, 3000 characters, wrong numbers", "base", _LONG, _THINKING * 10 + "</think>\n<answer> 44 + 54 </answer>"),
    ("3B, 3000 characters, no answer", "base", _LONG, _THINKING * 10),
    ("3B, tail '= 98'", "base", _LONG, _THINKING + "</think>\n<answer> 44 + 19 + 35 = 98 </answer>"),
    ("miniature, right", "compact", _SHORT, _SEARCH + "<answer> ( 12 - 3 ) * 7 </answer>"),
    ("miniature, wrong value", "compact", _SHORT, _SEARCH + "<answer> ( 12 + 3 ) * 7 </answer>"),
    ("miniature, wrong value, division", "compact", _SHORT, _SEARCH + "<answer> 12 / 3 * 7 </answer>"),
    ("miniature, wrong numbers", "compact", _SHORT, _SEARCH + "<answer> ( 12 - 5 ) * 7 </answer>"),
    ("miniature, no answer", "compact", _SHORT, _SEARCH),
)


def regex_and_eval(text: str, ground_truth: dict[str, Any]) -> float:
    """The TinyZero way, on a prompt and a response. For the texts above only: `eval` of a model's text is unsafe."""
    random.randint(1, 64)  # its choice of the samples to print; ours, by a hash, is in the time of `compute_score`
    if "Assistant:" not in text:
        return 0.0
    last_line = text.split("Assistant:", 1)[1].split("\n")[-1]
    found = list(re.finditer(r"<answer>(.*?)</answer>", last_line))
    if not found:
        return 0.0
    answer = found[-1].group(1).strip()
    if sorted(int(run) for run in re.findall(r"\d+", answer)) != sorted(ground_truth["numbers"]):
        return 0.1
    if not re.match(r"^[\d+\-*/().\s]+$", answer):
        return 0.1
    try:
        value = eval(answer, {"__builtins__": None}, {})
    except Exception:
        return 0.1
    return 1.0 if abs(value - ground_truth["target"]) < 1e-5 else 0.1


def microseconds(call: Callable[[], object]) -> float:
    """Return the microseconds that one call takes, as the mean of CALLS calls."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    """Print the table."""
    print(f"{'response':36s} {'regex+eval':>10s} {'strict':>8s} {'tinyzero':>8s}   strict is faster by")
    ratios = []
    for name, template, problem, response in CASES:
        truth = {"target": problem.target, "numbers": list(problem.numbers)}
        prompt = render(template, problem)[0]["content"]
        # TinyZero knows no compact prompt; for the miniature its marker is put before the response.
        text = (prompt if "Assistant:" in prompt else prompt + " Assistant:") + response
        ways: tuple[Callable[[], object], ...] = (
            partial(regex_and_eval, text, truth),
            partial(compute_score, "countdown", response, truth, log_every=NEVER),
            partial(compute_score, "countdown", response, truth, mode="tinyzero", log_every=NEVER),
        )
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(ROUNDS):
            for way, record in zip(ways, times, strict=True):
                record.append(microseconds(way))
        theirs, strict, tinyzero = map(statistics.median, times)
        ratios.append(theirs / strict)
        print(f"{name:36s} {theirs:10.2f} {strict:8.2f} {tinyzero:8.2f}   {theirs / strict:.2f} x")
    print(f"strict is faster by {statistics.median(ratios):.2f} x in the median, at worst by {min(ratios):.2f} x")


if __name__ == "__main__":
    main()
