"""`evaluate`: sample answers to problems, score them and keep them; a repeated command goes on where it was ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from experiments.pass_at import over_problems, pass_curve
from experiments.trained.answers import Answers
from experiments.trained.problems import Problem, digest
from experiments.trained.sampling import Sampling
from experiments.trained.scoring import Scorer

if TYPE_CHECKING:
    from experiments.trained.policy import Asked, Policy


@dataclass(frozen=True)
class Result:
    """The numbers of an evaluation, each as (mean, low, high) with its 95% interval over problems."""

    problems: int
    samples: int
    accuracy: tuple[float, float, float]
    parts: dict[str, tuple[float, float, float]]
    """The reward function's other shares, such as format."""
    pass_at: dict[int, tuple[float, float, float]]
    """{k: pass@k} for every k up to `samples`; {} where an answer may be right in part."""
    length: float
    """Mean tokens of an answer."""


def settings(step: int, problems: list[Problem], sampling: Sampling, scorer: Scorer, engine: str) -> dict[str, Any]:
    """Return all that determines an evaluation's answers and scores, but for their number."""
    return {
        "step": step,
        "problems": digest(problems),
        "sampling": asdict(sampling),
        "reward": {"code": scorer.digest, "name": scorer.name, "arguments": scorer.arguments},
        "engine": engine,
    }


def missing(answers: Answers, problems: Sequence[Problem], samples: int) -> list[tuple[int, int]]:
    """Return the (problem, sample) that are still to be answered, in order."""
    there = answers.rows().keys()
    return [(p.index, k) for p in problems for k in range(samples) if (p.index, k) not in there]


def answer_all(
    policy: Policy,
    problems: Sequence[Problem],
    todo: Sequence[tuple[int, int]],
    sampling: Sampling,
    scorer: Scorer,
    answers: Answers,
    step: int,
    told: Callable[[int, int], None],
) -> None:
    """Sample, score and write the answers of `todo`. `told`: is called with (answers done, of all) after each part."""
    known = {problem.index: problem for problem in problems}
    asked = _asked(policy, known, todo)
    done, together = 0, policy.engine.together
    for start in range(0, len(asked), together):
        part = asked[start : start + together]
        rows = []
        for one, (text, length) in zip(part, policy.texts(part, sampling), strict=True):
            problem = known[one.problem]
            parts = scorer.score(problem, text)
            where = {"problem": one.problem, "sample": one.sample, "step": step, "data_source": problem.data_source}
            said = {"input": policy.seen(one.prompt), "output": text, "gts": problem.ground_truth, "tokens": length}
            rows.append({**parts, **where, **said})
        answers.add(rows)
        done += len(part)
        told(done, len(asked))


def _asked(policy: Policy, known: Mapping[int, Problem], todo: Sequence[tuple[int, int]]) -> list[Asked]:
    from experiments.trained.policy import Asked

    prompts = {index: policy.prompt(known[index]) for index in dict.fromkeys(index for index, _ in todo)}
    return [Asked(prompts[index], index, sample) for index, sample in todo]


def result(answers: Answers, problems: Sequence[Problem], samples: int) -> Result:
    """Return the numbers of the first `samples` answers to each problem, all of which are there."""
    from scipy.special import stdtrit

    rows = answers.rows()
    table = [[rows[problem.index, k] for k in range(samples)] for problem in problems]
    quantile = float(stdtrit(max(len(problems) - 1, 1), 0.975))

    def share(part: str) -> tuple[float, float, float]:
        return over_problems([sum(float(row[part]) for row in own) / samples for own in table], quantile)

    whole = all(row["acc"] in (0, 1) for own in table for row in own)
    counts = [(samples, round(sum(row["acc"] for row in own))) for own in table]
    curve = pass_curve(counts) if whole else {}
    return Result(
        problems=len(problems),
        samples=samples,
        accuracy=share("acc"),
        parts={part: share(part) for part in _shares(row for own in table for row in own)},
        pass_at={k: over_problems(chances, quantile) for k, chances in curve.items()},
        length=sum(row["tokens"] for own in table for row in own) / (samples * len(problems)),
    )


def _shares(rows: Iterator[dict[str, Any]]) -> list[str]:
    """Return the score parts, but for accuracy and score, that are a number from 0 to 1 in every answer."""
    aside = ("acc", "score", "problem", "sample", "step", "tokens", "gts")
    left: set[str] | None = None
    for row in rows:
        own = {key for key, value in row.items() if isinstance(value, int | float) and 0 <= value <= 1}
        left = own if left is None else left & own
    return sorted((left or set()).difference(aside))
