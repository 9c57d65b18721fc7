"""Check a reward function before anything starts: call it on a row with responses that break a careless one.

A model may write anything: nothing at all, half a tag, a power that takes years. A reward function must score all of
it, and quickly.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.tasks import user_code
from experiments.tasks.user_code import short

KEY = "reward.custom_reward_function.path"
PART = "algorithm.filter_groups.metric"  # veRL reads this part of each score, and stops at a score without it
REWARD = "reward"  # as PART it means the score itself
SECONDS = 60.0  # for loading the file and scoring all of RESPONSES; a slow import takes most of it
RESPONSES = (
    "",
    "<answer>",
    "</answer> 1 <answer></answer>",
    "<think> \x00\ufffd\u202e {} %s \\ </think> <answer> 1 / 0 </answer>",
    "<answer>" + "(" * 5000 + "</answer>",
    "<answer> 9**9**9 </answer>",
)


def reward_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the reward function of a resolved config, by calling it on the first row of its train file."""
    chosen = config["reward"]["custom_reward_function"]
    files = config["data"]["train_files"]
    file = files[0] if isinstance(files, list) and files else files
    if chosen["path"] is None or not file:
        return []
    kwargs = json.dumps(chosen.get("reward_kwargs") or {}, sort_keys=True)
    filters = config.get("algorithm", {}).get("filter_groups") or {}
    part = str(filters.get("metric")) if filters.get("enable") else REWARD
    return list(_problems(str(chosen["path"]), str(chosen["name"]), kwargs, str(file), part))


@cache  # the arms of a sweep share the reward function and the data
def _problems(path: str, name: str, kwargs: str, train_file: str, part: str = REWARD) -> tuple[str, ...]:
    try:
        row = first_row(Path(train_file))
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # checks/data_files.py reports it
    request = {"path": path, "name": name, "kwargs": json.loads(kwargs), "row": row, "part": part}
    try:
        if user_code.is_ours(Path(path)):
            with contextlib.redirect_stdout(io.StringIO()):
                check(request, lambda about: None)
        else:
            user_code.ask("experiments.tasks.reward_check", request, KEY, SECONDS)
    except UserError as error:
        return error.problems
    except user_code.TookTooLong as late:
        return (
            f"{name} of {KEY}={path} must score any response at once, but takes more than {SECONDS:g} s "
            f"{'to load' if late.about is None else f'for {short(late.about)}'}; read responses in bounded time, never "
            "with eval",
        )
    return ()


def first_row(file: Path) -> dict[str, Any]:
    """Return what the reward manager takes from the first row of a parquet file; ValueError if it has no rows."""
    import pyarrow.parquet as parquet

    for batch in parquet.ParquetFile(file).iter_batches(batch_size=1):
        row = batch.to_pylist()[0]
        return {
            "data_source": row["data_source"],
            "ground_truth": row["reward_model"]["ground_truth"],
            # veRL's naive reward manager adds these two for a single turn.
            "extra_info": {**(row.get("extra_info") or {}), "num_turns": 2, "rollout_reward_scores": {}},
        }
    raise ValueError(f"{file} is empty")


def check(request: Mapping[str, Any], say: Callable[[Any], None]) -> None:
    """Call a reward function as veRL does, on each of RESPONSES; UserError if one is not scored."""
    file, name = Path(request["path"]), request["name"]
    arguments = {**request["row"], "solution_str": "", **request["kwargs"]}
    score = user_code.function(user_code.load(file, KEY), name, arguments, KEY)
    for response in RESPONSES:
        say(response)
        try:
            given = score(**{**arguments, "solution_str": response, "extra_info": dict(arguments["extra_info"])})
            given = asyncio.run(given) if inspect.iscoroutine(given) else given
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{name} of {KEY}={file} must score any response, but raises {user_code.where(error, file)} for "
                f"{short(response)} and the ground truth {short(arguments['ground_truth'])}; return 0.0 for what "
                "can't be read"
            ) from error
        problem = _not_a_score(given)
        if problem:
            raise UserError(
                f'{name} of {KEY}={file} must return a number or a dict with "score", but returns {problem} for '
                f'{short(response)}; write e.g. return {{"score": 0.0, "acc": 0.0}}'
            )
        part = request.get("part", REWARD)
        parts = given if isinstance(given, dict) else {"acc": given}  # so veRL's reward managers call a bare number
        if part != REWARD and not _is_number(parts.get(part)):
            raise UserError(
                f"{name} of {KEY}={file} must return a number as {short(part)} with {PART}={part}, but returns "
                f"{short(given)} for {short(response)}; return it for every response, or set {PART}={REWARD}"
            )


def _not_a_score(given: Any) -> str | None:
    """Return the wrong part of what a reward function returned, in words; None if nothing is wrong."""
    if not isinstance(given, dict):
        return None if _is_number(given) else short(given)
    if not _is_number(given.get("score")):
        return short(given)
    odd = {
        key: value
        for key, value in given.items()
        if not (isinstance(key, str) and (_is_number(value) or isinstance(value, str)))
    }
    return f"also {short(odd)}, which is neither a number nor a text," if odd else None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, (str, bytes)) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


if __name__ == "__main__":
    user_code.answer(check)
