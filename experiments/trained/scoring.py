"""Score answers with a run's own reward function, called as veRL's reward manager calls it. Light."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.digests import code_digest
from experiments.errors import UserError
from experiments.project import PROJECT_DIR
from experiments.tasks import user_code
from experiments.trained.problems import Problem
from experiments.values import at, is_number

KEY = "reward.custom_reward_function.path"


class Scorer:
    """The reward function of a config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        chosen = at(config, "reward.custom_reward_function")
        if not at(chosen, "path"):
            raise UserError(f"{KEY} must name the reward function's file, but the run has none; it can't be scored")
        self.file, self.name = Path(chosen["path"]), str(chosen["name"])
        self.arguments = dict(chosen.get("reward_kwargs") or {})
        if not self.file.is_file():
            raise UserError(f"{KEY} must be a file, but {self.file} is not there; put it back")
        self.digest = code_digest((self.file,), PROJECT_DIR)
        with _quiet():
            function: Any = getattr(user_code.load(self.file, KEY), self.name, None)
        if not callable(function):
            raise UserError(f"{KEY} must have a function {self.name}, but {self.file} has none; put it back")
        self.function = function

    def score(self, problem: Problem, response: str) -> dict[str, Any]:
        """Return a response's score parts: `score`, `acc` (the score where the function has none), and its others."""
        with _quiet(), user_code.user_errors(self.name, self.file, KEY):
            given = self.function(
                data_source=problem.data_source,
                solution_str=response,
                ground_truth=problem.ground_truth,
                extra_info={**problem.extra, "num_turns": 2, "rollout_reward_scores": {}},
                **self.arguments,
            )
            given = asyncio.run(given) if inspect.iscoroutine(given) else given
        parts = dict(given) if isinstance(given, Mapping) else {"score": given}
        score = _plain(parts.get("score"))
        accuracy = _plain(parts.get("acc", score))
        if not is_number(score) or not is_number(accuracy):
            raise UserError(
                f"{self.name} of {KEY}={self.file} must return a number, or a dict whose score and acc are numbers, "
                f"but returns {user_code.short(given)}; mend it"
            )
        return {**parts, "score": float(score), "acc": float(accuracy)}


def _plain(value: Any) -> Any:
    """Return a number of NumPy's, or a truth value, as a plain number."""
    return float(value) if isinstance(value, bool) else value.item() if hasattr(value, "item") else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a reward function prints (samples of a training) from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
