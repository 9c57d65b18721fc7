"""A validation: how often each row is answered, and what its metrics are.

Read in veRL 0.9.1: verl/trainer/ppo/metric_utils.py (process_validation_metrics), trainer_base.py (_validate).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.pass_at import pass_at
from experiments.verl_plugin.rollout.agent_loop import GREEDY, ROLLOUT_N


class ValidationRows:
    """The batches of a validation, with the number of answers that each row gets.

    A sampled row gets val_kwargs.n answers. A greedy row gets one, since all its answers would be the same.
    """

    def __init__(self, loader: Any, n: int) -> None:
        self.loader, self.n = loader, n
        self.batches: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.batches = []
        for batch in self.loader:
            agents = batch.get("agent_name", [None] * len(batch["raw_prompt"]))
            batch[ROLLOUT_N] = np.array([1 if agent == GREEDY else self.n for agent in agents], dtype=object)
            self.batches.append(batch)
            yield batch

    def sources(self) -> dict[str, str]:
        """Return {uid: data source} of the rows of the last validation."""
        return {
            str(uid): str(source)
            for batch in self.batches
            for uid, source in zip(batch.get("uid", ()), batch.get("data_source", ()), strict=False)
        }


def numbered(uids: Sequence[str]) -> list[str]:
    """Return an id of its own for each answer: `uid/k` for the k-th answer to a row, from 0."""
    seen: Counter[str] = Counter()
    ids = []
    for uid in uids:
        ids.append(f"{uid}/{seen[uid]}")
        seen[uid] += 1
    return ids


def one_each(expected: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Return how many answers are expected of each (data source, id of `numbered`): one."""
    return {(source, f"{uid}/{k}"): 1 for (source, uid), n in expected.items() for k in range(n)}


def named_by_n(metrics: Mapping[str, float], most: Mapping[str, int]) -> dict[str, float]:
    """Return metrics whose names end in mean@1 under the name mean@N, where `most` has N by data source."""
    renamed = {}
    for name, value in metrics.items():
        source = next((s for s in most if name.startswith((f"val-core/{s}/", f"val-aux/{s}/"))), None)
        renamed[name[: -len("1")] + str(most[source]) if source and name.endswith("/mean@1") else name] = value
    return renamed


def powers(n: int) -> list[int]:
    """Return 2, 4, 8 ... below n, and n itself; [] for n = 1."""
    return sorted({2**i for i in range(1, n.bit_length()) if 2**i < n} | {n}) if n > 1 else []


def pass_metrics(
    data_sources: Sequence[str], uids: Sequence[str], accuracies: Iterable[Any], expected: Mapping[tuple[str, str], int]
) -> dict[str, float]:
    """Return val-aux/<source>/acc/pass@k, the mean over a source's rows, for k = 2, 4, 8 ... up to their n.

    veRL's best@k draws the k answers with replacement, which is biased low. An answer that failed counts as wrong. A
    source whose accuracies are not all 0 or 1 gets none.
    """
    answers: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for source, uid, accuracy in zip(data_sources, uids, accuracies, strict=True):
        if accuracy is not None:
            answers[str(source)][str(uid)].append(float(accuracy))
    found = {}
    for source, rows in answers.items():
        if any(accuracy not in (0.0, 1.0) for row in rows.values() for accuracy in row):
            continue
        sizes = {uid: n for (own, uid), n in expected.items() if own == source} or {u: len(r) for u, r in rows.items()}
        for k in powers(min(sizes.values())):
            chances = [pass_at(n, round(sum(rows.get(uid, []))), k) for uid, n in sizes.items()]
            found[f"val-aux/{source}/acc/pass@{k}"] = float(np.mean(chances))
    return found
