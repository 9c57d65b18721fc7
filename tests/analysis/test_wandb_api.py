"""Pulling runs from a W&B server: a stand-in on the loopback that the official client accepts too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from analysis.sources.graphql import Server
from analysis.sources.source import parse_filters
from analysis.sources.wandb_api import WandbProject
from experiments.errors import UserError
from tests.analysis.wandb_server import ENTITY, KEY, PROJECT, Fault, ServedRun, WandbServer


def rows(last: int, first: int = 1, **more: Any) -> list[tuple[int, dict[str, Any]]]:
    return [
        (s, {"training/global_step": s, "loss": 1 / s, "_runtime": 2.0 * s, **more}) for s in range(first, last + 1)
    ]


def project(server: WandbServer, cache: Path, *filters: str, **patience: Any) -> WandbProject:
    patience = {"timeout": 5.0, "first_wait": 0.01, **patience}
    return WandbProject(ENTITY, PROJECT, parse_filters(filters), cache, Server(server.url, KEY, **patience))


def test_every_row_of_every_page_is_had_and_agrees_with_the_official_client(tmp_path: Path) -> None:
    deep = {"trainer": {"total_training_steps": 1500}, "data": {"seed": 3}, "list": [1, 2]}
    runs = [
        ServedRun("aaaa", rows(1500, nan=float("nan"), inf=float("-inf"), text="word"), config=deep, name="first"),
        ServedRun("bbbb", rows(7), state="running", tags=("x", "y"), group="g"),
        ServedRun("cccc", []),
    ]
    script = f"""
import json, wandb
api = wandb.Api(overrides={{"base_url": %r, "entity": {ENTITY!r}}}, api_key={KEY!r}, timeout=20)
runs = api.runs("{ENTITY}/{PROJECT}", per_page=200, lazy=False)
print(json.dumps({{r.id: [r.config, list(r.scan_history(page_size=1000, use_cache=False))] for r in runs}}))
"""
    with WandbServer(runs) as server:
        records, warnings = project(server, tmp_path).read()
        environment = {**os.environ, "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(tmp_path)}
        command = [sys.executable, "-c", script % server.url]
        done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=100)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert warnings == []
    assert [record.name for record in records] == ["bbbb", "cccc", "first-aaaa"]
    assert [record.state for record in records] == ["running", "finished", "finished"]
    by_id = {record.name[-4:]: record for record in records}
    for run_id, (config, history) in theirs.items():
        ours = by_id[run_id].history
        assert [step for step in ours.rows] == [row["_step"] for row in history]
        assert ours.curve("loss") == [(row["_step"], row["loss"]) for row in history]
        assert all(by_id[run_id].config[key] == value for key, value in config.items() if not isinstance(value, dict))
    assert by_id["aaaa"].config["seed"] == 3 and by_id["aaaa"].config["trainer.total_training_steps"] == 1500
    assert set(by_id["aaaa"].history.rows[9]) == {"training/global_step", "loss", "nan", "inf"}
    assert (by_id["bbbb"].tags, by_id["bbbb"].group) == (("x", "y"), "g")


def test_a_second_pull_asks_only_what_changed(tmp_path: Path) -> None:
    runs = [ServedRun(f"run{i}", rows(20)) for i in range(3)]
    runs.append(ServedRun("live", rows(10), state="running"))
    with WandbServer(runs) as server:
        first, _ = project(server, tmp_path).read()
        server.operations.clear()
        assert project(server, tmp_path).read()[0] == first
        assert server.operations == ["Runs"]

        runs[-1].rows += [(11, {"training/global_step": 11, "loss": 5.0}), (12, {"loss": 6.0})]
        runs[-1].rows[9] = (10, {"training/global_step": 10, "loss": 0.1, "late": 9.0})  # the last row was half written
        runs[0].rows, runs[0].created = rows(5), 1.8e9  # the id was used anew
        server.variables.clear()
        records = {record.name: record for record in project(server, tmp_path).read()[0]}
    asked = {v["run"]: v["minStep"] for operation, v in server.variables if operation == "HistoryPage"}
    assert asked == {"live": 10, "run0": 0}
    assert list(records["live"].history.rows) == list(range(1, 13))
    assert records["live"].history.rows[10]["late"] == 9.0 and records["live"].history.rows[12] == {"loss": 6.0}
    assert records["run0"].history.last_step() == 5


def test_a_damaged_cache_or_none_is_no_hindrance(tmp_path: Path) -> None:
    with WandbServer([ServedRun("aaaa", rows(5))]) as server:
        whole = project(server, tmp_path).read()
        (file,) = tmp_path.rglob("*.parquet")
        for content in (b"", b"PAR1 and nonsense", file.read_bytes()[:-20]):
            file.write_bytes(content)
            assert project(server, tmp_path).read() == whole
        (tmp_path / "file").write_text("")
        assert project(server, tmp_path / "file").read() == whole


def test_filters_on_tags_and_group_are_the_servers_and_pages_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.sources.wandb_api.RUNS_A_PAGE", 2)
    runs = [ServedRun(f"run{i}", rows(2), tags=("odd",) if i % 2 else (), group=f"g{i // 4}") for i in range(7)]
    with WandbServer(runs) as server:
        assert len(project(server, tmp_path).read()[0]) == 7
        assert server.operations.count("Runs") == 4
        names = [record.name for record in project(server, tmp_path, "tags=odd", "group=g0").read()[0]]
        assert names == ["run1", "run3"]
        with pytest.raises(UserError, match=r"no runs found: lab/abl on http://.* has none with .*nothing"):
            project(server, tmp_path, "tags=nothing").read()


def test_passing_faults_are_ridden_out(tmp_path: Path) -> None:
    faults = [Fault("Runs", 502), Fault("HistoryPage", 429, 2), Fault("HistoryPage", 0)]
    with WandbServer([ServedRun("aaaa", rows(5))], faults=faults) as server:
        ((record,), warnings) = project(server, tmp_path, attempts=5).read()
    assert record.history.last_step() == 5 and warnings == []
    assert Counter(server.operations) == {"Runs": 2, "HistoryPage": 4}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("Runs", 401, 99), r"must accept the W&B key, but answers 401; set WANDB_API_KEY, or run: wandb login"),
        (Fault("Runs", 429, 99), r"must answer, but answers 429, asked up to 3 times; try again later"),
        (Fault("Runs", 500, 99), r"must answer, but answers 500"),
        (Fault("Runs", 0, 99), r"must answer, but fails \("),
        (Fault("Runs", 200, 99, delay=0.7), r"must answer, but fails \(.*timed out"),
        (Fault("Runs", 404, 99), r"must answer, but answers 404"),
        (Fault("Runs", 200, 99), r"must answer with data, but says: injected 200"),
        (Fault("Runs", 307, 99), r"must answer, but answers 307"),
    ],
)
def test_a_server_that_does_not_answer_gets_one_message_in_bounded_time(
    tmp_path: Path, fault: Fault, message: str
) -> None:
    with WandbServer([ServedRun("aaaa", rows(5))], faults=[fault]) as server:
        began = time.monotonic()
        with pytest.raises(UserError, match=message) as raised:
            project(server, tmp_path, timeout=0.3, attempts=3).read()
        assert time.monotonic() - began < 30  # a hang, not a speed
    assert KEY not in str(raised.value) and KEY not in repr(project(server, tmp_path).server)


def test_a_run_that_cannot_be_had_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    runs = [ServedRun("aaaa", rows(5)), ServedRun("bbbb", rows(5))]
    with WandbServer(runs) as server:
        project(server, tmp_path).read()
        runs[1].rows += rows(8, first=6)
        server.faults = [Fault("HistoryPage", 500, 99)]
        records, (warning,) = project(server, tmp_path, attempts=2).read()
        assert [record.history.last_step() for record in records] == [5, 5]
        assert warning.startswith("bbbb: ") and warning.endswith(
            "answers 500, asked up to 2 times; try again later; drawn as last seen"
        )
    with WandbServer([*runs, ServedRun("cccc", rows(9), hidden=2)]) as server:
        records, (warning,) = project(server, tmp_path / "other").read()
    assert [record.name for record in records] == ["aaaa", "bbbb"]
    assert "cccc: " in warning and "must send rows to step 9, but the last one is 7; left out" in warning


def test_an_unknown_project_and_a_key_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer([]) as server:
        with pytest.raises(UserError, match=r"lab/nope must be a project on http"):
            WandbProject("lab", "nope", (), tmp_path, Server(server.url, KEY)).read()
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        netrc = tmp_path / "netrc"
        monkeypatch.setenv("NETRC", str(netrc))
        with pytest.raises(UserError, match=r"a key must be known for http.*; set WANDB_API_KEY, or run: wandb login"):
            WandbProject.parse("wandb://lab/abl").read()
        netrc.write_text(f"machine {server.url.removeprefix('http://')} login user password {KEY}\n")
        with pytest.raises(UserError, match=r"no runs found: lab/abl"):
            WandbProject.parse("wandb://lab/abl").read()
    for spec in ("wandb://lab", "wandb://lab/abl/run", "wandb://"):
        with pytest.raises(UserError, match=r"--source must be wandb://ENTITY/PROJECT, but is wandb://"):
            WandbProject.parse(spec)
