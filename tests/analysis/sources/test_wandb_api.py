"""Pulling runs from a W&B server: a stand-in on the loopback that the official client accepts too."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from analysis.plot_ablation import main
from analysis.sources.filters import parse_filters
from analysis.sources.graphql import Server
from analysis.sources.wandb_api import WandbProject
from experiments.errors import UserError
from tests.analysis.wandb_server import (
    DRIP,
    ENTITY,
    HANG_UP,
    KEY,
    NONSENSE,
    PROJECT,
    TORN,
    Fault,
    ServedRun,
    WandbServer,
)


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
        ServedRun("dddd", rows(1200, odd=float("nan")), exported=1200),
        ServedRun("eeee", [*rows(600), *rows(900, 601, late=1.0)], exported=700),
    ]
    script = f"""
import json, wandb
api = wandb.Api(overrides={{"base_url": %r, "entity": {ENTITY!r}}}, api_key={KEY!r}, timeout=20)
runs = api.runs("{ENTITY}/{PROJECT}", per_page=200, lazy=False)
print(json.dumps({{r.id: [r.config, list(r.scan_history(page_size=1000, use_cache=False))] for r in runs}}))
"""
    with WandbServer(runs) as server:
        records, warnings = project(server, tmp_path).read()
        environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
        environment |= {"WANDB_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", script % server.url]
        done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=100)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert warnings == []
    assert [record.name for record in records] == ["bbbb", "cccc", "dddd", "eeee", "first-aaaa"]
    assert [record.state for record in records] == ["running", *["finished"] * 4]
    by_id = {record.name[-4:]: record for record in records}
    for run_id, (config, history) in theirs.items():
        ours = by_id[run_id].history
        assert [step for step in ours.rows] == [row["_step"] for row in history]
        assert ours.curve("loss") == [(row["_step"], row["loss"]) for row in history]
        assert all(by_id[run_id].config[key] == value for key, value in config.items() if not isinstance(value, dict))
    assert by_id["aaaa"].config["seed"] == 3 and by_id["aaaa"].config["trainer.total_training_steps"] == 1500
    assert set(by_id["aaaa"].history.rows[9]) == {"training/global_step", "loss", "nan", "inf"}
    assert math.isnan(by_id["dddd"].history.rows[1200]["odd"])
    assert [step for step, _ in by_id["eeee"].history.curve("late")] == list(range(601, 901))
    assert (by_id["bbbb"].tags, by_id["bbbb"].group) == (("x", "y"), "g")


def test_an_export_that_is_none_leaves_the_run_out_and_is_told(tmp_path: Path) -> None:
    runs = [ServedRun("aaaa", rows(50), exported=30), ServedRun("bbbb", rows(9))]
    with WandbServer(runs) as server:
        for broken in (b"PAR1 and nonsense", b"x"):
            server.broken = broken
            records, warnings = project(server, tmp_path).read()
            assert [record.name for record in records] == ["bbbb"]
            assert warnings == [
                f"aaaa: {server.url} must export rows as W&B does, but the file that it names has none; left out"
            ]
        server.broken = b""
        server.storage = server.url.replace("127.0.0.1", "localhost")  # it would refuse a request with the key
        records, warnings = project(server, tmp_path).read()
        assert [len(record.history.rows) for record in records] == [50, 9] and warnings == []
        server.operations.clear()
        assert project(server, tmp_path).read()[0] == records and server.operations == ["Runs"]


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


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """asked(server, *arguments) runs the command on the server's project with little patience; (exit code, stderr)."""

    def ask(server: WandbServer, *arguments: str) -> tuple[int, str]:
        impatient = Server(server.url, KEY, timeout=2.0, patience=0.6, attempts=3, first_wait=0.01)
        monkeypatch.setattr("analysis.sources.wandb_api.find_server", lambda: impatient)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        code = main(["--source", f"wandb://{ENTITY}/{PROJECT}", "--out", str(tmp_path / "figures"), *arguments])
        return code, capsys.readouterr().err

    return ask


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("Runs", 401, 99), "must accept the W&B key, but answers 401"),
        (Fault("Runs", DRIP, 99), "must answer, but fails (no whole answer in 0.6 s)"),
        (Fault("Runs", NONSENSE, 99), "must answer, but fails (nonsense"),
        (Fault("Runs", TORN, 99), "must answer, but fails (IncompleteRead"),
        (Fault("Runs", HANG_UP, 99), "must answer, but fails ("),
        (Fault("Runs", 200, 99, body="<html>"), "must answer, but fails ("),
        (Fault("Runs", 200, 99, body='{"data": {}}'), "must list runs as W&B does, but sends something else"),
        (Fault("Runs", 200, 99, body='{"data": {"project": {"runs": []}}}'), "must list runs as W&B does"),
        (Fault("HistoryPage", 429, 9999), "no runs found: 40 are listed, but http"),
        (Fault("HistoryPage", DRIP, 9999), "no runs found: 40 are listed, but http"),
        (Fault("HistoryPage", 200, 9999, body='{"data": {}}'), "must send rows as W&B does, but sends something else"),
        (Fault("HistoryPage", 200, 9999, body='{"data": {"project": {"run": {"history": ["3"]}}}}'), "something else"),
    ],
)
def test_the_command_says_once_what_is_wrong_with_a_server(asked: Any, fault: Fault, message: str) -> None:
    with WandbServer([ServedRun(f"run{i:02}", rows(5)) for i in range(40)], faults=[fault]) as server:
        code, error = asked(server)
        assert code == 2 and error.count("\n") == 1 and message in error and error.startswith("error: ")
        assert "Traceback" not in error and KEY not in error
        assert server.operations.count("HistoryPage") <= 3 * 24, "it is not asked for every run for ever"


def test_the_command_draws_what_it_has_and_names_a_silent_server_once(asked: Any) -> None:
    with WandbServer([ServedRun(f"run{i:02}", rows(5)) for i in range(20)]) as server:
        assert asked(server)[0] == 0
        for run in server.runs:
            run.rows += rows(8, first=6)
        server.faults = [Fault("HistoryPage", 429, 9999)]
        code, error = asked(server)
    assert code == 0 and error.count("\n") == 1
    assert error.startswith("warning: run00, run01, run02 and 17 more runs: http") and "drawn as last seen" in error


@pytest.mark.parametrize("url", ["http://[::1", "http://host:abc", "ftp://host", "nonsense", "http:", "http://a..b"])
def test_an_address_that_is_none_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main(["--source", "wandb://lab/abl"]) == 2
    assert capsys.readouterr().err.startswith(f"error: WANDB_BASE_URL must be the URL of a W&B server, but is {url!r}")


def test_only_the_rows_of_runs_that_were_asked_for_are_pulled(asked: Any, tmp_path: Path) -> None:
    configs = [
        {"actor_rollout_ref": {"rollout": {"temperature": t}}, "trainer": {"total_training_steps": 5}} for t in (1, 2)
    ]
    runs = [ServedRun(f"run{i}", rows(5), config=configs[i % 2], tags=("x",) if i < 3 else ()) for i in range(8)]
    runs[6].state = runs[7].state = "crashed"
    runs[7].rows = rows(3)
    for arguments, names in (
        (["--filter", "rollout.temperature=2"], ["run1", "run3", "run5", "run7"]),
        (["--filter", "tags=x", "--filter", "rollout.temperature!=2"], ["run0", "run2"]),
        (["--filter", "state=killed"], ["run7"]),
        (["run4"], ["run4"]),
    ):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with WandbServer(runs) as server:
            assert asked(server, *arguments) == (0, "")
            assert sorted(v["run"] for operation, v in server.variables if operation == "HistoryPage") == names
    with WandbServer(runs) as server:
        code, error = asked(server, "--filter", "rollout.temperature=3")
        assert code == 2 and "but none of 8 does; rollout.temperature is 1, 2" in error
        assert "HistoryPage" not in server.operations


def test_rows_far_apart_and_rows_in_a_heap_are_all_had_in_few_requests(tmp_path: Path) -> None:
    sparse = [(s * 1000, {"loss": float(s)}) for s in range(400)]
    heap = [(s, {"loss": float(s)}) for s in range(1500)] + [(90_000, {"loss": 9.0})]
    with WandbServer([ServedRun("heap", heap), ServedRun("sparse", sparse)]) as server:
        (first, second), warnings = project(server, tmp_path).read()
        asked = Counter(v["run"] for operation, v in server.variables if operation == "HistoryPage")
    assert warnings == [] and asked["sparse"] == 1
    assert first.history.curve("loss") == [(s, row["loss"]) for s, row in heap]
    assert second.history.curve("loss") == [(s, row["loss"]) for s, row in sparse]


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


def test_rows_that_the_server_lists_but_does_not_send_are_told(tmp_path: Path) -> None:
    """The last step is there, so only the number of rows tells; what was sent is drawn, and asked for again."""
    with WandbServer([ServedRun("aaaa", rows(1000), withheld=(101, 901)), ServedRun("bbbb", rows(9))]) as server:
        records, warnings = project(server, tmp_path).read()
        assert [len(record.history.rows) for record in records] == [200, 9]
        assert len(warnings) == 1 and "aaaa" in warnings[0] and "lists 1000 rows, but sends 200" in warnings[0]
        server.runs[0].withheld = (0, 0)
        records, warnings = project(server, tmp_path).read()
        assert [len(record.history.rows) for record in records] == [1000, 9] and warnings == []


def test_a_limit_of_requests_is_waited_for_and_the_wait_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [ServedRun(f"run{number:02}", rows(9)) for number in range(12)]
    with WandbServer(runs) as server:
        server.limit = (5, 1.5)
        records, warnings = project(server, tmp_path, attempts=2, patience=5.0).read()
    assert len(records) == 12 and warnings == []
    told = capsys.readouterr().err
    assert f"{server.url} limits requests: going on in" in told and len(told.splitlines()) <= 6


@pytest.mark.parametrize(
    ("spec", "entity", "name", "wanted", "url"),
    [
        ("wandb://lab/my project", "lab", "my project", (), ""),
        ("wandb://lab/my%20project/", "lab", "my project", (), ""),
        ("https://wandb.ai/lab/abl?nw=nwuserlab", "lab", "abl", (), ""),
        ("https://wandb.ai/lab/abl/workspace", "lab", "abl", (), ""),
        ("https://wandb.ai/lab/abl/runs/1a2b3c4d/overview", "lab", "abl", ("1a2b3c4d",), ""),
        ("wandb.ai/lab/abl", "lab", "abl", (), ""),
        ("https://wandb.example.org:8080/lab/abl", "lab", "abl", (), "https://wandb.example.org:8080"),
    ],
)
def test_projects_are_named_as_users_paste_them(spec: str, entity: str, name: str, wanted: Any, url: str) -> None:
    from analysis.sources.open import is_project

    assert is_project(spec)
    found = WandbProject.parse(spec)
    assert (found.entity, found.project, found.wanted, found.url) == (entity, name, wanted, url)
    for wrong in ("wandb://lab", "wandb://lab/abl/more", "https://wandb.ai/lab"):
        with pytest.raises(UserError, match="--source must be wandb://ENTITY/PROJECT, but is "):
            WandbProject.parse(wrong)


def test_the_host_that_wandb_login_saved_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.sources.graphql import find_server

    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_server().url == "https://api.wandb.ai"
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org/\n")
    assert find_server().url == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert find_server().url == "https://other.example.org"
    assert find_server("https://pasted.example.org").url == "https://pasted.example.org"


def test_the_folder_of_an_online_run_is_read_as_wandbs(tmp_path: Path) -> None:
    from analysis.sources.open import open_source
    from tests.analysis.wandb_format import write_log

    folder = tmp_path / "wandb" / "run-20260101_000000-abcd"
    write_log(folder / "run-abcd.wandb", rows(5), config={"trainer": {"total_training_steps": 5}})
    (folder / "files").mkdir()
    (folder / "files" / "config.yaml").write_text("wandb_version: 1\n")
    (tmp_path / "wandb" / "latest-run").symlink_to(folder)
    for spec in (folder, tmp_path / "wandb" / "latest-run", tmp_path / "wandb"):
        records, warnings = open_source(str(spec)).read()
        assert [record.progress() for record in records] == ["finished at step 5 of 5"] and warnings == []
