"""The reward of task=gsm8k and task=math, as veRL calls it: math-verify compares the last <answer>..</answer>."""

from typing import Any

# By absolute name: veRL loads this file by its path, outside of the package.
from experiments.tasks.confined import Judge
from experiments.tasks.countdown.reward import extract
from experiments.tasks.math import judge

MAX_LENGTH = 500  # characters of an answer

_JUDGE = Judge(judge.__name__)  # one process for all threads of a reward worker


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Any = None,
    format_score: float = 0.1,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response, within the limits of confined.py.

    Args:
        data_source: ignored; veRL passes it, like `extra_info` and further keywords.
        solution_str: the response alone, without the prompt, as veRL passes it.
        ground_truth: the right answer, in LaTeX.
        format_score: the reward of an answer that can be read but is not right.

    Returns:
        score: the reward; acc: 1.0 if the answer is right, else 0.0; format: 1.0 if math-verify can read it, else 0.0.

    Raises:
        RuntimeError: math-verify can't be loaded.
    """
    answer = (extract(solution_str) or "").strip()
    said = None
    if answer and len(answer) <= MAX_LENGTH:
        said = _JUDGE.ask({"answer": answer, "truth": ground_truth})
    right, read = (said["right"], said["read"]) if said else (False, False)
    return {"score": 1.0 if right else float(format_score) if read else 0.0, "acc": float(right), "format": float(read)}
