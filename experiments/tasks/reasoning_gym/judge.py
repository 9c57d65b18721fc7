"""Score answers with the scorer of a data set, in a process of its own (experiments/tasks/confined.py).

Its arguments are the data set's name and its config as JSON.
"""

from __future__ import annotations

import ast
import json
import math
import sys
from collections.abc import Callable
from typing import Any

from experiments.tasks import confined
from experiments.tasks.reasoning_gym.offered import REFUSED, made_safe, version_problem


def scorer(name: str, config: str) -> Callable[[Any], float]:
    """Return a function that scores {"answer", "entry"} from 0 to 1, and evaluates nothing of the answer.

    `entry` is a problem as Python text (see draw.py). The score is 0 if the scorer raises: some do for an answer that
    they can't read.

    Raises RuntimeError if the data set is refused, or is of another version of reasoning-gym.
    """
    if (problem := version_problem()) or (problem := REFUSED.get(name)):
        raise RuntimeError(problem)
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    made_safe(name, sys.modules[DATASETS[name][0].__module__])
    dataset = reasoning_gym.create_dataset(name, seed=0, size=1, **json.loads(config))

    def score(request: Any) -> float:
        try:
            given = float(dataset.score_answer(request["answer"], ast.literal_eval(request["entry"])))
        except MemoryError:
            raise
        except Exception:
            return 0.0
        return min(max(given, 0.0), 1.0) if math.isfinite(given) else 0.0

    return score


if __name__ == "__main__":
    confined.serve(lambda: scorer(*sys.argv[1:]))
