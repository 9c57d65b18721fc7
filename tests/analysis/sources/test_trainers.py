"""Anybody's runs: TinyZero's ends, runs stopped by hand, other trainers' names, diverged runs, synced legs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from analysis.design.ablations import find_ablations
from analysis.plot_ablation import main
from analysis.records.curves import comparable_curves, read_curves
from analysis.records.history import Row
from analysis.records.record import RunRecord
from analysis.sources.run_folders import RunFolders
from analysis.sources.trainers import read_trainers
from analysis.sources.wandb_files import WandbFiles
from analysis.statistics.summary import summarise
from experiments.errors import UserError
from tests.analysis.wandb_format import write_log

MakeRun = Callable[..., Path]
SCORE = "val/test_score/countdown"


def log(folder: Path, name: str, rows: list[Row], config: Mapping[str, Any], **more: Any) -> None:
    write_log(folder / name / f"run-{name}.wandb", rows, config=dict(config), name=name, **more)


def read(folder: Path) -> dict[str, RunRecord]:
    return {record.name: record for record in WandbFiles(folder).read()[0]}


def tinyzero(last: int, planned: int | None) -> tuple[list[Row], dict[str, Any]]:
    """Return what TinyZero logs: a validation every 10 steps, and one at N, behind the last trained step N - 1."""
    rows: list[Row] = [(0, {SCORE: 0.1})]
    for step in range(1, last):
        row = {"actor/pg_loss": 0.1, "critic/score/mean": 0.2, "critic/score/min": 0.1}
        rows.append((step, row | ({SCORE: 0.1 + step / 200} if step % 10 == 0 else {})))
    if planned:
        rows.append((last, {SCORE: 0.1 + last / 200}))
    return rows, {"trainer": {"total_training_steps": planned}, "data": {"seed": None}}


def test_tinyzeros_runs_are_complete_at_their_last_validation(tmp_path: Path) -> None:
    for n in (3, 5):
        for number in (1, 2):
            rows, config = tinyzero(100, 100)
            config["actor_rollout_ref"] = {"rollout": {"n": n, "temperature": 1.0}}
            log(tmp_path, f"n{n}-{number}", rows, config)
    records = list(read(tmp_path).values())
    assert {record.progress() for record in records} == {"finished at step 100 of 100"}
    assert all(record.complete and record.end == 100 and not record.missing() for record in records)
    (ablation,) = find_ablations(records)
    summary = summarise(ablation, comparable_curves(ablation.runs)[0])
    assert summary.estimand.until == 100 and [len(arm.final) for arm in summary.arms] == [2, 2]
    assert summary.final_steps == "steps 90-100"


def test_a_run_without_an_end_counts_from_the_step_that_the_user_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The article's runs have no number of steps, and were stopped by hand."""
    for n, last in ((3, 85), (5, 92)):
        rows, config = tinyzero(last, None)
        config["actor_rollout_ref"] = {"rollout": {"n": n, "temperature": 1.0}}
        log(tmp_path / "wandb", f"n{n}", rows, config, code=None)
    command = ["--source", str(tmp_path / "wandb"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "0 of 1" in capsys.readouterr().out
    assert main([*command, "--complete-from", "80"]) == 0
    page = (tmp_path / "out" / "rollout_n.md").read_text()
    assert "| n = 3 | 1 of 1 |" in page and "| n = 5 | 1 of 1 |" in page


def others(trainer: str, step: int) -> dict[str, float]:
    value = step / 100
    return {
        "trl": {
            "train/global_step": step,
            "train/reward": value,
            "train/loss": 0.1,
            "train/completions/mean_length": 50.0,
        },
        "openrlhf": {
            "train/global_step": step,
            "train/reward": value,
            "train/policy_loss": 0.1,
            "train/response_length": 50.0,
        },
        "prime-rl": {
            "step": step,
            "reward/all/mean": value,
            "decode_len/all/mean": 50.0,
            "seq_len/all/mean": 90.0,  # prompts included
            "time/step": 3.0,
        },
    }[trainer]


EVALUATED = {
    "trl": {"eval/reward": 0.3},
    "openrlhf": {"eval/gsm8k_pass1": 0.3, "eval/gsm8k_pass4": 0.9, "eval/epoch": 0.0},
    "prime-rl": {"eval/gsm8k/avg@4": 0.3, "eval/gsm8k/pass@4": 0.9},
}


@pytest.mark.parametrize("trainer", EVALUATED)
def test_other_trainers_steps_metrics_and_arms_are_read(trainer: str, tmp_path: Path) -> None:
    """W&B counts log calls, two to a step here; the trainer's own step decides. Two betas are two arms."""
    for beta in (0.0, 0.04):
        for seed in (1, 2):
            rows: list[Row] = []
            for step in range(10, 50, 10):
                rows += [(len(rows), others(trainer, step))]
                key = next(name for name in others(trainer, step) if name.endswith("step"))
                rows += [(len(rows), {**EVALUATED[trainer], key: step})]
            log(tmp_path, f"b{beta}-{seed}", rows, {"beta": beta, "trainer": {"seed": seed}, "max_steps": 40})
    records = list(read(tmp_path).values())
    assert {record.progress() for record in records} == {"finished at step 40 of 40"}
    assert {record.seed for record in records} == {1, 2} and not any(record.missing() for record in records)
    (ablation,) = find_ablations(records)
    assert [(arm.label, len(arm.runs)) for arm in ablation.arms] == [("beta=0.0", 2), ("beta=0.04", 2)]
    curves = read_curves(records[0])
    assert curves["reward"] == [(step, step / 100) for step in (10, 20, 30, 40)]
    assert curves["length"] == [(step, 50.0) for step in (10, 20, 30, 40)]
    validation = curves["greedy"] or curves["sampled"]
    assert validation == [(step, 0.3) for step in (10, 20, 30, 40)]


def test_a_users_own_names_go_into_a_file_and_a_run_without_known_steps_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in (1, 2):
        rows: list[Row] = [(2 * step, {"my/iter": step, "my/return": step / 10}) for step in range(1, 9)]
        log(tmp_path / "wandb", f"r{rate}", rows, {"rate": rate})
    command = ["--source", str(tmp_path / "wandb"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    complaint = capsys.readouterr().err
    assert len(complaint.splitlines()) == 1
    assert "none does; they have my/iter, my/return; name their steps in a file, --trainers FILE" in complaint
    names = tmp_path / "mine.yaml"
    names.write_text("steps: [my/iter]\ntrained: [my/return]\nmetrics: {critic/score/mean: [my/return]}\n")
    assert main([*command, "--trainers", str(names)]) == 0
    rows_ = (tmp_path / "out" / "rate.csv").read_text()
    assert "reward,critic/score/mean,8,8,0.8" in rows_
    for wrong in ("- a\n", "nonsense: [a]\n", "steps: my/iter\n", "metrics: [a]\n", "steps: [1\n"):
        names.write_text(wrong)
        read_trainers.cache_clear()
        with pytest.raises(UserError, match=r"--trainers must be a YAML file in the form of trainers.yaml"):
            read_trainers(names)


def test_a_diverged_run_is_no_finished_one(make: MakeRun, runs: Path) -> None:
    from tests.analysis.conftest import made_up_rows

    rows = made_up_rows(1, 0.6, 1, 60)
    broken = [
        (step, {k: math.nan if step > 30 and k != "training/global_step" else v for k, v in r.items()})
        for step, r in rows
    ]
    make(temperature=0.6, seed=1, attempts=[broken])
    make(temperature=0.6, seed=2)
    make(temperature=1.0, seed=1)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    first, second = ablation.arms[0].runs
    assert first.progress() == "diverged at step 31 of 60" and not first.complete and second.complete
    summary = summarise(ablation, comparable_curves(ablation.runs)[0])
    assert summary.rows()[1][1] == "1 of 2"
    # A step in the middle whose update was skipped, and a metric that is never a number, are no divergence.
    skipped = [(s, {**r, **({"actor/grad_norm": math.nan} if s == 7 else {}), "odd": math.nan}) for s, r in rows]
    make(temperature=1.0, seed=2, attempts=[skipped])
    records = RunFolders(runs).read()[0]
    assert [record.state for record in records].count("diverged") == 1


def test_legs_that_were_synced_under_one_id_have_the_steps_that_trained_them(tmp_path: Path) -> None:
    """`wandb sync` numbers the second leg on from the first: it resumes at 2, and its trained step 3 gets number 5."""

    def row(step: int) -> dict[str, float]:
        return {"training/global_step": step, "loss": step / 10}

    first: list[Row] = [(0, {"val": 0.1}), (1, row(1)), (2, row(2)), (3, {**row(3), "loss": 9.0})]
    second: list[Row] = [(4, {"val": 0.2}), (5, row(3)), (6, row(4)), (7, {**row(5), "val": 0.5})]
    log(tmp_path, "both", [*first, *second], {"trainer": {"total_training_steps": 5}})
    (record,) = read(tmp_path).values()
    assert record.history.curve("loss") == [(step, step / 10) for step in range(1, 6)]
    assert record.history.curve("val") == [(0, 0.1), (2, 0.2), (5, 0.5)]
    assert (record.progress(), record.history.redone, record.attempts) == ("finished at step 5 of 5", 1, 2)
