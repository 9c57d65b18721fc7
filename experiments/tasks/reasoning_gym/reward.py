"""The reward of task=reasoning_gym, as veRL calls it: the data set's own score of the last <answer>..</answer>."""

from functools import cache
from typing import Any

# By absolute name: veRL loads this file by its path, outside of the package.
from experiments.tasks.confined import Judge
from experiments.tasks.countdown.reward import extract
from experiments.tasks.reasoning_gym import judge

MAX_LENGTH = 10_000  # characters of an answer; the longest right ones have some thousand


def compute_score(
    data_source: str, solution_str: str, ground_truth: dict[str, str], extra_info: Any = None, **kwargs: Any
) -> dict[str, float]:
    """Score one response. Evaluates nothing of it, and ends within the limits of confined.py.

    Args:
        data_source: ignored; veRL passes it, like `extra_info` and further keywords.
        solution_str: the response alone, without the prompt, as veRL passes it.
        ground_truth: as draw.py makes it: the data set's name, its config, the problem.

    Returns:
        score: reasoning-gym's score, which may be partial; acc: 1.0 for a full score, else 0.0; format: 1.0 if there is
        an answer, else 0.0.

    Raises:
        RuntimeError: reasoning-gym can't be loaded.
    """
    answer = (extract(solution_str) or "").strip()
    if not answer:
        return {"score": 0.0, "acc": 0.0, "format": 0.0}
    score = None
    if len(answer) <= MAX_LENGTH:
        score = _judge(ground_truth["dataset"], ground_truth["config"]).ask(
            {"answer": answer, "entry": ground_truth["entry"]}
        )
    return {"score": score or 0.0, "acc": float(score == 1.0), "format": 1.0}


@cache  # one process for all threads of a reward worker
def _judge(name: str, config: str) -> Judge:
    return Judge(judge.__name__, name, config)
