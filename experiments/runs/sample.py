"""`sample`: what a checkpoint says to one prompt."""

from __future__ import annotations

from experiments.errors import UserError
from experiments.runs.chosen_step import chosen_step
from experiments.store.code_copy import relocated
from experiments.store.rundir import RunDir
from experiments.terminal import printable


def sample(run: RunDir, asked: int | None, prompt: str | None, number: int | None, greedy: bool) -> int:
    """Print a prompt, as the model reads it, and one answer; of a problem of the task its scores, too; return 0.

    Args:
        prompt: a whole prompt, which gets no template; None: a validation problem.
        number: that of the validation problem; None: the first.
    """
    if prompt is not None and number is not None:
        raise UserError("PROMPT and --problem exclude each other; leave one out")
    if prompt is not None and not prompt.strip():
        raise UserError("PROMPT must be a text, but is empty; leave it out to take a problem of the task")
    step, config = chosen_step(run, asked), relocated(run.load_config())
    from experiments.trained.problems import Problem, validation_problems
    from experiments.trained.sampling import Sampling
    from experiments.trained.scoring import Scorer

    scorer = None
    if prompt is not None:
        problem = Problem(0, ({"role": "user", "content": prompt},), None, "", {})
    else:
        known, number = validation_problems(config), number or 0
        if not 0 <= number < len(known):
            raise UserError(f"--problem must be from 0 to {len(known) - 1}, but is {number}")
        problem, scorer = known[number], Scorer(config)
    sampling = Sampling.of(config)
    with run.wanted():
        from experiments.trained.policy import Asked, opened

        with opened(run, config, step) as policy:
            ids = policy.prompt(problem)
            wanted = Asked(ids, problem.index, 0)
            ((text, length),) = policy.texts([wanted], sampling.greedy() if greedy else sampling)
            seen = policy.seen(ids)
    how = "greedy" if greedy or sampling.temperature <= 0 else f"sampled at T = {sampling.temperature:g}"
    print(printable(f"{run.path.name}, step {step}, {how}, {length} tokens\n\n{seen}\n---\n{text}"))
    if prompt is not None and prompt.split() != seen.split():
        print("\nthe model did not read all of PROMPT: its tokenizer lacks some of the characters")
    if scorer is not None:
        scores = "  ".join(f"{key} {value}" for key, value in scorer.score(problem, text).items())
        print(printable(f"\n{scores}"))
    return 0
