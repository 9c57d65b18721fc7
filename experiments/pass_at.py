"""pass@k: how often at least one of k answers to a problem is right, estimated from n answers of which c are.

This is the unbiased estimate of Chen et al. 2021 (Codex, arXiv 2107.03374, equation 1), for every k up to n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

Counts = Sequence[tuple[int, int]]
"""(n answers, c of them right) of each problem."""


@lru_cache(maxsize=65536)  # few pairs (n, c) occur, and each with every k
def pass_at(n: int, correct: int, k: int) -> float:
    """Return 1 - C(n - correct, k) / C(n, k); ValueError unless 1 <= k <= n."""
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the {n} answers of a problem, but is {k}")
    # Exactly, by integers: a ratio of floats would overflow where n is a few thousand.
    missed = math.comb(n - correct, k)
    return 1.0 - missed / math.comb(n, k) if missed else 1.0


def pass_curve(counts: Counts) -> dict[int, list[float]]:
    """Return {k: the problems' pass@k} for every k up to the fewest answers that a problem has; {} without problems."""
    most = min((n for n, _ in counts), default=0)
    return {k: [pass_at(n, correct, k) for n, correct in counts] for k in range(1, most + 1)}


def over_problems(chances: Sequence[float], quantile: float) -> tuple[float, float, float]:
    """Return (mean, low, high) of a number from 0 to 1 that each of some problems has, the problems being a sample.

    `quantile`: how many standard errors the interval reaches to each side; Student's with one degree of freedom fewer
    than there are problems. It is Wilson's interval of a share, for as many yes-or-no answers as would vary as much as
    these numbers. So it lies within 0 and 1, and is not empty where all numbers are equal.
    """
    count = len(chances)
    mean = math.fsum(chances) / count
    spread = math.fsum((chance - mean) ** 2 for chance in chances) / max(count - 1, 1)
    answers = count * max(1.0, mean * (1 - mean) / spread) if spread > 0 else float(count)
    squared = quantile**2 / answers
    middle = (mean + squared / 2) / (1 + squared)
    reach = math.sqrt(squared * mean * (1 - mean) + squared**2 / 4) / (1 + squared)
    return mean, max(0.0, min(mean, middle - reach)), min(1.0, max(mean, middle + reach))


def shown(ks: Mapping[int, object]) -> list[int]:
    """Return the k that a table shows: 1, 2, 4, 8 ... and the largest."""
    return sorted({k for k in ks if k & (k - 1) == 0} | {max(ks)}) if ks else []
