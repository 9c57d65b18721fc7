"""The reward of countdown, as veRL calls it: `reward.custom_reward_function.path` of this file, name `compute_score`.

The answer is what stands in the last closed <answer>..</answer> of the response. In mode "strict":

| the answer                                                                          | score          | format |
|-------------------------------------------------------------------------------------|----------------|--------|
| an equation of the strict grammar, each number exactly once, exactly the target     | 1.0            | 1      |
| looks like an equation (equation.looks_like_equation), but is wrong in any way      | `format_score` | 1      |
| anything else: none, not closed, empty, words                                       | 0.0            | 0      |

That is the article's reward without the free 0.1 for an empty answer or words. As in the article, <think> tags are not
required. In mode "tinyzero" the score is TinyZero's, bug for bug; `acc` and `format` stay strict.
"""

import contextlib
import re
import zlib
from typing import Any

# By absolute name: veRL loads this file by its path, outside of the package.
from experiments.errors import UserError
from experiments.tasks.countdown import equation, tinyzero

MODES = ("strict", "tinyzero")

_OPEN, _CLOSE = "<answer>", "</answer>"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # would garble a terminal or a UTF-8 log

_HASHED = 256  # a hash of so many characters at the end of a response chooses the samples to print

_NO_ANSWER = "no answer"
_NO_EQUATION = "not an equation"
_NUMBERS = "does not use each number exactly once"
_NO_VALUE = "cannot be evaluated"
_WRONG = "wrong value"
_RIGHT = "right"


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: dict[str, Any],
    extra_info: dict[str, Any] | None = None,
    mode: str = "strict",
    format_score: float = 0.1,
    log_every: int = 0,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response. Never raises, evaluates or hangs on any `solution_str`.

    Args:
        data_source: ignored; veRL passes it, like `extra_info` and further keywords.
        solution_str: the response alone, without the prompt, as veRL passes it.
        ground_truth: {"target": int, "numbers": sequence of int}.
        mode: which score is the reward, "strict" or "tinyzero".
        format_score: the reward of an answer that is there but not right.
        log_every: print one response in so many, chosen by a hash so that no random state is touched; 0: none.

    Returns:
        score: the reward; acc: 1.0 if strictly right, else 0.0; format: 1.0 if the answer looks like an equation, else
        0.0; hack: 1.0 if TinyZero's score is 1.0 and the answer is not strictly right, else 0.0.

    Raises:
        UserError: `mode` is neither "strict" nor "tinyzero".
    """
    if mode not in MODES:
        raise UserError(f"the reward's mode must be strict or tinyzero, but is {mode!r}; set it to one of them")
    target = int(ground_truth["target"])
    numbers = sorted(ground_truth["numbers"])

    answer = extract(solution_str)
    verdict = _NO_ANSWER if answer is None else _judge(answer, target, numbers)
    right = verdict is _RIGHT
    well_formed = not (verdict is _NO_ANSWER or verdict is _NO_EQUATION)
    # A right answer is no hack, whatever TinyZero says about it: then only mode "tinyzero" needs TinyZero's score.
    theirs = tinyzero.extract(solution_str) if mode == "tinyzero" or not right else None
    accepted = theirs is not None and tinyzero.is_right(theirs, target, numbers)
    if mode == "strict":
        score = 1.0 if right else float(format_score) if well_formed else 0.0
    else:
        score = 1.0 if accepted else float(format_score) if theirs is not None else 0.0
    if log_every and zlib.crc32(solution_str[-_HASHED:].encode("utf-8", "surrogatepass"), target) % log_every == 0:
        verdict += f"; {mode} score {score:g}" + (", a hack" if accepted and not right else "")
        _print_sample(solution_str, ground_truth, answer, verdict)
    return {
        "score": score,
        "acc": 1.0 if right else 0.0,
        "format": 1.0 if well_formed else 0.0,
        "hack": 1.0 if accepted and not right else 0.0,
    }


def extract(response: str) -> str | None:
    """Return the text in the last closed <answer>..</answer> of a response, of any number of lines; None if none is."""
    start = response.rfind(_OPEN)
    if start < 0:
        return None
    end = response.find(_CLOSE, start)
    if end < 0:  # the last <answer> is left open
        last = response.rfind(_CLOSE, 0, start)
        start = response.rfind(_OPEN, 0, max(last, 0))
        if start < 0:
            return None
        end = response.find(_CLOSE, start)
    return response[start + len(_OPEN) : end]


def _judge(answer: str, target: int, numbers: list[int]) -> str:
    """Return the verdict on an answer by the strict grammar, in exact arithmetic."""
    if len(answer) > equation.MAX_LENGTH:
        return _NO_EQUATION
    if equation.integers(answer) == numbers:
        value = equation.evaluate(answer)
        if value is not None:
            top, bottom = value
            return _RIGHT if top == target * bottom else _WRONG
        if equation.looks_like_equation(answer):
            return _NO_VALUE
    elif equation.looks_like_equation(answer):
        return _NUMBERS
    return _NO_EQUATION


def _print_sample(response: str, ground_truth: dict[str, Any], answer: str | None, verdict: str) -> None:
    """Print one sample in full, in one piece (responses are scored in threads), control characters escaped."""
    lines = (
        "-" * 32,
        f"target {ground_truth['target']}, numbers {list(ground_truth['numbers'])}",
        f"answer: {answer}",
        f"verdict: {verdict}",
        f"response: {response}",
    )
    text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], "\n".join(lines))
    with contextlib.suppress(OSError, ValueError):  # a full disk or a closed pipe must not end a training run
        print(text, flush=True)
