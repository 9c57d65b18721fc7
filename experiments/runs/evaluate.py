"""`evaluate`: how good a checkpoint is, from many answers to each problem."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from experiments.errors import UserError
from experiments.runs.chosen_step import chosen_step
from experiments.runs.status import ago
from experiments.store.code_copy import relocated
from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir
from experiments.terminal import counted, printable

PROGRESS_SECONDS = 5.0  # between lines of progress


def evaluate(run: RunDir, asked: int | None, samples: int, data: Path | None) -> int:
    """Sample a checkpoint on the run's validation problems, or on those of `data`; print its scores; return 0.

    UserError for a step without a checkpoint, or problems that can't be read.
    """
    if samples < 1:
        raise UserError(f"--samples must be 1 or more answers to a problem, but is {samples}; e.g. 64")
    step, config = chosen_step(run, asked), relocated(run.load_config())
    from experiments.trained import answers, evaluation, problems
    from experiments.trained.sampling import Sampling
    from experiments.trained.scoring import Scorer

    asked_for = problems.validation_problems(config) if data is None else problems.file_problems(data, config)
    scorer, sampling = Scorer(config), Sampling.of(config)
    if sampling.temperature <= 0 and samples > 1:
        raise UserError(
            "--samples must be 1 for a run whose validation is greedy (val_kwargs.temperature=0), since all answers "
            f"to a problem would be the same, but is {samples}; give --samples 1"
        )
    with run.wanted():  # `clean` must not delete the checkpoint meanwhile
        from experiments.trained.policy import opened, uses_vllm

        engine = "vllm" if uses_vllm(config) else "transformers"
        determined = evaluation.settings(step, asked_for, sampling, scorer, engine)
        folder = answers.opened(run, step, "validation" if data is None else data.stem, determined)
        with folder.held():
            todo = evaluation.missing(folder, asked_for, samples)
            wanted = len(asked_for) * samples
            there = f", {wanted - len(todo)} of them are there" if len(todo) < wanted else ""
            _say(f"{run.path.name}, step {step}: {counted(wanted, 'answer')} to {len(asked_for)} problems{there}")
            if todo:
                with opened(run, config, step) as policy:
                    evaluation.answer_all(policy, asked_for, todo, sampling, scorer, folder, step, Progress().told)
            result = evaluation.result(folder, asked_for, samples)
            write_atomically(folder.path / "summary.json", json.dumps(asdict(result), indent=1) + "\n")
    for line in lines(result, sampling.temperature):
        _say(line)
    _say(f"answers: {folder.file}")
    return 0


def lines(result: object, temperature: float) -> list[str]:
    """Return what is printed of an evaluation.Result."""
    from experiments.pass_at import shown
    from experiments.trained.evaluation import Result

    assert isinstance(result, Result)
    rows = [("accuracy", result.accuracy), *result.parts.items()]
    rows += [(f"pass@{k}", result.pass_at[k]) for k in shown(result.pass_at) if k > 1]
    width = max(len(name) for name, _ in rows)
    found = [f"  {name:<{width}}  {mean:.3f}  [{low:.3f}, {high:.3f}]" for name, (mean, low, high) in rows]
    if not result.pass_at:
        found.append("  no pass@k: an answer may be right in part")
    how = f"sampled at T = {temperature:g}" if temperature > 0 else "greedy"
    about = f"{counted(result.problems, 'problem')}, {counted(result.samples, 'answer')} each, {how}"
    return [f"{about}, {result.length:.0f} tokens in the mean; 95% intervals over problems", *found]


class Progress:
    """Prints how far the answers are, on standard error, every few seconds."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def told(self, done: int, of: int) -> None:
        """Print a line if it is time for one, or all is done."""
        now = time.monotonic()
        if now - self.last >= PROGRESS_SECONDS or done == of:
            left = (now - self.began) / done * (of - done)
            print(f"{done}/{of} answers{f', {ago(left)} left' if done < of else ''}", file=sys.stderr, flush=True)
            self.last = now


def _say(text: str) -> None:
    print(printable(text), flush=True)
