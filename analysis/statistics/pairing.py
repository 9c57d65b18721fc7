"""Whether the seeds of two arms make pairs: the same seed saw the same data in the same order in both."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.design.factors import setting
from analysis.records.record import RunRecord

# What decides which problems a step trains on. Keys that neither config has are equal.
ORDER = ("data.seed", "data.train_batch_size", "data.shuffle", "data.gen_batch_size", "data.train_max_samples")
DATA = ("task.name", "task.digest", "task.data_seed", "task.train_size", "task.source")


def paired(ones: Sequence[RunRecord], others: Sequence[RunRecord]) -> bool:
    """Return whether the runs, in their order, are pairs of one seed each, of which both trained on the same data."""
    return (
        len(ones) == len(others) > 1
        and all(one.seed is not None and one.seed == other.seed for one, other in zip(ones, others, strict=True))
        and all(
            setting(one, key) == setting(other, key)
            for one, other in zip(ones, others, strict=True)
            for key in (*ORDER, *DATA)
        )
    )
