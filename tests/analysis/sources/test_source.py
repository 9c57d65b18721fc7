"""The same run reads the same from its folder, from its `.wandb` files and from a W&B server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.design.ablations import find_ablations
from analysis.plot_ablation import main
from analysis.records.curves import read_curves
from analysis.records.history import Row
from analysis.records.record import RunRecord
from analysis.sources.filters import parse_filters
from analysis.sources.graphql import Server
from analysis.sources.open import open_source
from analysis.sources.run_folders import RunFolders
from analysis.sources.verl_config import with_knobs
from analysis.sources.wandb_api import WandbProject
from analysis.sources.wandb_files import WandbFiles
from experiments.errors import UserError
from tests.analysis.wandb_format import write_log
from tests.analysis.wandb_server import ENTITY, KEY, PROJECT, ServedRun, WandbServer

MakeRun = Callable[..., Path]


def verl_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return what veRL hands to W&B: its own keys, none of ours."""
    return {key: config[key] for key in ("algorithm", "actor_rollout_ref", "data", "trainer")}


def as_wandb_files(path: Path, folder: Path) -> tuple[dict[str, Any], list[list[Row]]]:
    """Write a run folder's attempts as offline W&B runs; return (its config, the attempts' rows)."""
    import json

    import yaml

    config = verl_part(yaml.safe_load((path / "config.yaml").read_text()))
    attempts = []
    for number, file in enumerate(sorted(path.glob("attempts/*/metrics.jsonl")), 1):
        rows = [(line["step"], line["data"]) for line in map(json.loads, file.read_text().splitlines())]
        attempts.append(rows)
        target = folder / f"offline-run-{number}" / f"run-{path.name[-4:]}.wandb"
        logged = [(step, {**row, "_runtime": 1.0, "_timestamp": 2.0}) for step, row in rows]
        write_log(target, logged, config=config, name=path.name, start=1_700_000_000 + number)
    return config, attempts


def test_the_same_numbers_from_each_source(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    served, offline = [], tmp_path / "wandb"
    for temperature, legs in ((0.6, None), (1.0, ((1, 37), (31, 60)))):
        path = make(temperature=temperature, legs=legs)
        config, attempts = as_wandb_files(path, offline / f"{temperature}")
        joined: dict[int, dict[str, float]] = {}
        for rows in attempts:  # a resumed online run: the server joins what each leg sends of a step
            for step, row in rows:
                joined.setdefault(step, {}).update(row)
        served.append(ServedRun(path.name[-4:], sorted(joined.items()), config, name=path.name))
    (offline / "latest-run").symlink_to(offline / "0.6")
    with WandbServer(served) as server:
        api = WandbProject(ENTITY, PROJECT, (), tmp_path / "cache", Server(server.url, KEY))
        answers = [source.read() for source in (RunFolders(runs), WandbFiles(offline), api)]
    assert [warnings for _, warnings in answers] == [[], [], []]
    folders, files, pulled = (records for records, _ in answers)
    assert [record.attempts for record in folders] == [record.attempts for record in files] == [1, 2]
    for ours, *others in zip(folders, files, pulled, strict=True):
        for other in others:
            assert other.name == ours.name
            assert other.history.rows == ours.history.rows
            assert (other.state, other.planned_steps, other.seed) == (ours.state, ours.planned_steps, ours.seed)
            assert read_curves(other) == read_curves(ours)
    for records in (folders, files, pulled):
        (ablation,) = find_ablations(records)
        assert [arm.label for arm in ablation.arms] == ["temperature=0.6", "temperature=1.0"]


def test_what_a_killed_writer_left_is_read_and_told(tmp_path: Path) -> None:
    rows: list[Row] = [(s, {"training/global_step": s, "loss": 1 / s}) for s in range(1, 30)]
    path = write_log(
        tmp_path / "a" / "run-kill.wandb", rows, code=None, config={"trainer": {"total_training_steps": 60}}
    )
    path.write_bytes(path.read_bytes()[:-7])
    write_log(tmp_path / "b" / "run-done.wandb", rows, config={"trainer": {"total_training_steps": 29}})
    write_log(tmp_path / "c" / "run-fail.wandb", rows[:9], code=1)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run-none.wandb").write_text("nothing of the kind")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "run-void.wandb").write_bytes(b"")
    records, warnings = WandbFiles(tmp_path).read()
    states = {record.name: record.progress() for record in records}
    assert states == {
        "done": "finished at step 29 of 29",
        "fail": "failed at step 9",
        "kill": "killed at step 28 of 60",
    }
    assert [warning.partition("/run-")[2] for warning in warnings] == [
        "kill.wandb: the file ends within a record; 29 records are sound",
        f"none.wandb: left out, {tmp_path}/d/run-none.wandb must begin as a .wandb file does, but does not",
        "void.wandb: left out, no record in it is whole",
    ]


@pytest.mark.parametrize(
    ("config", "kl"),
    [
        ({"actor_rollout_ref.actor.use_kl_loss": True, "actor_rollout_ref.actor.kl_loss_coef": 0.01}, 0.01),
        (
            {
                "actor_rollout_ref.actor.use_kl_loss": False,
                "algorithm.use_kl_in_reward": True,
                "algorithm.kl_ctrl.kl_coef": 0.001,
            },
            0.001,
        ),
        ({"actor_rollout_ref.actor.use_kl_loss": False, "algorithm.use_kl_in_reward": False}, 0.0),
        ({"actor_rollout_ref.actor.use_kl_loss": False, "algorithm.kl_ctrl.kl_coef": 0.001}, 0.001),
        ({}, None),
    ],
)
def test_the_kl_coefficient_of_a_plain_verl_config(config: dict[str, Any], kl: float | None) -> None:
    assert with_knobs(config).get("kl.coef") == kl


def test_our_own_knobs_are_left_as_they_are() -> None:
    config = {"rollout.temperature": 0.6, "actor_rollout_ref.rollout.temperature": 1.0, "seed": 1, "data.seed": 2}
    assert with_knobs(config) == config


def test_filters_choose_runs(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6, steps=5)
    make(temperature=1.0, steps=5, seed=3)
    make(temperature=1.0, steps=5, ending="failed")

    def chosen(*texts: str) -> list[tuple[Any, Any]]:
        records: list[RunRecord] = open_source(str(runs), (), parse_filters(texts)).read()[0]
        return [(record.config["rollout.temperature"], record.state) for record in records]

    assert chosen("rollout.temperature=0.60") == [(0.6, "finished")]
    assert chosen("rollout.temperature!=0.6", "state=fin*") == [(1.0, "finished")]
    assert chosen("name=*seed=3*") == [(1.0, "finished")]
    with pytest.raises(
        UserError, match=r"must satisfy rollout.temp=1, .*no run has a 'rollout.temp'; nearest: rollout.t"
    ):
        chosen("rollout.temp=1")
    with pytest.raises(UserError, match=r"must satisfy state=done, but none of 3 does; state is failed, finished"):
        chosen("state=done")
    with pytest.raises(UserError, match=r"must be key=value or key!=value, but is 'x'"):
        chosen("x")


def test_the_command_draws_wandb_files(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for temperature in (0.6, 1.0):
        as_wandb_files(make(temperature=temperature), tmp_path / "wandb" / f"{temperature}")
    assert main(["--source", str(tmp_path / "wandb"), "--out", str(tmp_path / "figures")]) == 0
    assert "figure: " in capsys.readouterr().out
    assert (tmp_path / "figures" / "temperature.png").is_file()
    assert main(["--source", str(tmp_path / "wandb"), "--filter", "kl.coef=9"]) == 2
    assert "kl.coef is 0.0" in capsys.readouterr().err
