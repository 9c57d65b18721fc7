"""How long the article's 490,364 problems take to make, every one verified to be solvable.

    python -m benchmarks.problems

`generate` itself evaluates a solution of every problem in exact arithmetic. Here, outside of the measured time, the
other solver and the reward check a sample once more.
"""

import random
import time
from collections import Counter

from experiments.tasks.countdown.problems import ARTICLE, generate, key
from experiments.tasks.countdown.reward import compute_score
from experiments.tasks.countdown.solver import solve

COUNT = 490_364  # rows of Jiayi-Pan/Countdown-Tasks-3to4
SAMPLE = 2000


def main() -> None:
    """Print the time, and the result of the check."""
    start = time.perf_counter()
    problems = generate(ARTICLE, COUNT, seed=0)
    seconds = time.perf_counter() - start
    sizes = Counter(len(problem.numbers) for problem in problems)
    print(f"{COUNT:,} solvable problems in {seconds:.1f} s in one process, {COUNT / seconds:,.0f} a second")
    print(f"distinct up to order: {len({key(problem) for problem in problems}):,}; how many numbers: {dict(sizes)}")

    right = 0.0
    for problem in random.Random(0).sample(problems, SAMPLE):
        answer = f"<answer>{solve(problem.numbers, problem.target)}</answer>"
        truth = {"target": problem.target, "numbers": problem.numbers}
        right += compute_score("countdown", answer, truth)["acc"]
    print(f"a sample of {SAMPLE:,} solved over the rationals and scored by the reward: {right:.0f} right")


if __name__ == "__main__":
    main()
