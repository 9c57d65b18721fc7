"""A score function that returns its parts for some responses only: the share of those responses is what is recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.store.files import read_jsonl
from tests.e2e.training import Command, rows


def answered(output: str) -> bool:
    return "<answer>" in output and "</answer>" in output


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_part_that_a_response_lacks_counts_as_0(own: Callable[[str], Command], fast: str) -> None:
    done = own(fast)
    attempt, row = done.run.attempts()[0], rows(done.run)[1]
    dumped = read_jsonl(attempt.rollouts / "1.jsonl")[0]
    share = sum(answered(sample["output"]) for sample in dumped) / len(dumped)
    assert 0 < share < 1
    assert row["reward/format/mean"] == pytest.approx(share)
    assert row["reward/score/mean"] == pytest.approx(row["critic/score/mean"], abs=1e-6)
    assert row["reward/acc/mean"] == 0 and not any("note" in name for name in row)
    validated = read_jsonl(attempt.validation / "0.jsonl")[0]
    sampled = [answered(sample["output"]) for sample in validated]
    first = rows(done.run)[0]
    shares = first["val-aux/countdown/format/mean@4"], first["val-aux/countdown_greedy/format/mean@1"]
    mean = (4 * shares[0] + shares[1]) / 5
    assert mean == pytest.approx(sum(sampled) / len(sampled)), "each problem four times sampled and once greedily"
    # Even if no response of a later validation has the part.
    assert "val-aux/countdown_greedy/format/mean@1" in row and "val-aux/countdown_greedy/score/mean@1" in row
